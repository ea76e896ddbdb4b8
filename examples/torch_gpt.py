"""A correct GPT-2 of torch's own encoder layers, with a constructor of its own: no build(config), no known names.

python -m bench compare --template examples/torch_gpt.py:TorchGPT --out wrapper.py
python -m bench compare --candidate wrapper.py:build
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TorchGPT(nn.Module):
    """Pre-norm encoder layers under a causal mask are GPT-2's blocks."""

    def __init__(self, vocab_size, d_model, nhead, num_layers, max_len, dropout=0.1):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Parameter(torch.zeros(1, max_len, d_model))
        self.drop = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            d_model, nhead, 4 * d_model, dropout, activation=gelu, batch_first=True, norm_first=True
        )
        layer.dropout = nn.Identity()  # GPT-2 drops nothing between the two layers of its MLP
        self.encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(d_model), enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        T = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T).to(self.pos)
        x = self.encoder(self.drop(self.embed(ids) + self.pos[:, :T]), mask=mask, is_causal=True)
        return x @ self.embed.weight.T


def gelu(x: Tensor) -> Tensor:
    """GPT-2's form."""
    return F.gelu(x, approximate="tanh")
