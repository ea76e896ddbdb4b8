"""The suite under pytest: options, one session per device, and the result files at the end."""

from __future__ import annotations

from reference.cli import interrupts

interrupts.end_at_once()  # while the rest is imported

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from bench.contenders import ALL, chosen, missing
from bench.contenders.verify import denormals_flushed
from bench.environment import environment
from bench.formatting import terminal
from bench.journal import Journal, check_same, partial_path, resume
from bench.suite import result_file
from bench.suite.components import COMPONENTS
from bench.suite.plan import Plan, left_out_of_optimized, of_able, plan_for, without_emulation
from bench.suite.session import LeftOut, Session
from bench.suite.tables import show
from bench.timing.interleave import Progress, Tell
from bench.workloads.scenarios import SCENARIOS
from reference.training.devices import available_devices

interrupts.raise_again()  # tests import this file: restore Ctrl-C

STARTED = pytest.StashKey[float]()
HEEDED = pytest.StashKey[ExitStack]()
STOP = pytest.StashKey["Stop"]()
BEGUN = pytest.StashKey[set[str]]()  # tests, by their ids
SESSIONS = pytest.StashKey[dict[str, Session]]()
HERE = Path(__file__).parent
COMMAND = "nox -s bench --"


def pytest_addoption(parser: pytest.Parser) -> None:
    interrupts.end_at_once()  # until `pytest_configure`
    group = parser.getgroup("bench", "the benchmark suite")
    group.addoption("--device", default="", help="comma-separated: cpu, cuda, mps; default: every kind of this machine")
    group.addoption("--quick", action="store_true", help="small shapes: 2 to 4 minutes on two cores, not 15 to 35")
    group.addoption(
        "--workloads",
        default="",
        help="comma-separated names of bench/workloads/scenarios.py; default: the plan's",
    )
    group.addoption(
        "--contenders", default="", help="comma-separated names of bench/contenders, or all; default: the plan's"
    )
    group.addoption("--threads", type=int, default=None, help="CPU threads; default: torch's choice")
    group.addoption("--json", type=Path, default=None, help="file of the result, for a run on one device")
    group.addoption(
        "--resume",
        type=Path,
        default=None,
        metavar="FILE.partial",
        help="continue a stopped run from the file that it left, with the same options",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SESSIONS], config.stash[STARTED], config.stash[BEGUN] = {}, time.monotonic(), set()
    config.stash[STOP], config.stash[HEEDED] = Stop(), ExitStack()
    config.stash[HEEDED].enter_context(denormals_flushed())
    config.pluginmanager.register(config.stash[STOP])
    # one set of tables: pytest-benchmark's with --benchmark-compare, else ours (`pytest_terminal_summary`)
    config.option.benchmark_quiet = config.option.benchmark_quiet or not compares(config)
    with uncaptured(config):
        standard_error = os.dup(2)
    config.stash[HEEDED].callback(os.close, standard_error)
    config.stash[HEEDED].enter_context(interrupts.heeded(standard_error))
    config.stash[HEEDED].enter_context(interrupts.last_words(lambda: how_to_continue(config)))
    try:
        start(config)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash.get(HEEDED, ExitStack()).close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """A stopped run ends like every command: at once, with one line and the signal's status."""
    try:
        result = yield
    except KeyboardInterrupt as error:  # a second signal, or one after the last test
        leave(config, interrupts.status_of(error))
    stop = config.stash.get(STOP, None)
    if stop is not None and stop.status:
        leave(config, stop.status)
    return result


def leave(config: pytest.Config, status: int) -> NoReturn:
    """Print how to continue and end the process."""
    with uncaptured(config):
        sys.stdout.flush()
        print(interrupts.farewell(how_to_continue(config)), file=sys.stderr)
        interrupts.leave(status)


class Stop:
    """A pytest plugin that records the signal that stopped a run."""

    status = 0  # of the process

    @pytest.hookimpl(tryfirst=True)  # before the terminal's hook, which is slow to format the traceback
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Keep the signal's status; from here on the result is written and shown, however long that takes."""
        interrupts.taken()
        if isinstance(excinfo.value, KeyboardInterrupt):
            self.status = interrupts.status_of(excinfo.value)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        """Ignore errors from fixtures of the stopped test, which would prevent pytest's summary.

        pytest-benchmark's fixture raises one, as nothing was timed with it.
        """
        try:
            return (yield)
        except Exception:
            if not self.status:
                raise


def compares(config: pytest.Config) -> bool:
    """Whether pytest-benchmark compares this run with a stored one."""
    return bool(config.option.benchmark_compare)


