"""Claims: which writer works on which clip.  They save work; the final rename decides.

A claim is the file claims/<key>.json with owner, host, process id and start time of the process,
and a checksum.  It is written under a temporary name and then linked to its own, which fails when
there is one, so that a claim is never seen half-written; where the file system has no links it is
written in place.  Its mtime is the heartbeat, by the clock of the disk: those of the hosts may
differ.  A claim is dead when its process has ended (same host), or after `expiry_seconds` without a
heartbeat, or when it is damaged.
"""

import errno
import logging
import os
import re
import shutil
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenreel.cache.canonical import canonical_json, open_seal, parse_object, seal
from tokenreel.cache.errors import LIMITS, Damaged, StoreError
from tokenreel.cache.files import again_if_stale, clock_of, make_directory, write_new

log = logging.getLogger(__name__)

EXPIRY_SECONDS = 300.0  # of a claim of another host without a heartbeat
WRITING_SECONDS = 10.0  # an empty claim that is younger is being written, where links are missing
NO_LINKS = (  # how file systems say that they have none
    *(errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL),
)


class ClaimHeld(StoreError):
    """Another live writer works on the clip, or has committed it: skip the clip."""

    exit_status = 3


@dataclass(frozen=True)
class ClaimHolder:
    """Who holds a claim, as its file says.

    Attributes:
        owner: a word for people.
        host: name of the machine.
        pid: of the process.
        started: when the process started, in ticks since boot.
        token: of this claim alone.
    """

    owner: str
    host: str
    pid: int
    started: str
    token: str

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this host that is no more."""
        return self.host == socket.gethostname() and _started(self.pid) != self.started

    @property
    def is_running(self) -> bool:
        """Whether it is a process of this host that runs."""
        return self.host == socket.gethostname() and _started(self.pid) == self.started != ""


def read_claim(path: Path) -> ClaimHolder:
    """Who holds a claim.

    Raises:
        Damaged: not what take_claim wrote.
        FileNotFoundError: there is no such claim.
        OSError: this process may not read it.
    """
    try:
        data = again_if_stale(path.read_bytes)
    except IsADirectoryError as error:
        raise Damaged(f"{path}: a folder, not a claim") from error
    values = parse_object(data, where=path)
    if "crc32c" in values:  # those of earlier versions have no checksum
        values = open_seal(values, where=path)
    kinds: dict[str, Any] = ClaimHolder.__annotations__
    if values.keys() != kinds.keys() or any(
        not isinstance(values[name], kind) for name, kind in kinds.items()
    ):
        raise Damaged(f"{path}: not a claim")
    return ClaimHolder(**values)


def is_live(path: Path, *, expiry_seconds: float = EXPIRY_SECONDS) -> bool:
    """Whether a claim belongs to a writer that works: its process is asked, else its heartbeat.

    A damaged claim belongs to nobody; see damaged_claim.
    """
    holder: ClaimHolder | None
    try:
        holder = read_claim(path)
    except FileNotFoundError:
        return False
    except Damaged:
        return _is_being_written(path)
    except OSError:  # of another user: the heartbeat tells
        holder = None
    if holder is not None and (holder.is_running or holder.has_ended):
        return holder.is_running
    try:
        return _age(path) < expiry_seconds
    except FileNotFoundError:
        return False


def clip_of_temporary(entry: Path) -> str:
    """The key of the clip that a writer's directory clips/<hh>/.tmp-<key>-<writer> is of, or "".

    >>> clip_of_temporary(Path("clips/fa/.tmp-a_clip_1-fa0545d8-extract-01234567"))
    'a_clip_1-fa0545d8'
    """
    found = re.match(rf"\.tmp-(.+?-{re.escape(entry.parent.name)}[0-9a-f]{{6}})-", entry.name)
    return found[1] if found else ""


def is_in_work(entry: Path, claims: Path) -> bool:
    """Whether a live writer works in a directory of clips/<hh>/."""
    key = clip_of_temporary(entry)
    return key != "" and is_live(claims / f"{key}.json")


def damaged_claim(path: Path) -> str:
    """What is wrong with a claim, in one sentence; "" where nothing is, or there is none."""
    try:
        read_claim(path)
    except Damaged as error:
        return "" if _is_being_written(path) else str(error)
    except OSError:
        return ""
    return ""


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
        """Heartbeat: touch the file.  A disk that is away for a while costs no more than a beat."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the file, unless another writer has taken the claim over."""
        self.is_held = False
        with suppress(OSError, Damaged):
            if read_claim(self.path).token == self.token:
                self.path.unlink()


def take_claim(folder: Path, key: str, *, owner: str, expiry_seconds: float) -> Claim:
    """Claim a clip.

    Raises:
        ClaimHeld: another live writer has it.
    """
    path, token = folder / f"{key}.json", uuid.uuid4().hex
    mine = ClaimHolder(owner, socket.gethostname(), os.getpid(), _started(os.getpid()), token)
    for _ in range(4):  # the folder may have to be made
        beside = folder / f".tmp-{token}"
        try:
            beside.write_bytes(canonical_json(seal(asdict(mine))))
            _publish(beside, path)
            return Claim(path, token)
        except FileExistsError:
            _break_if_dead(path, expiry_seconds)
        except FileNotFoundError:  # no folder yet, or somebody swept it just then
            make_directory(folder)
        finally:
            beside.unlink(missing_ok=True)
    raise ClaimHeld(f"{path.stem}: claimed by another writer")


def _publish(beside: Path, path: Path) -> None:
    """Give a claim its name.  FileExistsError where there is one."""
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        write_new(path, beside.read_bytes())


def _break_if_dead(path: Path, expiry_seconds: float) -> None:
    held: ClaimHolder | None = None
    try:
        age = _age(path)
    except FileNotFoundError:
        return
    try:
        held = read_claim(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if age < expiry_seconds:
            raise ClaimHeld(f"{path.stem}: another user's writer works on it") from error
    except Damaged as error:
        if _is_being_written(path):
            raise ClaimHeld(f"{path.stem}: another writer claims it") from error
        log.warning("%s; taken for the claim of a dead writer, and replaced", error)
    if held is not None and not held.has_ended and age < expiry_seconds:
        raise ClaimHeld(f"{path.stem}: {held.owner} on {held.host} works on it")
    grave = path.with_name(f".tmp-dead-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        path.rename(grave)
        if _is_of_another(grave, held):
            with suppress(FileExistsError):  # we took a newer, live one: put it back
                _publish(grave, path)
        shutil.rmtree(grave) if grave.is_dir() else grave.unlink()


def _is_of_another(grave: Path, held: ClaimHolder | None) -> bool:
    """Whether a claim that was moved away is whole and not the dead one."""
    try:
        return read_claim(grave) != held
    except (Damaged, OSError):
        return False


def _is_being_written(path: Path) -> bool:
    with suppress(FileNotFoundError):
        status = again_if_stale(path.stat)
        return status.st_size == 0 and clock_of(path.parent) - status.st_mtime < WRITING_SECONDS
    return False


def _age(path: Path) -> float:
    """Seconds since the heartbeat of a claim, by the clock of the disk that stamped it."""
    beat = again_if_stale(path.stat).st_mtime
    return clock_of(path.parent) - beat


def process_ended(pid: int) -> bool:
    """Whether this host has no such process, or only what is left of it."""
    return _started(pid) == ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "" when there is none.  Defeats reused ids."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError as error:
        if error.errno in LIMITS:  # a process that cannot be looked at has not ended
            raise
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    return "" if fields[0] in "ZX" else fields[19]
