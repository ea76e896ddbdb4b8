"""A GPT-2 that detaches its keys, as code that fills a cache may do, so that they are not trained.

    python -m bench compare --candidate examples/detached_keys.py:build

Logits and loss are right, and it trains, only worse.
"""

import my_gpt
from torch import Tensor
from torch.nn import functional as F


class Attention(my_gpt.Attention):
    """Attention with detached keys."""

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        kept = k.detach()
        y = F.scaled_dot_product_attention(q, kept, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


def build(config):
    """The model of my_gpt.py with this attention."""
    model = my_gpt.GPT(config)
    for block in model.transformer["h"]:
        block.attn = Attention(config)
    return model
