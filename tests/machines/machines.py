"""Machines unlike this one, simulated: what a process is told so that torch and this project behave as if on them.

What is simulated is what software can see. A CPU that is told not to use its bfloat16 instructions takes the paths of
one without them and rounds as it does, though it may be faster or slower than a real one.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"


@dataclass(frozen=True)
class Machine:
    """One kind of machine."""

    name: str
    description: str
    variables: Mapping[str, str] = field(default_factory=dict)  # of the environment
    home: bool = True  # whether HOME can be written to
    stdout: bool = True  # whether there is a standard output
    x86: bool = False  # whether it can be simulated on x86-64 alone, by variables that no other CPU heeds
    columns: int | None = None  # no line of any command may be longer
    hidden: str = ""  # a module of this folder that is run at the start of each Python, to hide something

    def possible(self) -> bool:
        """Whether this computer can be taken for one."""
        return not self.x86 or platform.machine() in ("x86_64", "AMD64")

    def run(self, *command: str, **settings: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command as on such a machine, with both its outputs caught.

        Args:
            settings: of subprocess.run; env besides what is simulated
        """
        shell = () if self.stdout else ("sh", "-c", 'exec "$@" >&-', "sh")
        env = self.environment() | settings.pop("env", {})
        return subprocess.run([*shell, *command], env=env, capture_output=True, check=False, **settings)

    def environment(self) -> dict[str, str]:
        """This process's environment with what is simulated."""
        variables = {**os.environ, **self.variables}
        # torch looks up what it has compiled without a look at the instruction sets: see optimized/compilation.py
        # in the checkout: one for all users, under /tmp, could be written by the first of them alone
        variables["TORCHINDUCTOR_CACHE_DIR"] = str(BUILD / "torchinductor" / self.name)
        if not self.home:
            variables["HOME"] = nowhere()
            for name in [name for name in variables if name.startswith("XDG_")]:
                del variables[name]
        if self.hidden:
            paths = [str(HERE / self.hidden), *filter(None, [variables.get("PYTHONPATH")])]
            variables["PYTHONPATH"] = os.pathsep.join(paths)
        return variables


def nowhere() -> str:
    """A home that cannot be written to, by root either."""
    if os.name == "posix" and os.geteuid() == 0:
        return "/proc/self/fdinfo"  # nobody makes a file there
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o500)
    return folder


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "no-bfloat16",
            "a CPU with AVX2 and no bfloat16 instructions, as most laptops and older servers",
            {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
            x86=True,
        ),
        Machine(
            "no-vectors",
            "torch's own kernels without vector instructions",
            {"ATEN_CPU_CAPABILITY": "default"},
            x86=True,
        ),
        Machine("no-compiler", "no C++ compiler for torch.compile", {"CXX": "no-such-compiler"}),
        Machine("one-thread", "one core", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
        Machine(
            "sixteen-threads",
            "sixteen threads, however many cores",
            {"OMP_NUM_THREADS": "16", "MKL_NUM_THREADS": "16", "MKL_DYNAMIC": "FALSE"},
        ),
        Machine("no-mallopt", "a C library without glibc's mallopt, as musl", hidden="without_mallopt"),
        Machine("read-only-home", "a HOME that cannot be written to", home=False),
        Machine("no-stdout", "standard output closed", stdout=False),
        Machine(
            "cp1252",
            "a terminal of Windows' code page 1252",
            {"PYTHONIOENCODING": "cp1252"},
        ),
        Machine(
            "lang-c",
            "LANG=C, and output in ASCII",
            {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"},
        ),
        Machine("80-columns", "a terminal of 80 columns", {"COLUMNS": "80"}, columns=80),
    )
}
