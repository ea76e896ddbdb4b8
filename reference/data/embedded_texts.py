"""Texts without a download: written or generated here, or part of Python. Each function is deterministic."""

from __future__ import annotations

RHYME = (
    "mary had a little lamb",
    "little lamb little lamb",
    "mary had a little lamb",
    "its fleece was white as snow",
    "and everywhere that mary went",
    "mary went mary went",
    "everywhere that mary went",
    "the lamb was sure to go",
    "it followed her to school one day",
    "school one day school one day",
    "it followed her to school one day",
    "which was against the rules",
    "it made the children laugh and play",
    "laugh and play laugh and play",
    "it made the children laugh and play",
    "to see a lamb at school",
)

END_OF_LINE = "<END>"


def pydocs() -> str:
    """The language reference that `help()` shows: the topics of the running Python in alphabetical order.

    About 465,000 characters in Python 3.11. The text differs a little between Python versions.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave the help texts out
        raise ValueError(
            "the corpus 'pydocs' is the help topics of Python (the module pydoc_data), which this Python "
            "lacks: choose another corpus or the path of a text file"
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics))


def nursery() -> str:
    """Mary had a little lamb: 16 lines, each closed by <END>: 106 words of 35 types, 546 characters."""
    return " ".join(f"{line} {END_OF_LINE}" for line in RHYME)


def counting() -> str:
    """Two patterns that show at a glance whether a model has learned: successors, and triples of one number.

    1,521 characters, 25 different ones.
    """
    successors = "".join(f"Number {i} comes before {i + 1}. " for i in range(50))
    triples = "".join(f"A{i}B{i}C{i}. " for i in range(20))
    return successors + triples


def stories() -> str:
    """Five short stories and 125 shorter ones, made from every choice of a name, an animal and a pastime."""
    told = [
        "Once upon a time a grey kitten lived in a mill. It chased the flour dust and was never bored.",
        "The old dog slept by the gate. When the children came home, he was the first to know. Good dog.",
        "A sparrow built a nest in a boot. The boot stood on a porch. Nobody needed it until the autumn.",
        "It rained for three days. On the fourth the sun came out, and the village hung up its washing.",
        "A girl found a round stone on the beach. She kept it for luck. It worked most of the time.",
    ]
    for name in ("Alice", "Bob", "Charlie", "Diana", "Emma"):
        for animal in ("cat", "dog", "bird", "rabbit", "fish"):
            for pastime in ("played", "ran", "sang", "danced", "jumped"):
                told.append(
                    f"{name} looked after a {animal}. The {animal} {pastime} all day long. "
                    f"In the evening {name} told it a story. The end."
                )
    return " ".join(told)


def code() -> str:
    """Small pieces of Python, each valid by itself: 19 functions, 9 loops and 14 conditions."""
    functions = (f"def add(a, b):\n    return a + b\n\ntotal = add({i}, {i + 1})\nprint(total)\n" for i in range(1, 20))
    loops = (f'for i in range({i}):\n    print(f"Number: {{i}}")\n' for i in range(1, 10))
    conditions = (
        f'x = {i}\nif x > 5:\n    print("more than five")\nelse:\n    print("five or less")\n' for i in range(1, 15)
    )
    return "\n".join([*functions, *loops, *conditions])
