"""The GPT-2 of my_gpt.py with two mistakes: scores divided by the root of the embedding's width, and an eps of 1e-6.

    python -m bench compare --candidate examples/two_mistakes.py:build

The report names both: the search puts the first that it finds into the reference and goes on.
"""

import my_gpt
from torch import nn
from torch.nn import functional as F


class Attention(my_gpt.Attention):
    """Attention with another scale."""

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=C**-0.5)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


def build(config):
    """The model of my_gpt.py with this attention and this eps."""
    model = my_gpt.GPT(config)
    for block in model.transformer["h"]:
        block.attn = Attention(config)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return model
