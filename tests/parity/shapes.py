"""Small awkward shapes that show bugs which one head, an even width or T = block_size would hide."""

from reference import GPTConfig

SHAPES = {
    "usual": GPTConfig(block_size=80, vocab_size=101, n_layer=3, n_head=4, n_embd=48),
    "one-head": GPTConfig(block_size=80, vocab_size=67, n_layer=2, n_head=1, n_embd=24),
    "many-heads": GPTConfig(block_size=80, vocab_size=53, n_layer=2, n_head=15, n_embd=45),
    "one-layer": GPTConfig(block_size=80, vocab_size=2, n_layer=1, n_head=2, n_embd=10),
    "no-bias": GPTConfig(block_size=80, vocab_size=97, n_layer=3, n_head=3, n_embd=36, bias=False),
    "deep": GPTConfig(block_size=80, vocab_size=31, n_layer=7, n_head=2, n_embd=16),
}
LENGTHS = (1, 7, 63, 64, 80)  # 80 is the full block
