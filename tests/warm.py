"""Real processes that begin with their imports done: each is a fork of one that waits, warm.

A process of its own pays seconds for the import of torch and timm.  These have their own id,
session, signals, threads and end as any other; what they inherit is modules alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WAITING = """
import importlib, json, os, signal, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
code = ""
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        child, status = os.waitpid(order["wait"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if child else None
    else:
        ready, has_session = os.pipe()
        answer = os.fork()
        if not answer:
            code, sys.argv[1:] = order["code"], order["words"]
            break
        os.close(has_session)
        os.read(ready, 1)  # until it has its session: signals to all of it reach it
        os.close(ready)
    print(json.dumps(answer), flush=True)
if not code:
    os._exit(0)
os.setsid()
output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
nothing = os.open("/dev/null", os.O_RDONLY)
for place, handle in enumerate((nothing, output, output)):
    os.dup2(handle, place)
for handle in (output, nothing, ready, has_session):
    os.close(handle)
exec(code, {"__name__": "__main__"})
"""


class WarmRun:
    """A process of `WarmProcess.start`: as much of subprocess.Popen as the tests use."""

    def __init__(self, ask, pid: int, output: Path) -> None:
        self.pid, self.returncode = pid, None
        self._ask, self._output = ask, output

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask(wait=self.pid)
        return self.returncode

    def wait(self, seconds: float = 600.0) -> None:
        """Wait for its end."""
        until = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < until, f"it runs on: {self._output.read_text()}"
            time.sleep(0.01)

    def kill(self) -> None:
        """Send SIGKILL, unless its end was seen."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, with the processes of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def output(self) -> str:
        """Wait for its end; what it wrote to both streams."""
        self.wait()
        return self._output.read_text()


class WarmProcess:
    """A process that has imported modules, and forks where it is told to.

    Args:
        modules: that it imports.
        folder: for what its forks print.
    """

    def __init__(self, *modules: str, folder: Path) -> None:
        top = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, [top, os.environ.get("PYTHONPATH", "")]))
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", WAITING, *modules],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},  # no thread to lose
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, code: str, *words: str) -> WarmRun:
        """Run code in a fork, with words after the name of its program."""
        self._count += 1
        output = self._folder / f"output-{self._count}"
        pid = self._ask(code=code, words=words, output=str(output))
        return WarmRun(self._ask, pid, output)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, **order: object) -> int | None:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())
