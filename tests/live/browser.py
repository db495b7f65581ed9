"""A headless Chromium, driven through its own DevTools protocol over a WebSocket; nothing else is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {
    "Delete": ("Delete", 46),
    "Home": ("Home", 36),
    " ": ("Space", 32),
    "ArrowLeft": ("ArrowLeft", 37),
    "ArrowRight": ("ArrowRight", 39),
}
PATIENCE = 240.0


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:600])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, patience: float = PATIENCE) -> Any:
        """The value of an expression, once it is true."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            found = self.run(script)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; errors: {self.errors}")

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=address)

    def press(self, key: str, seconds: float = 0.0, shift: bool = False) -> None:
        """Press a key, hold it, let go."""
        code, number = KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0])))
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common)
        time.sleep(seconds)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, element: str) -> None:
        """The mouse on the middle of an element, by its id."""
        box = f"document.getElementById('{element}').getBoundingClientRect()"
        x, y = self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, key: str, shift: bool = False) -> None:
        """A key that is down and up within one moment, however slow the machine."""
        code = KEYS.get(key, (f"Key{key.upper()}", 0))[0]
        common = json.dumps({"key": key, "code": code, "shiftKey": shift, "bubbles": True, "cancelable": True})
        self.run(
            f"for (const type of ['keydown', 'keyup']) document.activeElement.dispatchEvent("
            f"new KeyboardEvent(type, {common}))"
        )

    def size(self, width: int, height: int, scheme: str = "light", phone: bool = False) -> None:
        """Size of the window, and whether it is light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, whole: bool = False) -> Path:
        """A screenshot."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path


def find_chromium() -> str | None:
    """The browser, where there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh browser with one tab; the test is skipped where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs a Chromium; on Debian: apt-get install chromium")
    with tabs(program, 1) as found:
        yield found[0]


@contextmanager
def tabs(program: str, count: int) -> Iterator[list[Page]]:
    """A fresh browser with so many tabs, none of which is put to sleep."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(prefix="mosaicmem-browser-", ignore_cleanup_errors=True) as profile:
        options = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"),
            *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--mute-audio"),
            *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
            *("--disable-renderer-backgrounding", "--disable-background-timer-throttling"),
            *("--disable-backgrounding-occluded-windows", "--no-proxy-server", "--disable-extensions"),
            # a mouse, as on a desk; nothing tells a headless browser that there is one
            "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
            *(f"--user-data-dir={profile}", "about:blank"),
        ]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile), process)
            end = time.monotonic() + PATIENCE
            while not (targets := _targets(port)) and time.monotonic() < end:
                time.sleep(0.05)
            assert targets, "the browser has no tab"
            while len(targets) < count:
                _ask(port, "new", "PUT")
                targets = _targets(port)
            with contextlib.ExitStack() as stack:
                yield [Page(stack.enter_context(connect(url, max_size=None, proxy=None))) for url in targets]
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _targets(port: int) -> list[str]:
    return [tab["webSocketDebuggerUrl"] for tab in _ask(port, "list") if tab["type"] == "page"]


def _ask(port: int, what: str, method: str = "GET") -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"http://127.0.0.1:{port}/json/{what}", method=method)) as answer:
        return json.load(answer)


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        file = profile / "DevToolsActivePort"
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("the browser did not start")
