"""Call a function in a fresh interpreter that shares no state with this process.

    Call("package.module:function", {"any": "JSON"}, "doing this").result()

imports the module there, calls `function(argument)` and returns its result. Argument and result are plain JSON values.
The interpreter ends with this process.
"""

from __future__ import annotations

import subprocess
from typing import Any

from bench.timing import child_process
from bench.timing.child_process import function_of


class Call:
    """A running call. Several can run at once.

    Args:
        target: "module:function", importable with the `sys.path` of this process
        argument: plain JSON values
        what: name of the call in messages
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
        """Wait for the result and end the process.

        Raises RuntimeError with the last line of its standard error if it fails or takes over `timeout` seconds.
        """
        try:
            output, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.what} took longer than {timeout:.0f} s") from None
        finally:
            self.stop()  # also if this process is interrupted
        answers = list(child_process.answers(output.splitlines()))
        if self.process.returncode != 0 or not answers:
            raise child_process.failure(self.what, self.process.returncode, errors)
        return answers[-1]

    def stop(self) -> None:
        """End the process if it is running."""
        self.process.kill()
        self.process.communicate()


def answer(asked: tuple[str, Any]) -> None:
    """In the fresh interpreter: call the function and print its result."""
    target, argument = asked
    child_process.say(function_of(target)(argument))
