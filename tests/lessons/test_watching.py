"""Whoever waits sees how far it is: a bar on a terminal, a line now and then elsewhere; nothing on standard output."""

import io
import sys

import pytest

from reference.lessons import watching
from reference.lessons.watching import watched


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys):
    seconds = iter(range(0, 1000, 4))
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(seconds))
    assert list(watched("abcdefg", 7, "Reading")) == list("abcdefg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Reading: 3 of 7, 0:16 left\nReading: 6 of 7, 0:04 left\n"


def test_what_is_soon_done_says_nothing(capsys):
    assert list(watched(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(watched(iter([0.5, 0.25]), 2, "Learning")) == [0.5, 0.25]
    assert "Learning" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_mistake_while_it_computes_comes_through(terminal, monkeypatch):
    def broken():
        yield 1
        raise ValueError("no more")

    if terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ValueError, match="no more"):
        list(watched(broken(), 2))
