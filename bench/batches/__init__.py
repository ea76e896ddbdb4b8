"""Tests a data loader of a user's: are its batches the next-token batches of the text, each target once?"""
