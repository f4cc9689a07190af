"""A headless Chromium, spoken to through two pipes: no port, no driver, no other package.

The DevTools protocol is JSON messages that end with a zero byte: descriptor 3 is read by the
browser, 4 is written by it (--remote-debugging-pipe).
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DEADLINE_SECONDS = 300


def find_chromium():
    """Its path, or None where there is none; TOKENREEL_CHROMIUM names one."""
    named = os.environ.get("TOKENREEL_CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """A page of a file, or of an address, in a browser of its own; used as a context.

    Attributes:
        console: what the page said at level warning or error, and its exceptions.
        requests: addresses that it asked for, data: ones left out.
    """

    def __init__(self, path, profile, *, width=1200, height=900, dark=False):
        self.console, self.requests = [], []
        self._number, self._buffer, self._session, self._loaded = 0, b"", None, False
        self._start(profile, width, height)
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            found = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = found["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self._call("Emulation.setEmulatedMedia", features=[scheme])
            self._call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            is_address = str(path).startswith("http://")
            self._call("Page.navigate", url=path if is_address else Path(path).resolve().as_uri())
            self._wait(lambda: self._loaded)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def run(self, code):
        """The value of an expression in the page; a promise is waited for."""
        result = self._call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key, *, text=""):
        """Press and release a key, as a keyboard does."""
        codes = {"Enter": 13, "Tab": 9, " ": 32, "ArrowRight": 39, "End": 35}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def drag(self, start, stop=None):
        """Press the mouse at a place of the page, (x, y), and release it there or at another."""
        for kind, (x, y) in (("mousePressed", start), ("mouseReleased", stop or start)):
            about = {"button": "left", "buttons": 1, "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **about)

    def wait(self, condition):
        """Wait until an expression in the page is true; its value."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not (value := self.run(condition)):
            assert time.monotonic() < end, (condition, self.console)
            time.sleep(0.05)
        return value

    def type(self, words):
        """Type into the field that has the focus, and wait until it has the words."""
        self._call("Input.insertText", text=words)
        self.wait(f"document.activeElement.value.endsWith({json.dumps(words)})")

    def screenshot(self, path, *, clip=None):
        """Write what is seen, or a part of the page, as PNG."""
        given = {"clip": {**clip, "scale": 1}, "captureBeyondViewport": True} if clip else {}
        data = self._call("Page.captureScreenshot", format="png", **given)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def print_media(self, width):
        """Show the page as paper of that width, in CSS pixels."""
        self._call("Emulation.setEmulatedMedia", media="print")
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=720,
            deviceScaleFactor=1,
            mobile=False,
        )

    def pdf(self, path):
        """Write the page as a PDF, on the paper that its style asks for."""
        data = self._call("Page.printToPDF", preferCSSPageSize=True)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        """End the browser and what it started."""
        for handle in (self._write, self._read):
            os.close(handle)
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _start(self, profile, width, height):
        words = [
            find_chromium(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        theirs_read, self._write = os.pipe()
        self._read, theirs_write = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        # Moved out of the way first: 3 and 4 may be among those just opened.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_read, theirs_write)]
        places = [(nothing, 1), (nothing, 2), (high[0], 3), (high[1], 4)]
        actions = [(os.POSIX_SPAWN_DUP2, *pair) for pair in places]
        self._pid = os.posix_spawn(words[0], words, os.environ, file_actions=actions, setpgroup=0)
        for handle in (theirs_read, theirs_write, nothing, *high):
            os.close(handle)

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda: None, number=self._number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _wait(self, is_done, *, number=None):
        end = time.monotonic() + DEADLINE_SECONDS
        while number is not None or not is_done():
            while b"\0" not in self._buffer:
                ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
                assert ready, f"the browser said nothing for {DEADLINE_SECONDS} s"
                data = os.read(self._read, 1 << 20)
                assert data, "the browser ended"
                self._buffer += data
            text, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(text)
            if number is not None and message.get("id") == number:
                return message
            self._note(message.get("method"), message.get("params", {}))
        return None

    def _note(self, method, params):
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.console.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)
