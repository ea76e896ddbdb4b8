"""What is run, and what it costs in FLOPs and bytes."""
