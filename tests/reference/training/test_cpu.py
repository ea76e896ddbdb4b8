"""The instruction sets that torch may use, by CPU and environment."""

from __future__ import annotations

import pytest
import torch

from reference.training.cpu import computes_bfloat16, instruction_sets

ZEN3 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}
ZEN4 = {**ZEN3, "avx512_f": True, "avx512_bf16": True}
SAPPHIRE_RAPIDS = {**ZEN4, "amx_bf16": True}
GRAVITON3 = {"neon": True, "bf16": True}
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def as_if_on(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], kernels: str, supported: bool = True, **variables: str
) -> None:
    """Make torch report these flags, these kernels, and whether oneDNN has bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "flags,kernels,supported,sets,bfloat16",
    [
        ({"avx2": False}, "DEFAULT", False, (), False),
        (ZEN3, "AVX2", False, ("AVX2",), False),
        ({**ZEN4, "avx512_bf16": False}, "AVX512", True, ("AVX2", "AVX-512"), False),
        (ZEN4, "AVX512", True, ("AVX2", "AVX-512", "AVX-512 bfloat16"), True),
        (SAPPHIRE_RAPIDS, "AVX512", True, ("AVX2", "AVX-512", "AVX-512 bfloat16", "AMX bfloat16"), True),
        (GRAVITON3, "DEFAULT", True, ("NEON bfloat16",), True),
        ({"neon": True, "bf16": False}, "DEFAULT", False, (), False),
        ({}, "AVX2", False, (), False),
    ],
)
def test_a_cpu_has_the_sets_of_its_flags(
    flags: dict[str, bool],
    kernels: str,
    supported: bool,
    sets: tuple[str, ...],
    bfloat16: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_if_on(monkeypatch, flags, kernels, supported)
    assert instruction_sets() == sets
    assert computes_bfloat16() is bfloat16


@pytest.mark.parametrize(
    "value,supported,left",
    [
        ("SSE41", False, set()),
        ("AVX2", False, set()),
        ("AVX512_CORE", True, set()),
        ("avx512_core_vnni", True, set()),
        ("AVX512_CORE_BF16", True, {"AVX-512 bfloat16"}),
        ("AVX512_CORE_FP16", True, {"AVX-512 bfloat16"}),
        ("AVX10_1_512", True, {"AVX-512 bfloat16"}),
        ("AVX512_CORE_AMX", True, {"AVX-512 bfloat16", "AMX bfloat16"}),
        ("AVX10_1_512_AMX", True, {"AVX-512 bfloat16", "AMX bfloat16"}),
        ("ALL", True, {"AVX-512 bfloat16", "AMX bfloat16"}),
        ("default", True, {"AVX-512 bfloat16", "AMX bfloat16"}),
        ("no such set", True, {"AVX-512 bfloat16", "AMX bfloat16"}),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_onednns_limit_leaves_what_it_leaves_of_the_products(
    variable: str, value: str, supported: bool, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_on(monkeypatch, SAPPHIRE_RAPIDS, "AVX512", supported, **{variable: value})
    assert set(instruction_sets()) == {"AVX2", "AVX-512"} | left
    assert computes_bfloat16() is bool(left)


def test_the_newer_name_of_onednns_limit_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_on(monkeypatch, ZEN4, "AVX512", True, DNNL_MAX_CPU_ISA="AVX512_CORE", ONEDNN_MAX_CPU_ISA="ALL")
    assert computes_bfloat16()


def test_onednn_without_bfloat16_or_no_onednn_leaves_only_torchs_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_on(monkeypatch, ZEN4, "AVX512", supported=False)
    assert instruction_sets() == ("AVX2", "AVX-512")
    as_if_on(monkeypatch, ZEN4, "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert instruction_sets() == ("AVX2", "AVX-512")


def test_a_torch_that_does_not_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert instruction_sets() == ()
    assert not computes_bfloat16()
