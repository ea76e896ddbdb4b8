"""What the tests of the lessons share: a text, and a lesson run as a user runs it."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

SHAKESPEARE = Path(__file__).parents[4] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Train on one thread: another number of them changes the last bits of gradients, and so what is learned.

    It is also faster: the tensors are tiny, and on a busy machine threads wait for each other most of the time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shakespeare() -> str:
    if not SHAKESPEARE.exists():
        pytest.skip("needs tinyshakespeare.txt beside the repository, in ../shared/data")
    return SHAKESPEARE.read_text(encoding="utf-8")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a lesson like `python -m`, expect it to refuse its arguments, and return its one line."""

    def run(lesson: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [lesson, *arguments])
        monkeypatch.delitem(sys.modules, lesson, raising=False)  # or runpy warns that it runs a second copy
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module(lesson, run_name="__main__", alter_sys=True)
        out, err = capsys.readouterr()
        assert stopped.value.code == 2, f"exit status {stopped.value.code}, expected 2"
        assert out == "", "something was done before the mistake was found"
        assert err.count("\n") == 1, f"more than one line: {err!r}"
        return err.rstrip("\n")

    return run
