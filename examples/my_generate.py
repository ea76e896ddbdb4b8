"""A correct text generator: temperature, top-k, top-p, a cache, left padding.

python -m bench compare --generate examples/my_generate.py:generate
"""

import torch


@torch.no_grad()
def generate(
    model,
    ids,
    max_new_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    generator=None,
    attention_mask=None,
    use_cache=True,
):
    """`model` is called as transformers' GPT-2."""
    block = model.config.block_size
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    past = None
    for _ in range(max_new_tokens):
        if past is not None and ids.shape[1] <= block:
            seen = ids[:, -1:]
        else:  # beyond the block every token has a new position: begin again
            past = None
            seen, mask = ids[:, -block:], mask[:, -block:]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -seen.shape[1] :]
        out = model(seen, past_key_values=past, attention_mask=mask, position_ids=positions, use_cache=use_cache)
        past = out.past_key_values if use_cache else None
        new = draw(out.logits[:, -1], temperature, top_k, top_p, generator)
        ids = torch.cat([ids, new], dim=1)
        mask = torch.cat([mask, torch.ones_like(new)], dim=1)
    return ids


def draw(logits, temperature, top_k, top_p, generator):
    """Logits (B, V) -> ids (B, 1)."""
    if temperature == 0.0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = logits / temperature
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None:
        descending, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        before = descending.cumsum(dim=-1) - descending
        dropped = (before >= top_p).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
