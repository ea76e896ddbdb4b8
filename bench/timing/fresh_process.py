"""A function called in a fresh interpreter: nothing that this process did before can matter to it, nor the other way.

    Call("package.module:function", {"any": "JSON"}, "doing this").result()

imports the module there, calls `function(argument)` and gives what it returns, which JSON has to hold too. It ends with
this process.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from bench.timing import child_process
from bench.timing.child_process import function_of

MARK = "fresh: "  # before the answer, on a line of its own: anything else may be printed too


class Call:
    """One that is under way; several may be.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: anything that JSON holds
        what: is done there, for messages
    """

    def __init__(self, target: str, argument: Any, what: str) -> None:
        self.what = what
        self.process = child_process.launch(
            f"{__name__}:answer",
            [target, argument],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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


def answer(asked: tuple[str, Any]) -> None:
    """In the fresh interpreter: call the function and write down what it returns."""
    target, argument = asked
    print(MARK + json.dumps(function_of(target)(argument)))
