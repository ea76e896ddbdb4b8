"""One step, and the loop of steps."""
