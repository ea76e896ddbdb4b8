"""Tests a user's function that measures the validation loss: is it the mean over all targets, in eval mode?"""
