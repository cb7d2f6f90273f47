"""A real browser, driven as its own developer tools do: over a pipe, with the DevTools protocol and nothing between."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_SWITCHES = (
    "--headless",
    "--no-sandbox",  # for containers; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class Browser:
    """One process of the browser with a profile of its own."""

    def __init__(self, folder: Path, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        read_theirs, self._write = os.pipe()
        self._read, write_theirs = os.pipe()
        environment = os.environ | {"HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        spare = [os.dup(read_theirs), os.dup(write_theirs)]  # neither is 3 or 4 by then, unless it was free
        actions = [(os.POSIX_SPAWN_DUP2, spare[0], 103), (os.POSIX_SPAWN_DUP2, spare[1], 104)]
        actions += [(os.POSIX_SPAWN_DUP2, 103, 3), (os.POSIX_SPAWN_DUP2, 104, 4)]
        actions += [(os.POSIX_SPAWN_OPEN, 2, str(folder / "browser.log"), os.O_WRONLY | os.O_CREAT, 0o600)]
        command = [str(BROWSER), *_SWITCHES, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._pid = os.posix_spawn(str(BROWSER), command, environment, file_actions=actions, setpgroup=0)
        for end in (read_theirs, write_theirs, *spare):
            os.close(end)
        self._left = b""
        self._number = 0
        self.heard: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of one command; events that come meanwhile are kept in ``heard``."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(asked | ({"sessionId": session} if session else {})).encode() + b"\0")
        until = time.monotonic() + self._timeout_s
        while True:
            message = self._next(until)
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self.heard.append(message)

    def open(self, address: str, **emulated: Any) -> "Tab":
        """A new tab with a storage of its own that shows ``address``; see ``Tab.emulate``."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, context)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.emulate(**emulated)
        tab.call("Page.navigate", url=address)
        tab.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return tab

    def close(self) -> None:
        """End it, its children too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read)
        os.close(self._write)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser has ended"
            self._left += piece
        message, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Tab:
    """One tab."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser, self._session, self._context = browser, session, context

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """See ``Browser.call``."""
        return self._browser.call(method, self._session, **parameters)

    def emulate(self, language: str = "en-GB", width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """A browser of that language and size in CSS pixels, of somebody who prefers dark or light."""
        self.call("Emulation.setUserAgentOverride", userAgent="fedbank-test", acceptLanguage=language)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, within_s: float = 30.0) -> Any:
        """What the expression gives once it is true; true for a part of the page."""
        until = time.monotonic() + within_s
        asked = f"(found => found instanceof Node || found)({script})"
        while not (found := self.run(asked)):
            assert time.monotonic() < until, (script, self.run("document.body.innerText"))
            time.sleep(0.05)
        return found

    def text(self, selector: str) -> str:
        """What the first such element shows."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """As a person does: with the mouse, on what is there to be seen."""
        place = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect();"
            f"return [r.left + r.width / 2, r.top + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """One key; ``code`` is its Windows virtual key code."""
        typed = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def close(self) -> None:
        """Gone, with its storage."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def picture(self, path: Path) -> None:
        """What it looks like."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of each such event so far."""
        self.run("1")  # whatever was on its way is there by then
        mine = (event for event in self._browser.heard if event.get("sessionId") == self._session)
        return [event["params"] for event in mine if event["method"] == method]
