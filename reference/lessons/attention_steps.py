"""Lesson 7: from an average of the past to attention, one small step at a time.

The bigram model saw one character of the past. Here each position of a sequence learns to gather from all the
positions before it, and each step below gives the same numbers as the one before it:

    1  average_by_loops        each position takes the mean of itself and its past
    2  average_by_matrix       the same as one product with a triangular matrix of shares
    3  average_by_softmax      the same shares as the softmax of scores: 0 for the past, -inf for the future
    4  one_head                the scores come from the content: query times key. With no queries: step 3
    5  one_head, scaled        divided by the root of the head's width, so that the softmax stays soft
    6  heads_by_loop           several heads side by side; with one of them: step 5
    7  heads_at_once           all heads in one batched product: the same as 6, and what a GPT does

One head without the mask sees the whole text (an encoder, which reads); with keys and values from
another sequence it is cross-attention (a translator, which looks at the other language).

    python -m reference.lessons.attention_steps

Shapes: B batch, T time, S time of the sequence that is looked at (T unless it is another one), C width,
H heads, D width of one head. Weight matrices are (in, out): x @ w.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from reference.lessons import command, drawing
from reference.mkl_kernels import choose_kernels

choose_kernels()


def average_by_loops(x: Tensor) -> Tensor:
    """Position t becomes the mean of the positions 0..t: (B, T, C) -> (B, T, C).

    Nothing of a later position enters: when a GPT is trained, the later positions are the answers.
    """
    B, T, _ = x.shape
    averages = torch.zeros_like(x)
    for b in range(B):
        for t in range(T):
            past = x[b, : t + 1]  # (t + 1, C)
            averages[b, t] = past.mean(dim=0)
    return averages


def average_by_matrix(x: Tensor) -> Tensor:
    """The same, as a product with a matrix whose row t holds 1/(t + 1) up to column t and 0 after it.

    A row of a matrix product is a weighted sum of the rows on the right: the loops are inside the product.
    """
    T = x.shape[1]
    shares = torch.ones(T, T, dtype=x.dtype).tril()
    shares = shares / shares.sum(dim=1, keepdim=True)
    return shares @ x  # (T, T) @ (B, T, C) -> (B, T, C), the same shares for each sequence of the batch


def softmax(scores: Tensor) -> Tensor:
    """exp(score) / sum of exp(score) along the last dimension: shares above 0 that sum to 1.

    The largest score of a row is subtracted first. It cancels in the fraction and keeps exp from overflowing.
    A score of -inf gets a share of exactly 0.
    """
    exponents = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return exponents / exponents.sum(dim=-1, keepdim=True)


def hide_future(scores: Tensor) -> Tensor:
    """-inf wherever a position (row) would look at a later one (column): (..., T, T) -> (..., T, T).

    The mask goes in before the softmax. Zeroing shares after it would leave rows that no longer sum to 1, and
    by what is missing a position could tell how loud the future is.
    """
    future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -math.inf)


def average_by_softmax(x: Tensor) -> Tensor:
    """The same average once more: all scores are equal, so the softmax shares equally among what is visible.

    What has changed is that the shares now come from scores, and scores can be learned.
    """
    B, T, _ = x.shape
    scores = torch.zeros(B, T, T, dtype=x.dtype)
    return softmax(hide_future(scores)) @ x


def head_shares(
    x: Tensor,
    w_query: Tensor,
    w_key: Tensor,
    causal: bool = True,
    scaled: bool = False,
    seen: Tensor | None = None,
) -> Tensor:
    """How much each position takes from each other one, by content.

    Each position sends out a query, what it looks for, and a key, what it has to offer. The score of a pair
    is the dot product of the one's query with the other's key: large where they point the same way.

    Args:
        x: (B, T, C), the positions that look
        w_query, w_key: (C, D)
        causal: hide the future, as a GPT must; False for an encoder
        scaled: divide the scores by sqrt(D), see `spread_of_scores`
        seen: (B, S, C), the positions that are looked at; x itself unless given (cross-attention)

    Returns (B, T, S); each row sums to 1. Raises ValueError where a mask makes no sense: `seen` and `causal`.
    """
    if seen is not None and causal:
        raise ValueError("causal attention to another sequence: it has no common past; give causal=False")
    query = x @ w_query  # (B, T, D)
    key = (x if seen is None else seen) @ w_key  # (B, S, D)
    scores = query @ key.transpose(-2, -1)  # (B, T, S)
    if scaled:
        scores = scores / math.sqrt(w_query.shape[1])  # D, the width of the head: not C, the width of x
    return softmax(hide_future(scores) if causal else scores)


def one_head(
    x: Tensor,
    w_query: Tensor,
    w_key: Tensor,
    w_value: Tensor,
    causal: bool = True,
    scaled: bool = False,
    seen: Tensor | None = None,
) -> Tensor:
    """Gather values by `head_shares`: what is passed on is not x but a view of it, the value; (B, T, D).

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1. Arguments as there, and w_value (C, D).
    """
    shares = head_shares(x, w_query, w_key, causal, scaled, seen)  # (B, T, S)
    value = (x if seen is None else seen) @ w_value  # (B, S, D)
    return shares @ value


def spread_of_scores(C: int, D: int, scaled: bool, generator: torch.Generator) -> tuple[float, float]:
    """Why the division by sqrt(D): variance of the scores, and mean of each row's largest share.

    Of D products of independent numbers of variance 1 the sum has variance D. Scores that far apart make the
    softmax give nearly everything to one position, and where it is that sure its gradient is nearly zero, so
    that it cannot learn otherwise. Divided by sqrt(D) the variance is 1 whatever the head's width.
    """
    x = torch.randn(64, 32, C, generator=generator)  # (B, T, C)
    w_query, w_key = (torch.randn(C, D, generator=generator) / math.sqrt(C) for _ in range(2))
    scores = (x @ w_query) @ (x @ w_key).transpose(-2, -1)
    if scaled:
        scores = scores / math.sqrt(D)
    off_diagonal = scores[:, ~torch.eye(32, dtype=torch.bool)]  # a position and itself are not independent
    return float(off_diagonal.var()), float(softmax(scores).amax(dim=-1).mean())


def heads_by_loop(x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor) -> Tensor:
    """Several causal, scaled heads, each with its own weights, their results side by side.

    One head has one set of shares per position; with several, a position can look at its neighbour for one
    reason and at the start of the sentence for another.

    Args:
        x: (B, T, C)
        w_query, w_key, w_value: (H, C, D), one matrix for each head

    Returns (B, T, H * D).
    """
    H = len(w_query)
    heads = [one_head(x, w_query[h], w_key[h], w_value[h], scaled=True) for h in range(H)]
    return torch.cat(heads, dim=-1)


def heads_at_once(x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor) -> Tensor:
    """The same without the loop: one projection for all heads, and heads as one more batch dimension.

    Args:
        x: (B, T, C)
        w_query, w_key, w_value: (C, H * D) seen as (H, C, D), as `heads_by_loop` takes them

    Returns (B, T, H * D). This is the attention of reference/gpt.py.
    """
    B, T, C = x.shape
    H, _, D = w_query.shape

    def project(w: Tensor) -> Tensor:
        side_by_side = w.transpose(0, 1).reshape(C, H * D)  # the heads' columns next to each other
        return (x @ side_by_side).view(B, T, H, D).transpose(1, 2)  # (B, H, T, D)

    query, key, value = project(w_query), project(w_key), project(w_value)
    shares = softmax(hide_future(query @ key.transpose(-2, -1) / math.sqrt(D)))  # (B, H, T, T)
    # Back comes the transpose before the reshape: without it one position's heads end up in different rows.
    return (shares @ value).transpose(1, 2).reshape(B, T, H * D)


def random_weights(C: int, D: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Key, query and value weights for one head, each (C, D), drawn as torch.nn.Linear draws its own.

    That is: uniform between -1/sqrt(C) and 1/sqrt(C), stored (out, in) and therefore turned around here.
    """
    bound = 1.0 / math.sqrt(C)
    drawn = torch.empty(3, D, C).uniform_(-bound, bound, generator=generator)
    w_key, w_query, w_value = drawn.transpose(1, 2)  # each (C, D)
    return w_key, w_query, w_value


