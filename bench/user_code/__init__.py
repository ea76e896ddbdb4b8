"""What the tests of a user's code share: to load and call it, to name its mistakes, to write the report."""
