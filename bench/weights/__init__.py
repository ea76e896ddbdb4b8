"""Whose layout do some tensors have, and do two checkpoints hold the same weights?"""
