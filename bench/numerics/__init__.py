"""How far apart two models are, and how far is allowed."""
