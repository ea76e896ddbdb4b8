"""Test a user's validation loss: is it the mean over all targets, in eval mode?"""
