"""Test a user's text generator against the readable one, and name the mistakes that explain a difference."""
