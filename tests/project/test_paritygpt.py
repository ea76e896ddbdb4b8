"""The package `paritygpt` in a checkout, its program, and how modules are rewritten for the wheel."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

import paritygpt
from bench.__main__ import KINDS
from paritygpt import HOMES, PACKAGES
from paritygpt.__main__ import COMMANDS, SIDES, main
from reference.cli.version import own_version
from wheel_backend import BELOW, rewritten

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_public_name_is_the_one_of_its_package() -> None:
    assert set(paritygpt.__all__) == {*HOMES, *PACKAGES, "__version__"} <= set(dir(paritygpt))
    assert PACKAGES == BELOW
    for name, home in HOMES.items():
        assert getattr(paritygpt, name) is getattr(importlib.import_module(home), name), name
    with pytest.raises(AttributeError, match="module 'paritygpt' has no attribute 'asert_same'"):
        _ = paritygpt.asert_same


@pytest.mark.parametrize("name", ["reference", "reference.gpt", "optimized.recipe", "bench", "bench.report.theme"])
def test_in_a_checkout_both_names_mean_one_module(name: str) -> None:
    alias, own = importlib.import_module(f"paritygpt.{name}"), importlib.import_module(name)
    assert alias is own
    assert own.__name__ == name
    assert own.__spec__ is not None
    assert own.__spec__.name == name


def test_a_module_that_is_not_there_is_not_found_by_its_alias_either() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'paritygpt\.bench\.nowhere'"):
        importlib.import_module("paritygpt.bench.nowhere")


def test_the_long_name_of_a_package_runs_its_commands(tmp_path: Path) -> None:
    done = python("-m", "paritygpt.reference", "eval", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m paritygpt.reference eval ")


def test_a_checkout_beside_another_bench_says_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    own = tmp_path / "bench" / "__init__.py"
    own.touch()
    done = python("-c", "import paritygpt", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: 'bench' is {own}, not {ROOT / 'bench' / '__init__.py'}: beside a module of that name install "
        f"ParityGPT without -e, by `pip install {ROOT}`"
    )
    own.unlink()  # what is left hides a package that an installation with -e has found, though none on the path
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("paritygpt", "reference", "optimized"):
        (checkout / name).symlink_to(ROOT / name)
    done = python("-c", "import paritygpt", cwd=tmp_path, PYTHONPATH=str(checkout))
    assert "ImportError: 'bench' is a folder of another project, not " in done.stderr


def test_the_version_is_that_of_pyproject() -> None:
    assert own_version() == paritygpt.__version__ == PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])


def test_the_console_script_is_there() -> None:
    module, _, name = PROJECT["scripts"]["paritygpt"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_help_names_every_command_in_plain_letters_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], "python -m paritygpt") == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 80
    assert re.findall(r"^([a-z]+)  +\w", out, re.M) == [*COMMANDS, *SIDES]
    assert "python -m paritygpt COMMAND --help" in out


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"]], ids=" ".join)
def test_help_names_each_thing_that_compare_can_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main(arguments, "paritygpt")
    out = capsys.readouterr().out
    assert [option for option in KINDS if f"{option} " not in out] == []


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"], "paritygpt") == 0
    assert capsys.readouterr().out == f"paritygpt {PROJECT['version']}\n"


@pytest.mark.parametrize("arguments,wrong", [(["trian"], "unknown command 'trian'"), ([], "no command")])
def test_a_word_that_is_no_command_is_one_line_that_lists_them(
    arguments: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, "paritygpt") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {wrong}: give one of {', '.join((*COMMANDS, *SIDES))}\n"


@pytest.mark.parametrize(
    "command,option",
    [
        ("train", "--micro-batch"),
        ("sample", "--recipe"),
        ("reference train", "--corpus"),
        ("optimized eval", "--recipe"),
        ("compare", "--contenders"),
        ("compare --candidate x.py", "--layout"),
        ("roofline", "--workloads"),
    ],
)
def test_every_command_is_called_as_it_was_typed(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"], "paritygpt")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: paritygpt {command.partition(' --')[0]} ")
    assert option in out


def test_the_two_sides_have_options_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reference", "train", "--help"], "paritygpt")
    assert "--recipe" not in capsys.readouterr().out


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/candidate.md", "docs/report.md"])
def test_every_command_that_a_document_names_exists(document: str) -> None:
    named = re.findall(r"^    paritygpt ([a-z]+)|`paritygpt ([a-z]+)", (ROOT / document).read_text(), re.M)
    assert {first or second for first, second in named} <= {*COMMANDS, *SIDES}


@pytest.mark.parametrize(
    "source,expected",
    [
        ("from reference import GPT", "from paritygpt.reference import GPT"),
        ("from  bench.parity import (\n    compare,\n)", "from  paritygpt.bench.parity import (\n    compare,\n)"),
        ("import optimized", "import paritygpt.optimized as optimized"),
        ("import os, bench, sys", "import os, paritygpt.bench as bench, sys"),
        ("import bench.a as a; import bench as b", "import paritygpt.bench.a as a; import paritygpt.bench as b"),
        ("def f():\n\tfrom reference.gpt import GPT\n", "def f():\n\tfrom paritygpt.reference.gpt import GPT\n"),
        ("é = 'é'; from reference import GPT", "é = 'é'; from paritygpt.reference import GPT"),
        ("x = '''\f\n'''\r\nfrom bench import a\r\n", "x = '''\f\n'''\r\nfrom paritygpt.bench import a\r\n"),
        *(
            (same, same)
            for same in (
                "from . import reference",
                "from .bench import x",
                "import benchmark, references.bench",
                "from torch import reference",
                "text = 'from reference import GPT'  # import bench",
            )
        ),
    ],
)
def test_imports_are_rewritten_and_nothing_else(source: str, expected: str) -> None:
    assert rewritten(source.encode(), "m.py").decode() == expected
    ast.parse(expected)


@pytest.mark.parametrize(
    "source,message",
    [
        (
            "x = 1\nimport os, bench.parity",
            "m.py, line 2: `import bench.parity` would bind 'paritygpt' once rewritten: give it a name by `as`, or "
            "import from it",
        ),
        ("from \\\n  bench import x", "m.py, line 1: cannot be rewritten: put `from` and its module on one line"),
    ],
)
def test_an_import_that_cannot_be_rewritten_ends_the_build_with_a_line(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rewritten(source.encode(), "m.py")


def test_no_string_names_a_module_of_ours_which_has_another_name_in_the_wheel() -> None:
    """What is started or imported by its name takes the name from `__name__` or `__package__`."""
    files = [path for package in BELOW for path in sorted((ROOT / package).rglob("*.py"))]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    strays = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            name = node.value.partition(":")[0]  # module:function
            if name in modules or (name.endswith(".") and name[:-1].partition(".")[0] in BELOW):
                strays.append(f"{path.relative_to(ROOT)}, line {node.lineno}: {node.value!r}")
    assert not strays, "\n".join(strays)


def test_the_modules_in_the_table_of_contenders_are_named_in_full() -> None:
    from bench.contenders import CONTENDERS

    named = {one.module for one in CONTENDERS.values() if one.module is not None}
    assert named == {
        "bench.contenders.huggingface_model",
        "bench.contenders.xtransformers",
        "bench.contenders.kerashub",
    }
