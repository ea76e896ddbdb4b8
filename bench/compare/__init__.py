"""`nox -s compare`: the models side by side, how far apart they are, then how fast."""
