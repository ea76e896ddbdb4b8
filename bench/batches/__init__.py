"""Test a user's data loader: is each target the next token, once per epoch, whatever the seed, rank or start?"""
