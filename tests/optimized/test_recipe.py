"""Recipes: rungs in ladder order, by name; ValueError for a device or dtype that a rung excludes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch

import optimized
from bench.environment import computes_bfloat16
from bench.roofline.roofline import emulated
from optimized import FULL, PLAIN, RUNGS, Recipe, best, build, only, upto, without
from optimized.hardware import Hardware, hardware_of
from optimized.recipe import LEAST_BFLOAT16_WIDTH, best_on, left_out, left_out_on
from reference import SIZES, GPTConfig

TINY = GPTConfig(block_size=4, vocab_size=5, n_layer=1, n_head=1, n_embd=4)
LADDER = list(RUNGS)


def test_the_ladder_is_the_one_that_the_design_names() -> None:
    assert set(LADDER) >= {
        *("fused_qkv", "sdpa", "padded_vocab", "fused_loss", "bf16", "tf32", "compile", "fused_adamw"),
        *("kv_cache", "ddp"),
    }
    assert set(LADDER) - set(FULL.rungs) == {"tf32"}, "what FULL does without"
    assert PLAIN.rungs == ()


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_says_what_it_claims_and_when_it_loses(name: str) -> None:
    rung = RUNGS[name]
    assert rung.name == name
    assert len(rung.claim.split()) > 4
    assert len(rung.loses.split()) > 4


@pytest.mark.parametrize("name", RUNGS)
def test_the_code_and_the_tests_of_a_rung_are_files_named_after_its_slot(name: str) -> None:
    slot, root = RUNGS[name].slot, Path(optimized.__file__).parents[1]
    assert (root / "optimized" / f"{slot}.py").is_file()
    assert (root / "tests" / "optimized" / f"test_{slot}.py").is_file()


def test_rungs_stand_in_ladder_order_whatever_order_they_are_given_in() -> None:
    for names in permutations(("bf16", "sdpa", "kv_cache")):
        assert Recipe(names).rungs == only(*names).rungs == ("sdpa", "bf16", "kv_cache")
    assert Recipe(tuple(reversed(FULL.rungs))) == FULL


def test_a_rung_given_twice_is_on_once() -> None:
    assert Recipe(("sdpa", "sdpa")) == only("sdpa") == only("sdpa").plus("sdpa")


def test_any_iterable_of_names_will_do() -> None:
    assert Recipe(["sdpa", "bf16"]) == Recipe(iter(("bf16", "sdpa"))) == only("sdpa", "bf16")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda name: Recipe((name,)),
        lambda name: Recipe(("sdpa", name)),
        only,
        without,
        upto,
        FULL.without,
        PLAIN.plus,
    ],
)
@pytest.mark.parametrize("name", ["flash", "SDPA", "", "full"])
def test_an_unknown_rung_is_an_error_with_the_known_ones(make: object, name: str) -> None:
    with pytest.raises(ValueError, match="unknown rung") as error:
        make(name)  # type: ignore[operator]
    message = str(error.value)
    assert message == f"unknown rung {name!r}: give some of {', '.join(RUNGS)}"


def test_only_is_plain_with_and_without_is_full_less() -> None:
    assert only() == PLAIN
    assert without() == FULL
    for name in RUNGS:
        assert only(name).rungs == (name,)
        assert without(name).rungs == tuple(n for n in FULL.rungs if n != name)
    assert FULL.without("bf16", "compile").plus("compile", "bf16") == FULL
    assert PLAIN.without("sdpa") == PLAIN
    assert PLAIN.plus("sdpa") == only("sdpa")


def test_upto_climbs_the_ladder_a_rung_at_a_time() -> None:
    assert upto(LADDER[0]) == only(LADDER[0])
    assert upto(LADDER[-1]) == FULL
    before = PLAIN
    for name in FULL.rungs:
        assert upto(name) == before.plus(name)
        before = upto(name)
    assert upto("tf32") == upto("bf16").plus("tf32"), "a rung that is not in FULL is in its own recipe all the same"
    assert "tf32" not in upto("compile")


def test_a_recipe_knows_what_it_has_and_what_it_is_called() -> None:
    assert "sdpa" in only("sdpa")
    assert "bf16" not in only("sdpa")
    assert (str(PLAIN), str(FULL)) == ("plain", "full")
    assert str(without()) == "full"
    assert str(only("kv_cache", "sdpa")) == "sdpa+kv_cache"


def test_recipes_are_values() -> None:
    a, b = only("sdpa", "bf16"), only("bf16", "sdpa")
    assert a == b
    assert a is not b
    assert len({a, b, PLAIN, FULL, Recipe()}) == 3
    assert {a: 1}[b] == 1


def test_a_recipe_cannot_be_changed() -> None:
    recipe = only("sdpa")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.rungs = ()  # type: ignore[misc]
    recipe.plus("bf16")
    recipe.without("sdpa")
    assert recipe.rungs == ("sdpa",)
    given = ["sdpa"]
    kept = Recipe(given)  # type: ignore[arg-type]
    given.append("bf16")
    assert kept.rungs == ("sdpa",)


def test_possible_leaves_out_rungs_that_device_or_dtype_exclude() -> None:
    every = Recipe(tuple(RUNGS))
    assert every.possible("cpu", "float32") == FULL
    assert every.possible("cpu", "float64") == FULL.without("bf16")
    assert every.possible("cuda", "float32") == every
    assert every.possible("cuda", "float64") == FULL.without("bf16")
    assert every.possible("meta", "float64") == every.without("bf16", "tf32", "fused_adamw")
    assert PLAIN.possible("cpu", "float64") == PLAIN


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_possible_recipes_pass_the_check_and_others_do_not(device: str, dtype: str) -> None:
    for name in RUNGS:
        recipe = only(name)
        if recipe.possible(device, dtype) == recipe:
            recipe.check(device, dtype)
        else:
            with pytest.raises(ValueError, match=f"the rung {name} and "):
                recipe.check(device, dtype)


@pytest.mark.parametrize(
    "recipe, dtype, message",
    [
        (
            only("tf32"),
            torch.float32,
            "the rung tf32 and the device cpu do not go together: leave tf32 out of the recipe, or choose the device "
            "cuda",
        ),
        (
            FULL,
            torch.float64,
            "the rung bf16 and float64 weights do not go together: leave bf16 out of the recipe, or choose float32",
        ),
        (
            only("bf16"),
            torch.bfloat16,
            "the rung bf16 and bfloat16 weights do not go together: leave bf16 out of the recipe, or choose float32",
        ),
    ],
    ids=["tf32 on the cpu", "bf16 of float64", "bf16 of bfloat16"],
)
def test_an_invalid_recipe_is_refused_when_built(recipe: Recipe, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match="do not go together") as error:
        build(TINY, recipe, dtype=dtype)
    assert str(error.value) == message


def test_a_device_that_a_rung_does_not_know_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(ValueError, match=r"^the rung fused_adamw and the device meta do not .* cuda or mps or xpu$"):
        only("fused_adamw").check("meta", "float32")


EVERYTHING = Hardware("cpu", bfloat16=True, compiler=True, keeps_memory=True)
WIDE = SIZES["mini"]


@pytest.mark.parametrize(
    "lacking, rung, why",
    [
        ("bfloat16", "bf16", "this CPU has no bfloat16 instructions and would emulate them"),
        ("compiler", "compile", "torch.compile finds no C++ compiler here that it can use"),
        ("cache", "compile", "torch.compile cannot write its cache: set TORCHINDUCTOR_CACHE_DIR to another folder"),
        ("keeps_memory", "kept_memory", "this C library cannot be told to keep memory"),
        ("vectors", "fused_kernels", "torch's own kernels use no vector instructions here"),
    ],
)
def test_the_best_recipe_leaves_out_what_does_not_pay_on_a_device_and_says_why(
    lacking: str, rung: str, why: str
) -> None:
    assert best_on(EVERYTHING, "float32", WIDE) == FULL
    hardware = dataclasses.replace(EVERYTHING, **{lacking: False})
    assert best_on(hardware, "float32", WIDE) == FULL.without(rung)
    assert left_out_on(hardware, "float32", WIDE) == {rung: why}


def test_on_a_kind_that_was_never_run_the_best_recipe_has_neither_bfloat16_nor_compile() -> None:
    why = "not measured on mps yet"
    for device in ("mps", "xpu"):
        here = hardware_of(device)
        assert (here.bfloat16, here.compiler, here.tried) == (False, False, False)
    untried = dataclasses.replace(EVERYTHING, kind="mps", tried=False)
    assert {name: left_out_on(untried, "float32", WIDE)[name] for name in ("bf16", "compile")} == {
        "bf16": why,
        "compile": why,
    }
    graphics = dataclasses.replace(EVERYTHING, kind="cuda", compiler=False)
    assert left_out_on(graphics, "float32", WIDE)["compile"] == "torch.compile finds no Triton here"


@pytest.mark.parametrize("capability, bfloat16", [((7, 5), False), ((8, 0), True)])
def test_all_who_ask_whether_a_gpu_has_bfloat16_get_one_answer(
    capability: tuple[int, int], bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware_of("cuda").bfloat16 is bfloat16
    assert computes_bfloat16(torch.device("cuda")) is bfloat16
    assert emulated(torch.device("cuda")) == ([] if bfloat16 else ["bfloat16"])


def test_the_best_recipe_goes_by_the_size_of_the_model() -> None:
    narrow = dataclasses.replace(WIDE, n_embd=LEAST_BFLOAT16_WIDTH - WIDE.n_head)
    assert list(left_out_on(EVERYTHING, "float32", narrow)) == ["bf16"]
    assert left_out_on(dataclasses.replace(EVERYTHING, kind="cuda"), "float32", narrow) == {}
    few = dataclasses.replace(WIDE, vocab_size=65)
    assert left_out_on(EVERYTHING, "float32", few) == {
        "padded_vocab": "padding would make a vocabulary of 65 more than 5 % larger"
    }
    assert best_on(EVERYTHING) == FULL, "of any size"


def test_the_best_recipe_can_be_on_the_device_in_the_precision() -> None:
    assert left_out_on(EVERYTHING, "float64", WIDE) == {"bf16": "float64 weights cannot have it"}
    for kind in ("cpu", "cuda", "mps", "xpu", "meta"):
        for dtype in ("float32", "float64", "bfloat16"):
            best_on(dataclasses.replace(EVERYTHING, kind=kind), dtype).check(kind, dtype)


def test_the_best_recipe_here_is_that_of_this_hardware() -> None:
    assert best("cpu", "float32", WIDE) == best_on(hardware_of("cpu"), "float32", WIDE)
    assert left_out("cpu", "float64").keys() >= {"bf16"}


def test_full_can_be_on_every_kind_of_device() -> None:
    for device in ("cpu", "cuda", "mps", "xpu"):
        FULL.check(device, "float32")


def test_nothing_random_is_lost_when_a_recipe_is_refused() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="do not go together"):
        build(TINY, only("tf32"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_package_gives_its_public_names() -> None:
    names: dict[str, object] = {}
    exec("from optimized import *", names)
    public = {name for name in names if not name.startswith("__")}
    assert public == set(optimized.__all__)
    assert public >= {"Recipe", "PLAIN", "FULL", "RUNGS", "only", "without", "upto", "build", "build_step", "generate"}
    assert names["FULL"] is FULL
    assert callable(names["build"])


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'optimized' has no attribute 'biuld'$"):
        optimized.biuld  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_and_its_rungs_does_not_import_torch() -> None:
    code = "import sys, optimized; optimized.upto('bf16').check('cpu', 'float32'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
