"""A real Chromium without a window, driven over WebDriver (W3C) by chromedriver, and what it found wrong with a page.

Debian's packages `chromium` and `chromium-driver`; no library is needed for the handful of commands. One browser serves
many tests: each opens its own pages in it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STARTS_WITHIN = 30.0
_ANSWERS_WITHIN = 60.0
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en",
)  # fmt: skip


def why_not() -> str:
    """Return why there is no browser; empty where there is one."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not here (Debian: chromium, chromium-driver)" if missing else ""


class Browser:
    """One session."""

    def __init__(self, address: str, profile: Path) -> None:
        self._address = address
        options = {
            "binary": shutil.which("chromium"),
            "args": [*_ARGUMENTS, f"--user-data-dir={profile}"],
        }
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        found = self._send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{found['sessionId']}"

    def close(self) -> None:
        """End the browser."""
        self._send("DELETE", self._session)

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._send("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Return what a script of ours returns: the page's own are another matter."""
        return self._send("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def tell(self, command: str, **parameters: object) -> Any:  # noqa: ANN401 - JSON
        """Send a command of the DevTools protocol."""
        return self._send("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def press(self, *keys: str) -> None:
        """Press and release keys, one after another."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._send("POST", f"{self._session}/actions", {"actions": [source]})

    def log(self) -> list[str]:
        """Return what was written to the console since the last call, violations of the policy among it."""
        return [each["message"] for each in self._send("POST", f"{self._session}/se/log", {"type": "browser"})]

    def has_alert(self) -> bool:
        """Whether a dialogue of a script is open."""
        try:
            self._send("GET", f"{self._session}/alert/text")
        except LookupError:
            return False
        return True

    def look(self, *, width: int, height: int = 800, dark: bool = False, scripts: bool = True) -> None:
        """Set the size of the window, the reader's colours, and whether pages may run scripts."""
        self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Emulation.setScriptExecutionDisabled", value=not scripts)

    def picture(self, *, most_height: int = 4000) -> bytes:
        """Return the whole page as a PNG."""
        size = self.tell("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most_height), "scale": 1}
        found = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(found["data"])

    def _send(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own loopback address
            self._address + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN) as answer:  # noqa: S310 - the same
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.load(error)["value"]
            raise LookupError(f"{method} {path}: {said['error']}: {said['message'].splitlines()[0]}") from None


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """Start a browser with a new profile in `folder`, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    with (folder / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(
            [shutil.which("chromedriver") or "", f"--port={port}"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait_for(port)
        browser = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # with what is left of the browser: they are a session of their own
        driver.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
