"""Whose layout do some tensors have, and are the weights of two checkpoints the same?"""
