"""A headless Chromium for tests, told what to do over the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/: JSON with a zero byte after each message, over two pipes
(--remote-debugging-pipe), so that there is no port that others could see, and no library is needed.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--disable-extensions", "--hide-scrollbars", "--mute-audio"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
PATIENCE = 60.0  # seconds, for anything


def program() -> str | None:
    """The Chromium of this machine; None if it has none."""
    return next((found for found in map(shutil.which, PROGRAMS) if found), None)


class Page:
    """One page of a browser that is running; everything that happens to it is kept."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.to_browser, self.from_browser = to_browser, from_browser
        self.selector = selectors.DefaultSelector()
        self.selector.register(from_browser, selectors.EVENT_READ)
        self.rest, self.number, self.session = b"", 0, ""
        self.answers: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while self.number not in self.answers:
            self.listen(end)
        answer = self.answers.pop(self.number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def listen(self, end: float) -> None:
        """Take in what the browser says next."""
        assert self.selector.select(max(0.0, end - time.monotonic())), "the browser is silent"
        piece = os.read(self.from_browser, 1 << 20)
        assert piece, "the browser is gone"
        *whole, self.rest = (self.rest + piece).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)

    def run(self, script: str) -> Any:
        """The value of a script in the page, or of what it promises."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script in the page is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < end, f"it never came: {script}\n{self.complaints()}"
            time.sleep(0.05)

    def open(self, path: Path) -> None:
        """Go to a file."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.until(f"document.readyState === 'complete' && location.protocol === 'file:' && {json.dumps(path.name)}")

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        """Have another window."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def prefer(self, scheme: str) -> None:
        """Like it light or dark."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key: str) -> None:
        """Press a key that writes nothing."""
        codes = {"Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "Enter": 13, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Keep what is seen, or the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def requests(self) -> list[str]:
        """Every address that was asked for so far."""
        self.run("0")  # what happened until now has arrived
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console so far, and what was thrown."""
        self.run("0")
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"):
                found.append(json.dumps(event["params"]["args"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                found.append(event["params"]["entry"]["text"])
        return found


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A page of a browser of its own, which ends when the block does.

    Args:
        profile: a folder for what the browser keeps
    """
    found = program()
    assert found is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # the browser reads from 3 and writes to 4
    line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", line, found, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    with (profile.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    os.close(theirs_in)
    os.close(theirs_out)
    tab = None
    try:
        tab = Page(ours_out, ours_in)
        yield tab
    finally:
        if tab is not None:
            tab.selector.close()
        os.close(ours_out)  # a browser whose pipe is closed ends by itself
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)
