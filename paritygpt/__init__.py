"""ParityGPT under one name: `from paritygpt import assert_same`, `from paritygpt.reference import GPT`.

An installation has the packages `reference`, `optimized` and `bench` inside this one, so that it hides no other module
named `bench`. In a checkout they lie beside it, and checkout.py makes both names mean the same modules.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import bench
    import optimized
    import reference
    from bench.parity import assert_same, compare
    from optimized import FULL, PLAIN, RUNGS, Recipe, best, build, build_step, generate, only, upto, without
    from reference import GPT, SIZES, GPTConfig
    from reference.checkpoints.huggingface import from_hf, to_hf

    __version__: str

__all__ = [
    "FULL",
    "GPT",
    "PLAIN",
    "RUNGS",
    "SIZES",
    "GPTConfig",
    "Recipe",
    "__version__",
    "assert_same",
    "bench",
    "best",
    "build",
    "build_step",
    "compare",
    "from_hf",
    "generate",
    "only",
    "optimized",
    "reference",
    "to_hf",
    "upto",
    "without",
]

# Each name's module is imported when the name is first used: torch takes a second or two, and `--help` needs none.
HOMES = {
    **dict.fromkeys(("assert_same", "compare"), "bench.parity"),
    **dict.fromkeys(("FULL", "PLAIN", "RUNGS", "Recipe", "best", "only", "upto", "without"), "optimized"),
    **dict.fromkeys(("build", "build_step", "generate"), "optimized"),
    **dict.fromkeys(("GPT", "SIZES", "GPTConfig"), "reference"),
    **dict.fromkeys(("from_hf", "to_hf"), "reference.checkpoints.huggingface"),
}
PACKAGES = ("reference", "optimized", "bench")

if find_spec(f"{__name__}.reference") is None:
    from paritygpt.checkout import find_packages_beside

    find_packages_beside(PACKAGES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.reference.cli.version").own_version()
    if name in PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
