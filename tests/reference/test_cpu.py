"""What the CPU can do in one instruction, and what the environment rules out."""

from __future__ import annotations

import pytest
import torch

from reference import cpu
from reference.cpu import INSTRUCTION_SETS, computes_bfloat16, instruction_sets

ZEN_3 = {"avx2": True, "avx512_f": False, "avx512_bf16": False}
ZEN_4 = {"avx2": True, "avx512_f": True, "avx512_bf16": True}
SAPPHIRE_RAPIDS = {**ZEN_4, "amx_bf16": True}
GRAVITON_3 = {"neon": True, "arm_bf16": True}


def on(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], kernels: str = "AVX512", supported: bool = True
) -> None:
    """Let torch find these flags, whatever this machine and its environment have."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "flags, kernels, sets, bfloat16",
    [
        (ZEN_3, "AVX2", ("AVX2",), False),
        (ZEN_4, "AVX512", ("AVX2", "AVX-512", "AVX-512 bfloat16"), True),
        (SAPPHIRE_RAPIDS, "AVX512", ("AVX2", "AVX-512", "AVX-512 bfloat16", "AMX bfloat16"), True),
        (GRAVITON_3, "SVE256", ("NEON bfloat16",), True),
        ({}, "DEFAULT", (), False),
    ],
    ids=["Zen 3", "Zen 4", "Sapphire Rapids", "Graviton 3", "an old CPU"],
)
def test_a_cpu_is_known_by_its_instructions_and_not_by_its_name(
    flags: dict[str, bool], kernels: str, sets: tuple[str, ...], bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, flags, kernels)
    assert instruction_sets() == sets
    assert computes_bfloat16() == bfloat16


@pytest.mark.parametrize(
    "limit, left",
    [
        ("", ("AVX-512 bfloat16", "AMX bfloat16")),
        ("ALL", ("AVX-512 bfloat16", "AMX bfloat16")),
        ("AVX512_CORE_AMX", ("AVX-512 bfloat16", "AMX bfloat16")),
        ("AVX512_CORE_FP16", ("AVX-512 bfloat16",)),
        ("avx512_core_bf16", ("AVX-512 bfloat16",)),
        ("AVX512_CORE_VNNI", ()),
        ("AVX512_CORE", ()),
        ("AVX2", ()),
        ("SSE41", ()),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_what_the_environment_keeps_from_onednn_is_not_there(
    variable: str, limit: str, left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, SAPPHIRE_RAPIDS)
    monkeypatch.setenv(variable, limit)
    assert tuple(name for name in instruction_sets() if "bfloat16" in name) == left
    assert computes_bfloat16() == bool(left)


@pytest.mark.parametrize("kernels, left", [("AVX512", ["AVX2", "AVX-512"]), ("AVX2", ["AVX2"]), ("DEFAULT", [])])
def test_what_torchs_own_kernels_do_not_use_is_not_there(
    kernels: str, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, ZEN_4, kernels)
    assert [name for name in instruction_sets() if "bfloat16" not in name] == left


def test_a_torch_without_what_it_asks_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN_4, supported=False)
    assert not computes_bfloat16(), "flags alone are not enough"
    on(monkeypatch, ZEN_4)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not computes_bfloat16(), "a build without oneDNN"
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert instruction_sets() == (), "a release that cannot tell"


def test_here_the_sets_are_known_ones_in_order() -> None:
    assert list(cpu.instruction_sets()) == [name for name in INSTRUCTION_SETS if name in cpu.instruction_sets()]
