"""No process computes its first functions at a lower accuracy than its later ones (reference/mkl_kernels.py)."""

import os
import subprocess
import sys

import pytest
import torch

from reference import mkl_kernels

# Each child is a process in which nothing has been computed yet; without choose_kernels up to 5 % are off by 8e-5.
FIRST_CALLS = """
import os
import torch
import reference.functional

def first_call_is_off():
    torch.set_num_threads(2)
    x = torch.linspace(1, 2, 32768)
    return not torch.equal(torch.sqrt(x), torch.sqrt(x))

off = 0
for _ in range(400):
    child = os.fork()
    if child == 0:
        os._exit(first_call_is_off())
    off += os.waitpid(child, 0)[1] != 0
print(off)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to begin a process hundreds of times")
def test_the_first_function_of_a_process_is_as_exact_as_the_next() -> None:
    run = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, timeout=600)
    assert run.stdout == "0\n", run.stdout + run.stderr


@pytest.mark.slow
def test_lessons_that_compute_without_the_reference_choose_kernels_too() -> None:
    lessons = "import reference.lessons.bigram, reference.lessons.attention_steps, sys"
    run = subprocess.run([sys.executable, "-c", f"{lessons}; assert 'reference.mkl_kernels' in sys.modules"])
    assert run.returncode == 0


def test_kernels_of_the_cpu_are_chosen_whatever_the_default_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(mkl_kernels, "FUNCTIONS", (seen.append,))
    with torch.device("meta"):
        mkl_kernels.choose_kernels()
    assert {(x.device.type, x.dtype) for x in seen} == {("cpu", torch.float32), ("cpu", torch.float64)}
