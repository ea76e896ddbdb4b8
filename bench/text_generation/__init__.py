"""Test a user's text generator against the reference, and name the mistakes that explain a difference."""