def how_to_continue(config: pytest.Config) -> str:
    """The commands that continue the sessions; "" if none has begun."""
    sessions = config.stash.get(SESSIONS, {}).values()
    return " and ".join(session.journal.words for session in sessions if session.journal.words)


def command(config: pytest.Config) -> str:
    """The command that continues this run, without the options that are in its journal."""
    option = config.option
    given = (("-k", option.keyword), ("-m", option.markexpr), ("--json", option.json))
    return COMMAND + "".join(f" {name} {shlex.quote(str(value))}" for name, value in given if value)


def start(config: pytest.Config) -> None:
    """Make a session for each device. Raises ValueError, one line, for invalid options."""
    option = config.option
    journal = None if option.resume is None else resumed(config)
    if option.threads is not None:
        if option.threads < 1:
            raise ValueError(f"--threads {option.threads}: give a whole number of at least 1")
        torch.set_num_threads(option.threads)
    contenders = split(option.contenders)
    for name in contenders if ALL not in contenders else ():
        if name in chosen([name]) and missing(name) is not None:
            raise ValueError(missing(name))
    contenders = tuple(chosen(contenders)) if contenders else ()
    devices, not_there = devices_for(split(option.device))
    if option.json is not None and option.json.is_dir():
        raise ValueError(f"--json {option.json}: is a folder: give the name of a file")
    if option.json is not None and len(devices) > 1:
        raise ValueError(f"--json {option.json}: there is a result for each of {', '.join(devices)}: give one --device")
    arguments = {
        "quick": option.quick,
        "workloads": list(split(option.workloads)),
        "contenders": list(contenders),
        "threads": torch.get_num_threads(),
    }
    for name in devices:
        device = torch.device(name)
        plan = of_able(plan_for(device.type, option.quick, split(option.workloads), contenders))
        if not contenders:
            plan = without_emulation(plan, device)
        session = session_of(config, device, plan, arguments, journal)
        session.left_out += [*not_there, *left_out_of_optimized(plan, device)]
        config.stash[SESSIONS][name] = session
    if journal is not None:
        journal.go_on()


def session_of(
    config: pytest.Config, device: torch.device, plan: Plan, arguments: dict[str, Any], journal: Journal | None
) -> Session:
    """A session with its journal, or with that of a stopped run.

    Raises ValueError, one line, for a journal of another machine or other software.
    """
    option, here, tell = config.option, environment(device), telling(config)
    if journal is None:
        begun_with = {**arguments, "device": str(device)}
        now = datetime.now().isoformat(timespec="seconds")
        path = partial_path(option.json or result_file.elsewhere(here, now))
        journal = Journal(path, "suite", command(config), here, begun_with, tell)
    else:
        check_same(journal, here)
    return Session(device, plan, arguments, here, Progress(tell), journal, option.quick)


