"""Simulated machines: environment variables and other settings that make a process behave as if on another machine.

Only software's view is simulated. A CPU whose bfloat16 instructions are switched off runs the same code and rounds like
one without them, but may be faster or slower than a real one.
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
    x86: bool = False  # whether it can be simulated only on x86-64, by variables that other CPUs ignore
    columns: int | None = None  # no line of any command may be longer
    hidden: str = ""  # a folder here whose sitecustomize.py hides something when Python starts

    def possible(self) -> bool:
        """Whether this computer can simulate it."""
        return not self.x86 or platform.machine() in ("x86_64", "AMD64")

    def run(self, *command: str, **settings: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on the simulated machine; captures both its outputs.

        Args:
            settings: of subprocess.run; env is added to the simulated environment
        """
        shell = () if self.stdout else ("sh", "-c", 'exec "$@" >&-', "sh")
        env = self.environment() | settings.pop("env", {})
        return subprocess.run([*shell, *command], env=env, capture_output=True, check=False, **settings)

    def environment(self) -> dict[str, str]:
        """This process's environment with the simulated settings."""
        variables = {**os.environ, **self.variables}
        # one cache per machine: torch ignores the instruction sets in its key (see optimized/compilation.py);
        # in the checkout, because a folder under /tmp would be writable only by the first user
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
        return "/proc/self/fdinfo"  # even root cannot create a file there
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
