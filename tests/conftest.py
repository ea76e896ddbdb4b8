"""What holds for every test: which are left out and why, no network, how hypothesis looks for examples."""

import gc
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

OPT_IN = {
    "slow": "takes long",
    "long": "takes minutes: trains as a document says, or repeats a slow test",
    "multiproc": "starts several processes",
    "net": "needs a network beyond this machine",
}


def pytest_configure(config: pytest.Config) -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # as of a shell's job in the background: what tests start and strike would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("COLUMNS", None)  # what is printed is as wide as where nobody says; pytest-xdist says something
    if not asks_for(config, "net"):
        # For the processes that tests start; tests themselves are held back by `no_network` below.
        os.environ["HF_HUB_OFFLINE"] = "1"
    # No deadline: how long one example takes says more about the machine than about the code. Derandomized on
    # CI, where a failure has to belong to the change being tested; elsewhere each run tries new examples.
    hypothesis.settings.register_profile("paritygpt", deadline=None, derandomize="CI" in os.environ)
    hypothesis.settings.load_profile("paritygpt")


# The longest files go first, and last come many that take a second: no worker is left alone with a long one at the end.
LONGEST = (
    # when all is run or what is marked slow
    "test_real_runs.py",
    "test_counting_model.py",
    "test_parity_recipes.py",
    "test_pages.py",
    "test_shared_batches.py",
    "test_torchrun.py",
    "test_suite_run.py",
    # by default, from 100 seconds to 10
    "test_parity_huggingface.py",
    "test_diagnose.py",
    "test_installed.py",
    "test_doc_outputs.py",
    "test_train.py",
    "test_cli.py",
    "test_replay.py",
    "test_compare.py",
    "test_examine.py",
    "test_causes_table.py",
    "test_device_reads.py",
    "test_compilation.py",
    "test_parity_recipe_statedicts.py",
    "test_verify.py",
    "test_report.py",
    "test_ratios.py",
    "test_machines.py",
    "test_generation.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what has to be asked for by `-m` and was not, and what has no device here."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))
    for item in items:
        marks = [mark for mark in OPT_IN if item.get_closest_marker(mark)]
        missing = [mark for mark in marks if not asks_for(config, mark)]
        if missing:
            why = ", ".join(f"{mark} ({OPT_IN[mark]})" for mark in missing)
            item.add_marker(pytest.mark.skip(reason=f'{why}: run it with -m "{" or ".join(marks)}"'))
        if item.get_closest_marker("gpu") and not cuda_is_available():
            item.add_marker(pytest.mark.skip(reason="gpu: needs a CUDA device, and torch sees none here"))


def pytest_collection_finish() -> None:
    """Spare Python's garbage collector what was imported: it would look through it all every second or so."""
    gc.collect()
    gc.freeze()


def asks_for(config: pytest.Config, mark: str) -> bool:
    """Whether the expression after `-m` names this mark."""
    return mark in re.findall(r"\w+", config.option.markexpr)


def cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads changes the order of sums, and so gradients in their last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands that run in a test's process say nothing about waiting: how long it takes is the machine's."""
    monkeypatch.setattr("reference.cli.progress.SOON", 1e6)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network look unplugged to every test that is not marked `net`, whatever the machine has.

    So a download in a test fails the same way everywhere, and at once. Loopback and local sockets work.
    """
    if request.node.get_closest_marker("net"):
        return
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise OSError(f"no network in tests: connection to {address[0]} refused; mark the test `net`")
        connect(self, address)

    def resolve_locally(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not is_local(host):
            raise socket.gaierror(f"no network in tests: {host} not resolved; mark the test `net`")
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_locally)


def is_local(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in ("", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()) or name.startswith("127.")


@pytest.fixture
def on_machine() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command as on a simulated machine of tests/machines: on_machine("no-bfloat16", program, *arguments)."""
    from tests.machines.machines import MACHINES  # not above: tests/project copies this file alone

    def run(name: str, *command: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        machine = MACHINES[name]
        if not machine.possible():
            pytest.skip(f"{name}: simulates a CPU of x86-64, by variables that no other heeds")
        return machine.run(*command, text=True, timeout=300, **settings)

    return run
