"""Time processes in turn; say how sure the ratio is."""
