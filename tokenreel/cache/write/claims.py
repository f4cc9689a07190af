"""Claims: which writer works on which clip.  They save work; the final rename decides.

A claim is the file claims/<key>.json with owner, host, process id and start time of the process.
It is written under a temporary name and then linked to its own, which fails when there is one, so
that a claim is never seen half-written.  Its mtime is the heartbeat.  A claim is dead when its
process has ended (same host), or after `expiry_seconds` without a heartbeat.
"""

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.errors import StoreError
from tokenreel.cache.files import make_directory


class ClaimHeld(StoreError):
    """Another live writer works on the clip, or has committed it: skip the clip."""

    exit_status = 3


class Claim:
    """A claim that this process has taken.

    Attributes:
        is_held: False once it is released.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self.token = token
        self.is_held = True

    def beat(self) -> None:
        """Heartbeat: touch the file."""
        with suppress(FileNotFoundError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the file, unless another writer has taken the claim over."""
        self.is_held = False
        with suppress(OSError, ValueError, KeyError):
            if json.loads(self.path.read_bytes())["token"] == self.token:
                self.path.unlink()


def take_claim(folder: Path, key: str, *, owner: str, expiry_seconds: float) -> Claim:
    """Claim a clip.

    Raises:
        ClaimHeld: another live writer has it.
    """
    make_directory(folder)
    path, token = folder / f"{key}.json", uuid.uuid4().hex
    mine = {
        "owner": owner,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "token": token,
        "started": _started(os.getpid()),
    }
    for _ in range(3):
        beside = folder / f".tmp-{token}"
        try:
            beside.write_bytes(canonical_json(mine))
            os.link(beside, path)
            return Claim(path, token)
        except FileExistsError:
            _break_if_dead(path, expiry_seconds)
        finally:
            beside.unlink(missing_ok=True)
    raise ClaimHeld(f"{path.stem}: claimed by another writer")


def _break_if_dead(path: Path, expiry_seconds: float) -> None:
    try:
        held = json.loads(path.read_bytes())
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return
    except ValueError:
        held, age = {}, time.time() - path.stat().st_mtime
    here = held.get("host") == socket.gethostname()
    gone = here and _started(int(held["pid"])) != held["started"]
    if not gone and age < expiry_seconds:
        raise ClaimHeld(f"{path.stem}: {held.get('owner')} on {held.get('host')} works on it")
    grave = path.with_name(f".tmp-dead-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        path.rename(grave)
        if held and json.loads(grave.read_bytes()).get("token") != held["token"]:
            with suppress(FileExistsError):  # we took a newer, live one: put it back
                os.link(grave, path)
        grave.unlink()


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "" when there is none.  Defeats reused ids."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    return "" if fields[0] in "ZX" else fields[19]
