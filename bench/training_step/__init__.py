"""Test a user's training step against the readable one, and name the mistakes that explain a difference."""
