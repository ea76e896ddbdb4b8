"""The norm_mlp slot: LayerNorm and GELU written out as in the reference, or each as one library kernel.

Written out, each is a chain of small operations that all read and write the whole residual stream.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from reference.gpt import MLP, LayerNorm

EPS = 1e-5  # GPT-2's


class FusedLayerNorm(LayerNorm):
    """The reference's norm in one kernel, with statistics in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class FusedMLP(MLP):
    """The reference's MLP with its GELU in one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))
