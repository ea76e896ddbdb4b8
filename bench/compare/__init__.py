"""`nox -s compare`: compare the models' outputs, then their speed and memory."""
