"""Defaults of a training step, for every `build_step`, AdamW and `train` in this repository. No torch.

Weight decay, betas and clipping as in GPT-3 (Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix B).
"""

from __future__ import annotations

LEARNING_RATE = 3e-4
WEIGHT_DECAY = 0.1  # decoupled, on matrices and embeddings
BETAS = (0.9, 0.95)  # AdamW's beta1 and beta2
SMALL_RUN_BETAS = (0.9, 0.99)  # of `train`: its small batches give noisy gradients, so beta2 averages over more steps
EPS = 1e-8  # added to the root of AdamW's second moment
CLIP = 1.0  # largest joint L2 norm of the gradients
