"""Time processes in turn; give ratios with their confidence."""
