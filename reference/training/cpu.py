"""What the CPU can do in one instruction, as far as torch may use it.

A processor's name does not say it: "AMD EPYC" stands on CPUs with and without bfloat16. Two environment variables
narrow what torch uses below what the CPU has: ATEN_CPU_CAPABILITY for torch's own kernels, ONEDNN_MAX_CPU_ISA for the
matrix products of oneDNN (https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html). What they rule
out is not there: so one machine can be measured as if it were another. The float32 products of MKL heed neither; for
them there is MKL_ENABLE_INSTRUCTIONS.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

# From the narrowest to the widest; the flag by which torch.cpu.get_capabilities names it.
INSTRUCTION_SETS = {
    "AVX2": "avx2",
    "AVX-512": "avx512_f",
    "AVX-512 bfloat16": "avx512_bf16",
    "AMX bfloat16": "amx_bf16",
    "NEON bfloat16": "bf16",
}
BFLOAT16 = ("AVX-512 bfloat16", "AMX bfloat16", "NEON bfloat16")  # those that multiply matrices of bfloat16

# Values of ONEDNN_MAX_CPU_ISA that leave out AVX-512 bfloat16; AMX is left out by all that do not name it. oneDNN takes
# any case, and a value that it does not know for none.
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
WITHOUT_AMX = (
    *WITHOUT_BFLOAT16,
    *("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1", "AVX10_1_512", "AVX10_2", "AVX10_2_512"),
)


def instruction_sets() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that this CPU has and torch may use, narrowest first; none if torch cannot tell."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return tuple(name for name, flag in INSTRUCTION_SETS.items() if found.get(flag) and not ruled_out(name))


def computes_bfloat16() -> bool:
    """Whether products of bfloat16 matrices are instructions of this CPU; if not, they are emulated and slow."""
    return any(name in BFLOAT16 for name in instruction_sets())


def has_vectors() -> bool:
    """Whether torch's own kernels use vector instructions; on Arm they always do."""
    return torch.backends.cpu.get_cpu_capability() != "DEFAULT" or platform.machine() not in ("x86_64", "AMD64")


def ruled_out(name: str) -> bool:
    """Whether this torch, or the environment, keeps torch from using an instruction set."""
    if name in BFLOAT16:
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return True
        # attention in bfloat16 is one of torch's own kernels, which raises an error where they may not use AVX-512
        if name != "NEON bfloat16" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
            return True
        # it asks oneDNN, not the CPU, and is content with AVX-512, on which oneDNN emulates them: so not alone
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported() or narrowed_below(name)
    kernels = torch.backends.cpu.get_cpu_capability()
    return kernels == "DEFAULT" or (name == "AVX-512" and kernels == "AVX2")


def narrowed_below(name: str) -> bool:
    """Whether the environment keeps oneDNN from an instruction set for bfloat16."""
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    return limit in {"AVX-512 bfloat16": WITHOUT_BFLOAT16, "AMX bfloat16": WITHOUT_AMX}.get(name, ())