def resumed(config: pytest.Config) -> Journal:
    """Read the journal of --resume; its options become the options of this run.

    Raises ValueError, one line, if it is no journal or the user gave other options.
    """
    option = config.option
    journal = resume(option.resume, "suite", command(config), telling(config))
    try:
        before = {
            "quick": bool(journal.arguments["quick"]),
            "workloads": ",".join(journal.arguments["workloads"]),
            "contenders": ",".join(journal.arguments["contenders"]),
            "threads": int(journal.arguments["threads"]),
            "device": str(journal.arguments["device"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--resume {option.resume}: is damaged ({error}): start again without --resume") from None
    for name, value in before.items():
        given = getattr(option, name)
        if given not in (None, "") and given is not False and given != value:
            words = f"--{name}" if given is True else f"--{name} {given}"
            raise ValueError(
                f"--resume {option.resume} with {words}: it was begun "
                f"{f'with --{name} {value}' if value else f'without --{name}'}; leave it out, or start again without "
                "--resume"
            )
        setattr(option, name, value)
    return journal


def split(text: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def devices_for(asked: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The devices to measure, and a line for each named one that is missing.

    If none is named: one of each kind on this machine. Raises ValueError if all named ones are missing.
    """
    there = available_devices()
    kinds = list(dict.fromkeys(name.split(":")[0] for name in there))
    found = [name for name in asked or kinds if name in there or name in kinds]
    missing = [
        f"device {name}: is not there, left out; this machine has {', '.join(there)}"
        for name in asked
        if name not in found
    ]
    if not found:
        raise ValueError(f"--device {','.join(asked)}: this machine has {', '.join(there)}")
    return found, missing


def uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Inside, pytest does not capture output."""
    capture = config.pluginmanager.getplugin("capturemanager")
    inside: AbstractContextManager[None] = capture.global_and_fixture_disabled() if capture else nullcontext()
    return inside


def telling(config: pytest.Config) -> Tell:
    """A function that reports progress on standard error."""

    def tell(what: str) -> None:
        with uncaptured(config):
            print(f"    {time.monotonic() - config.stash[STARTED]:.0f} s: {what}", file=sys.stderr, flush=True)

    return tell


def columns(config: pytest.Config) -> int:
    """The width for tables, in characters."""
    with uncaptured(config):
        width: int = terminal().width
    return width


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `device` by all devices; `case` and `component` by all numbers of their plans."""
    sessions = metafunc.config.stash[SESSIONS]
    if "case" in metafunc.fixturenames:
        cases = [
            (device, row.workload, scenario, task, name)
            for device, session in sessions.items()
            for row in session.plan.rows
            for scenario in row.scenarios
            for task in SCENARIOS[scenario]
            for name in row.contenders
        ]
        metafunc.parametrize("case", cases, ids=["-".join(case) for case in cases])
    elif "component" in metafunc.fixturenames:
        components = [
            (device, workload, name)
            for device, session in sessions.items()
            for number, workload in enumerate(session.plan.components)
            for name, component in COMPONENTS.items()
            if component.scales or (number == 0 and not session.quick)
        ]
        metafunc.parametrize("component", components, ids=["-".join(component) for component in components])
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize("device", list(sessions))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Allow benchmarks to warn, and an hour each."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.timeout(3600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Turn LeftOut into a skip, with its line; note a failure in the result's `left_out`."""
    item.config.stash[BEGUN].add(item.nodeid)
    try:
        return (yield)
    except LeftOut as reason:
        pytest.skip(str(reason))
    except pytest.skip.Exception:
        raise
    except (Exception, pytest.fail.Exception) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        for session in sessions_of(item):
            session.left_out.append(f"failed: {item.name}: {why}")
        raise


def sessions_of(item: pytest.Item) -> list[Session]:
    """The sessions of the devices that a test measures."""
    named = []  # devices: the parameter `device`, or the first item of `case` or `component`
    for value in item.callspec.params.values() if isinstance(item, pytest.Function) else ():
        named.append(value if isinstance(value, str) else value[0] if isinstance(value, tuple) else None)
    return [session for device, session in item.config.stash[SESSIONS].items() if device in named]


@pytest.fixture
def sessions(pytestconfig: pytest.Config) -> dict[str, Session]:
    """The session of each device."""
    return pytestconfig.stash[SESSIONS]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Write one result file for each device with measurements.

    A stopped run also keeps its journal, so that it can continue.
    """
    config = session.config
    whole, stopped = is_whole(session, exitstatus), is_stopped(session, exitstatus)
    for measured in config.stash[SESSIONS].values():
        result = measured.result()
        if not any(result[what] for what in ("cases", "components", "ablation", "scaling", "roofline")):
            continue
        path = config.option.json or result_file.path_for(result, whole)
        try:
            result_file.save(result, path)
            measured.written = f"everything that was measured: {path}"
            if not stopped:
                measured.journal.remove()
        except ValueError as error:
            measured.written = f"error: {error}"
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def is_stopped(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> bool:
    """Whether some tests did not end or did not begin."""
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return not ended or not session.config.stash[BEGUN] >= {item.nodeid for item in session.items}


def is_whole(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> bool:
    """Whether the run was complete, so that its result becomes the device's.

    Failures are allowed, as the result notes them, but every test must have begun.
    """
    option = session.config.option
    narrowed = option.quick or option.workloads or option.contenders or option.keyword or option.markexpr
    # pytest has no --lf if its cache is off
    chosen_by_hand = (
        option.deselect or getattr(option, "lf", False) or any("::" in argument for argument in session.config.args)
    )
    files = {item.path for item in session.items}
    every = set(HERE.glob("test_*.py"))
    return (
        not is_stopped(session, exitstatus)
        and not narrowed
        and not chosen_by_hand
        and every <= files
        and not option.collectonly
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables last, unless pytest-benchmark compares and has printed its own."""
    for measured in config.stash[SESSIONS].values():
        if measured.cases or measured.ablation or measured.left_out or measured.written:
            terminalreporter.section(f"{measured.device}")
            for line in () if compares(config) else show(measured.result(), columns(config)):
                terminalreporter.write_line(line)
        if measured.written:
            terminalreporter.write_line(measured.written)
    option = config.option
    if option.benchmark_save or option.benchmark_autosave:
        terminalreporter.write_line(f"saved for pytest-benchmark in {option.benchmark_storage.removeprefix('file://')}")
    if how_to_continue(config) and not config.stash[STOP].status:  # else `leave` prints it at the very end
        terminalreporter.write_line(f"stopped; {how_to_continue(config)}")
