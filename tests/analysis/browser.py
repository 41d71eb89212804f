"""A page in headless Chromium, driven by the DevTools protocol over two pipes: nothing but Chromium is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
PATIENCE = 60.0  # seconds
#: Chromium reads from descriptor 3 and writes to 4. First out of the way of either, then there.
_LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """Chromium, or a browser made of it: the one that CHROMIUM names, else the first on the PATH."""
    named = os.environ.get("CHROMIUM")
    return (shutil.which(named) if named else None) or next(
        (found for name in NAMES if (found := shutil.which(name))), None
    )


class Browser:
    """with Browser(program, directory) as browser: browser.open(path); browser.evaluate("1 + 1")."""

    def __init__(self, program: str, directory: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # what we write and they read, and the other way round
        profile = f"--user-data-dir={directory / 'profile'}"
        self._log = (directory / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _LAUNCH,
                str(ours[0]),
                str(theirs[1]),
                program,
                *FLAGS,
                profile,
                "--remote-debugging-pipe",
                "about:blank",
            ],
            pass_fds=(ours[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read, self._buffer = ours[1], theirs[0], b""
        self._number, self._session = 0, ""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._log.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command; what happened until then is added to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda m: m.get("id") == self._number, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, path: Path, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """Load a file and wait until all of it is there; `events` are those of this page."""
        self._navigate("about:blank")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._navigate(path.resolve().as_uri())
        self.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => 0)")

    def _navigate(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)
        if not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._wait(lambda m: m.get("method") == "Page.loadEventFired", url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def pdf(self) -> bytes:
        """The page as printed, A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(printed["data"])

    def requests(self) -> list[str]:
        """Everything the page asked for, data URIs aside."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Everything on the console, what was thrown, and what the browser itself logged (blocked, not found, …)."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e["params"])[:300] for e in self.events if e["method"] in kinds]

    def _wait(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(line)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            ready = select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"Chromium did not answer within {PATIENCE:g} s: {what}"
            more = os.read(self._read, 1 << 20)
            assert more, f"Chromium has ended, see {self._log.name}: {what}"
            self._buffer += more
