"""Test a user's training step against the reference, and name the mistakes that explain a difference."""
