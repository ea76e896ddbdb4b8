"""Measures how far apart models are and how fast they run; what is allowed is judged by the tests."""
