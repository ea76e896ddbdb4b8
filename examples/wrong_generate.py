"""A text generator with two mistakes: it crops a long text at the wrong end, and top-p drops the token that reaches p.

python -m bench compare --generate examples/wrong_generate.py:generate
"""

import torch


@torch.no_grad()
def generate(model, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None):
    """`model(ids)` returns logits."""
    for _ in range(max_new_tokens):
        logits = model(ids[:, : model.config.block_size])[:, -1]
        if temperature == 0.0:
            new = logits.argmax(dim=-1, keepdim=True)
        else:
            logits = logits / temperature
            if top_k is not None:
                kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                logits = logits.masked_fill(logits < kth, float("-inf"))
            p = logits.softmax(dim=-1)
            if top_p is not None:
                descending, order = p.sort(dim=-1, descending=True)
                dropped = descending.cumsum(dim=-1) > top_p
                dropped[:, 0] = False
                p = p.masked_fill(dropped.scatter(-1, order, dropped), 0.0)
            new = torch.multinomial(p, 1)
        ids = torch.cat([ids, new], dim=1)
    return ids
