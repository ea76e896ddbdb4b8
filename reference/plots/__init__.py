"""Loss curves and pictures of what a model computes."""
