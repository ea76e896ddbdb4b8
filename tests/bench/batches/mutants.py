"""Right data loaders in several styles, one-line mistakes in two of them, and words of the fault that must be named."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]
EPOCHS = (ROOT / "examples" / "my_batches.py").read_text()

RANDOM = """
import torch

def build_batches(tokens, batch_size, block_size):
    def get_batch():
        starts = torch.randint(len(tokens) - block_size, (batch_size,))
        x = torch.stack([tokens[i : i + block_size] for i in starts])
        y = torch.stack([tokens[i + 1 : i + 1 + block_size] for i in starts])
        return x, y

    return get_batch
"""

IN_ORDER = """
def build_batches(tokens, batch_size, block_size, rank=0, world_size=1):
    size, place = batch_size * block_size, rank * batch_size * block_size
    while place + size * (world_size - rank) + 1 <= len(tokens):
        chunk = tokens[place : place + size + 1]
        yield chunk[:-1].view(batch_size, block_size), chunk[1:].view(batch_size, block_size)
        place += size * world_size
"""

DATASET = """
from torch.utils.data import DataLoader, Dataset

class Windows(Dataset):
    def __init__(self, tokens, block_size):
        self.tokens, self.block_size = tokens, block_size

    def __len__(self):
        return (len(self.tokens) - 1) // self.block_size

    def __getitem__(self, n):
        chunk = self.tokens[n * self.block_size : (n + 1) * self.block_size + 1]
        return chunk[:-1], chunk[1:]

def build_batches(tokens, batch_size, block_size):
    return DataLoader(Windows(tokens, block_size), batch_size, shuffle=True)
"""

RESUMED = """
import torch

def build_batches(tokens, batch_size, block_size, seed=0, start=0):
    step = start
    while True:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        starts = torch.randint(len(tokens) - block_size, (batch_size,), generator=generator)
        index = starts[:, None] + torch.arange(block_size)
        yield tokens[index], tokens[index + 1]
        step += 1
"""

SHARDS = """
def build_batches(tokens, batch_size, block_size, start=0):
    size, per_shard = batch_size * block_size, 6
    shards = tokens[: per_shard * size + 1], tokens[per_shard * size :]
    number, place = divmod(start % (2 * per_shard), per_shard)
    while True:
        while (place + 1) * size + 1 <= len(shards[number]):
            chunk = shards[number][place * size : (place + 1) * size + 1]
            yield chunk[:-1].view(batch_size, block_size), chunk[1:].view(batch_size, block_size)
            place += 1
        number, place = (number + 1) % 2, 0
"""

RIGHT = {
    "shuffled epochs": EPOCHS,
    "random windows": RANDOM,
    "in order": IN_ORDER,
    "a DataLoader": DATASET,
    "random windows, resumed": RESUMED,
    "two shards": SHARDS,
}

SHIFT = "yield tokens[index], tokens[index + 1]"
# of a right loader: an edit, and words of the fault; numbers in brackets are those of public bugs
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "not shifted [18]": (EPOCHS, "tokens[index + 1]", "tokens[index]", "not shifted"),
    "shifted twice [18]": (EPOCHS, "tokens[index + 1]", "tokens[(index + 2) % len(tokens)]", "shifted twice"),
    "shifted backwards": (EPOCHS, SHIFT, "yield tokens[index + 1], tokens[index]", "shifted backwards"),
    "rolled": (EPOCHS, SHIFT, "x = tokens[index]; yield x, x.roll(-1, 1)", "torch.roll"),
    "no last target": (
        EPOCHS,
        SHIFT,
        "y = tokens[index + 1]; y[:, -1] = -100; yield tokens[index], y",
        "the last token of a row has no target",
    ),
    "rows across": (IN_ORDER, "chunk[:-1].view(batch_size, block_size)", "chunk[:-1].view(-1, batch_size).T", "contig"),
    "wrong shape": (EPOCHS, "torch.arange(block_size)", "torch.arange(block_size - 1)", "shape (3, 7), not (3, 8)"),
    "a step of T + 1": (
        EPOCHS.replace("rows = (len(tokens) - 1) // block_size", "rows = len(tokens) // (block_size + 1)"),
        "] * block_size",
        "] * (block_size + 1)",
        "one target in each window's distance",
    ),
    "windows overlap": (IN_ORDER, "place += size * world_size", "place += size * world_size - 4", "windows overlap"),
    "half an epoch": (
        EPOCHS,
        "rows = (len(tokens) - 1) // block_size",
        "rows = len(tokens) // block_size // 2",
        "leaves out",
    ),
    "the last start": (RANDOM, "len(tokens) - block_size,", "len(tokens) - block_size - 1,", "never drawn"),
    "ranks shuffle alone [34]": (EPOCHS, "1000 * seed + epoch", "1000 * seed + 77 * rank + epoch", "ranks overlap"),
    "ranks are ignored": (EPOCHS, "place * world_size + rank", "place", "every rank gets the same"),
    "ranks have unequal numbers": (IN_ORDER, " * (world_size - rank) + 1", " + 1", "different numbers of batches"),
    "ranks leave out": (IN_ORDER, "+= size * world_size", "+= size * world_size * min(world_size, 2)", "leave out"),
    "starts anew [35]": (EPOCHS, "step = start", "step = 0", "begins at the first batch again"),
    "repeats its tail [35]": (EPOCHS, "step = start", "step = max(0, start - 1)", "repeats the last batch"),
    "another shard [35]": (
        SHARDS,
        "number, place = divmod(start % (2 * per_shard), per_shard)",
        "number, place = 0, start % per_shard",
        "goes on at the wrong place",
    ),
    "reseeds at random [42]": (RESUMED, "step = start", "step = 0", "begins at the first batch again"),
    "skips": (EPOCHS, "step = start", "step = start + (start > 0)", "skips a batch"),
    "reseeds [42]": (EPOCHS, "1000 * seed + epoch", "1000 * seed + (epoch if not start else 0)", "other batches"),
    "the seed is ignored": (EPOCHS, "1000 * seed + epoch", "epoch", "the seed changes nothing"),
}
