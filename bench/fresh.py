"""A function called in a fresh interpreter: nothing that this process did before can matter to it, nor the other way.

    Call("package.module:function", {"any": "JSON"}, "doing this").result()

imports the module there, calls `function(argument)` and gives what it returns, which JSON has to hold too.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

MARK = "fresh: "  # before the answer, on a line of its own: anything else may be printed too


class Call:
    """One that is under way; several may be.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: anything that JSON holds
        what: is done there, for messages
    """

    def __init__(self, target: str, argument: Any, what: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self.what = what
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.fresh", target, json.dumps(argument)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, timeout: float = 600.0) -> Any:
        """Wait for it, until the process is ended after so many seconds.

        Raises RuntimeError, with the last line that the process wrote, if it came to nothing.
        """
        try:
            output, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.what} took longer than {timeout:.0f} s") from None
        finally:
            self.stop()  # also if this process is interrupted
        answers = [line for line in output.splitlines() if line.startswith(MARK)]
        if self.process.returncode != 0 or not answers:
            last = (errors.strip().splitlines() or ["it wrote nothing"])[-1]
            raise RuntimeError(f"{self.what} failed with status {self.process.returncode}: {last}")
        return json.loads(answers[-1].removeprefix(MARK))

    def stop(self) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.process.communicate()


def function_of(target: str) -> Callable[[Any], Any]:
    """The function of "module:function"."""
    module, _, name = target.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


if __name__ == "__main__":
    print(MARK + json.dumps(function_of(sys.argv[1])(json.loads(sys.argv[2]))))
