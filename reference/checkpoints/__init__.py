"""Weights and runs on disk, ours and Hugging Face's."""