def show(rows: Tensor) -> None:
    """Print a small matrix, four digits after the point."""
    for row in rows.tolist():
        print("    " + " ".join(f"{number:8.4f}" for number in row))


def largest_difference(a: Tensor, b: Tensor) -> str:
    """How far apart two results are, to be read by a person."""
    return f"{float((a - b).abs().max()):.1e}"


def main(folder: Path = drawing.FOLDER) -> None:
    """Walk the seven steps, with numbers."""
    generator = torch.Generator().manual_seed(1337)
    x = torch.randn(4, 8, 2, generator=generator)  # (B, T, C)
    print("Eight positions in time, two numbers each; this is the first of four sequences:")
    show(x[0])
    print("\n1. Each position takes the mean of itself and all before it. The first stays as it is:")
    loops = average_by_loops(x)
    show(loops[0])
    print("\n2. As a matrix product. Largest difference from the loops:", end=" ")
    print(largest_difference(average_by_matrix(x), loops))
    print("3. As a softmax of equal scores with the future at -inf:", end=" ")
    print(largest_difference(average_by_softmax(x), loops))

    generator = torch.Generator().manual_seed(1337)
    C, D, H = 32, 16, 2
    x = torch.randn(4, 8, C, generator=generator)
    w_key, w_query, w_value = random_weights(C, D, generator)
    print(f"\n4. One head. Width {C}, and for each position a query and a key of {D} numbers. Row t is what")
    print("   position t takes from each position. They differ now, because the contents do:")
    show(head_shares(x, w_query, w_key)[0])
    print("   With queries of zero nobody prefers anything, and step 3 is back:", end=" ")
    no_preference = one_head(x, torch.zeros_like(w_query), w_key, w_value)
    print(largest_difference(no_preference, average_by_softmax(x) @ w_value))

    print(f"\n5. Such a score is a sum of {D} products. Many of them, from queries and keys of variance 1:")
    for scaled, name in ((False, "as they are"), (True, f"divided by the root of {D}")):
        variance, largest = spread_of_scores(C, D, scaled, torch.Generator().manual_seed(1337))
        print(f"   {name:<25} variance {variance:5.2f}; the favourite gets {largest:.0%} of the attention")
    print("   The same head as in step 4, scaled:")
    show(head_shares(x, w_query, w_key, scaled=True)[0])

    heads = [random_weights(C, D, generator) for _ in range(H)]
    w_keys, w_queries, w_values = (torch.stack(weights) for weights in zip(*heads, strict=True))  # (H, C, D)
    print(f"\n6. {H} heads side by side give {H} x {D} = {H * D} numbers for each position.")
    print("7. All heads in one batched product. Largest difference from one by one:", end=" ")
    by_loop = heads_by_loop(x, w_queries, w_keys, w_values)
    print(largest_difference(heads_at_once(x, w_queries, w_keys, w_values), by_loop))

    other = torch.randn(4, 5, C, generator=generator)  # (B, S, C)
    print("\nWithout the mask, an encoder: the first position sees all of its sequence:")
    show(head_shares(x, w_query, w_key, causal=False, scaled=True)[0, :1])
    print("Looking at another sequence of 5 positions, cross-attention; the first position's shares:")
    show(head_shares(x, w_query, w_key, causal=False, scaled=True, seen=other)[0, :1])
    equal = average_by_softmax(torch.eye(8)[None])[0]  # each position's own vector: what comes out is the shares
    tables = {
        "3 equal shares": equal,
        "4 by content": head_shares(x, w_query, w_key)[0],
        "5 scaled": head_shares(x, w_query, w_key, scaled=True)[0],
        "an encoder": head_shares(x, w_query, w_key, causal=False, scaled=True)[0],
        "another sequence": head_shares(x, w_query, w_key, causal=False, scaled=True, seen=other)[0],
    }
    rows = [
        {"panel": name, "row": str(t), "column": str(s), "share": share}
        for name, shares in tables.items()
        for t, line in enumerate(shares.tolist())
        for s, share in enumerate(line)
    ]
    chart = drawing.tables(rows, "How much each position takes from each", "row: who looks; column: at whom", size=16)
    print(drawing.told(chart, folder / "attention_steps.png", "Shares of the steps"))
    print("\nAttention knows nothing of order, only its mask does: a GPT adds an embedding of the position.")


if __name__ == "__main__":
    command.start("attention_steps", __doc__, main)
