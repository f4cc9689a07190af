"""Claims: which writer works on which clip.  They save work; the final rename decides.

A claim is the file claims/<key>.json with owner, host, process id and start time of the process,
and a checksum.  A writer has one such file, under a temporary name, and links it to the names of
its claims, which fails where there is one: so a claim is never seen half-written, costs one
operation of the disk, and one heartbeat is of all.  Where the file system has no links, claims are
written in place.  Their mtime is the heartbeat, by the clock of the disk: those of the hosts may
differ.  A claim is dead when its process has ended (same host), or after `expiry_seconds` without a
heartbeat, or when it is damaged.
"""

import errno
import functools
import hashlib
import logging
import math
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.objects import ObjectState
from tokenreel.cache.bucket.path import is_bucket, read_object
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
        started: when the process started, in ticks since boot, and the machine or container whose
            processes it is one of, see start_of.
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
        return is_here(self.host, self.started) and _started(self.pid) != self._ticks

    @property
    def is_running(self) -> bool:
        """Whether it is a process of this host that runs."""
        return is_here(self.host, self.started) and _started(self.pid) == self._ticks != ""

    @property
    def _ticks(self) -> str:
        return self.started.partition("@")[0]


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
    return parse_claim(data, where=path)


def parse_claim(data: bytes, *, where: object) -> ClaimHolder:
    """Who holds a claim of these bytes; one on a bucket also counts its puts, as `beat`.

    Raises:
        Damaged: not what take_claim wrote.
    """
    values = parse_object(data, where=where)
    if "crc32c" in values:  # those of earlier versions have no checksum
        values = open_seal(values, where=where)
    values.pop("beat", None)
    kinds: dict[str, Any] = ClaimHolder.__annotations__
    if values.keys() != kinds.keys() or any(
        not isinstance(values[name], kind) for name, kind in kinds.items()
    ):
        raise Damaged(f"{where}: not a claim")
    return ClaimHolder(**values)


def is_live(path: Path, *, expiry_seconds: float = EXPIRY_SECONDS) -> bool:
    """Whether a claim belongs to a writer that works: its process is asked, else its heartbeat.

    A damaged claim belongs to nobody; see damaged_claim.
    """
    holder: ClaimHolder | None
    if is_bucket(path):
        with suppress(FileNotFoundError):
            return is_live_object(path, *read_object(path), expiry_seconds=expiry_seconds)
        return False
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


def wait_for_heartbeats(
    folder: Path,
    keys: Iterable[str],
    *,
    is_over: Callable[[], bool],
    expiry_seconds: float = EXPIRY_SECONDS,
) -> set[str]:
    """Wait until it is known of each claim whether its writer works.

    That of another host works where a heartbeat comes, and does not after `expiry_seconds` without
    one: it was killed with its node, and what it began would stay undone.

    Args:
        folder: of the claims.
        keys: of clips that others have claimed.
        is_over: called now and then; ends the wait.
        expiry_seconds: as StoreWriter.

    Returns:
        Keys of those that nobody works on.
    """
    left, free = set(keys), set[str]()
    first: dict[str, float] = {}
    while left and not is_over():
        for key in sorted(left):
            path = folder / f"{key}.json"
            try:
                if is_bucket(path):
                    data, state = read_object(path)
                    beat, is_running = state.modified, parse_claim(data, where=path).is_running
                else:
                    beat = again_if_stale(path.stat).st_mtime
                    is_running = read_claim(path).is_running
            except FileNotFoundError:
                beat, is_running = -math.inf, False
            except (OSError, Damaged):
                is_running = False
            if is_running or first.setdefault(key, beat) != beat:
                left.discard(key)
            elif not is_live(path, expiry_seconds=expiry_seconds):
                left.discard(key)
                free.add(key)
        if left:
            time.sleep(min(expiry_seconds / 60, 5.0))
    return free


def is_live_object(path: Path, data: bytes, state: ObjectState, *, expiry_seconds: float) -> bool:
    """As is_live, of a claim on a bucket of which these are the bytes and the state."""
    try:
        holder = parse_claim(data, where=path)
    except Damaged:
        return False
    if holder.is_running or holder.has_ended:
        return holder.is_running
    return clock_of(path.parent) - state.modified < expiry_seconds


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

    Args:
        path: its name.
        writer: whose it is.
        is_link: whether it is a name of the writer's own file, so that both have one heartbeat.

    Attributes:
        is_held: False once it is released.
    """

    def __init__(self, path: Path, writer: "WriterClaims", *, is_link: bool) -> None:
        self.path, self.is_link = path, is_link
        self._writer = writer
        self.is_held = True

    @property
    def token(self) -> str:
        """Of the writer."""
        return self._writer.holder.token

    def beat(self) -> None:
        """Heartbeat: touch the file.  A disk that is away for a while costs no more than a beat."""
        with suppress(OSError):
            os.utime(self.path)

    @property
    def is_taken_over(self) -> bool:
        """Whether another writer has, or had, the clip: this one gave no heartbeat for long."""
        try:
            return read_claim(self.path).token != self.token
        except FileNotFoundError:
            return self.path.parent.is_dir()
        except (OSError, Damaged):
            return False

    def release(self) -> None:
        """Remove the file, unless another writer has taken the claim over."""
        self.is_held = False
        self._writer.forget(self)
        with suppress(OSError, Damaged):
            is_fresh = self.is_link and self._writer.is_fresh  # both names have one heartbeat
            if is_fresh or read_claim(self.path).token == self.token:
                self.path.unlink()


class WriterClaims:
    """The claims of a writer: other names of one file, which the writer keeps while it works.

    So a claim is one operation of the disk, its end is another, and one heartbeat is of all.

    Args:
        folder: of the claims; made when absent.
        owner: a word for people.
        expiry_seconds: a claim of another host is dead after that long without a heartbeat.
    """

    def __init__(self, folder: Path, *, owner: str, expiry_seconds: float = EXPIRY_SECONDS) -> None:
        pid = os.getpid()
        self.holder = ClaimHolder(owner, socket.gethostname(), pid, start_of(pid), uuid.uuid4().hex)
        self._folder, self._expiry_seconds = folder, expiry_seconds
        self._file = _file_of_writer(folder, self.holder)
        self._is_written, self._has_links = False, True
        self._beaten = -math.inf
        self._data = canonical_json(seal(asdict(self.holder)))
        self._held: dict[str, Claim] = {}
        self._guard = threading.Lock()

    @property
    def is_fresh(self) -> bool:
        """Whether the last heartbeat is so young that no other writer can have taken a claim."""
        return steady_clock() - self._beaten < self._expiry_seconds / 2

    def take(self, key: str) -> Claim:
        """Claim a clip.

        Raises:
            ClaimHeld: another live writer has it, or this one.
            OSError: the disk is full, read-only or gone.
        """
        path = self._folder / f"{key}.json"
        with self._guard:
            if key in self._held:
                raise ClaimHeld(f"{key}: this writer works on it")
            for _ in range(4):  # the folder may have to be made
                try:
                    is_link = self._publish(path)
                except FileExistsError:
                    if not _break_if_dead(path, self._expiry_seconds, own=self.holder):
                        continue
                    is_link = True  # the answer of the server was lost, and the link tried again
                except FileNotFoundError:  # no folder yet, or somebody swept it just then
                    self.close()
                    make_directory(self._folder)
                    continue
                self._held[key] = Claim(path, self, is_link=is_link)
                return self._held[key]
        raise ClaimHeld(f"{key}: claimed by another writer")

    def _publish(self, path: Path) -> bool:
        """Give a claim its name; returns whether it is a link.  FileExistsError where there is one.

        Where the file system has no links it is written in place.
        """
        if self._has_links:
            self._make_young()
            try:
                os.link(self._file, path)
            except OSError as error:
                if error.errno == errno.ESTALE:  # swept by another host
                    raise FileNotFoundError(*error.args, str(self._file)) from error
                if error.errno not in NO_LINKS:
                    raise
                self._has_links = False
                self.close()
            else:
                return True
        _write_claim(path, self._data)
        return False

    def _make_young(self) -> None:
        """Write the writer's file, or touch it where the last heartbeat is old.

        A link has the heartbeat of its file: a new claim must not be born dead.
        """
        now = steady_clock()
        if not self._is_written:
            _write_claim(self._file, self._data)
        elif now - self._beaten > self._expiry_seconds / 5:
            os.utime(self._file)
        else:
            return
        self._is_written, self._beaten = True, now

    def beat(self) -> None:
        """Heartbeat of all claims."""
        with self._guard:
            held, started = list(self._held.values()), steady_clock()
        try:
            os.utime(self._file)
            self._beaten = started
            held = [claim for claim in held if not claim.is_link]
        except OSError:
            pass  # nothing was claimed yet, or it is gone: each claim is touched
        for claim in held:
            claim.beat()

    def forget(self, claim: Claim) -> None:
        """Take a claim off the list of those held."""
        with self._guard:
            if self._held.get(claim.path.stem) is claim:
                del self._held[claim.path.stem]

    def release_all(self) -> None:
        """Release the claims that are held, and remove the writer's file."""
        with self._guard:
            held = list(self._held.values())
        for claim in held:
            claim.release()
        self.close()

    def close(self) -> None:
        """Remove the writer's file; its claims stay, and each has its own heartbeat."""
        self._is_written, self._beaten = False, -math.inf
        for claim in self._held.values():
            claim.is_link = False
        with suppress(OSError):
            self._file.unlink()


def take_claim(folder: Path, key: str, *, owner: str, expiry_seconds: float) -> Claim:
    """Claim a clip alone; see WriterClaims.take."""
    writer = WriterClaims(folder, owner=owner, expiry_seconds=expiry_seconds)
    try:
        return writer.take(key)
    finally:
        writer.close()


def remove_writer_file(folder: Path, holder: ClaimHolder) -> None:
    """Remove the file that the claims of a dead writer are names of."""
    if re.fullmatch("[0-9a-f]{32}", holder.token):
        with suppress(OSError):
            _file_of_writer(folder, holder).unlink()


def is_of_dead_writer(path: Path) -> bool:
    """Whether a file is the one to which a writer that has ended linked its claims."""
    try:
        return path.name == f".tmp-{read_claim(path).token}" and not is_live(path)
    except (OSError, Damaged):
        return False


def _file_of_writer(folder: Path, holder: ClaimHolder) -> Path:
    return folder / f".tmp-{holder.token}"


def _write_claim(path: Path, data: bytes) -> None:
    """Write a new file, or none.  FileExistsError where there is one."""
    try:
        write_new(path, data)
    except FileExistsError:
        raise
    except OSError:  # a full disk leaves an empty file, which would be taken for a claim
        with suppress(OSError):
            path.unlink()
        raise


def _break_if_dead(path: Path, expiry_seconds: float, *, own: ClaimHolder) -> bool:
    """Remove a claim that is dead; returns whether it is the writer's own.

    Raises:
        ClaimHeld: it is live.
    """
    held: ClaimHolder | None = None
    try:
        age = _age(path)
        held = read_claim(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        if age < expiry_seconds:
            raise ClaimHeld(f"{path.stem}: another user's writer works on it") from error
    except Damaged as error:
        if _is_being_written(path):
            raise ClaimHeld(f"{path.stem}: another writer claims it") from error
        log.warning("%s; taken for the claim of a dead writer, and replaced", error)
    if held == own:
        return True
    if held is not None and not held.has_ended and age < expiry_seconds:
        raise ClaimHeld(f"{path.stem}: {held.owner} on {held.host} works on it")
    grave = path.with_name(f".tmp-dead-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        path.rename(grave)
        if _is_of_another(grave, held):
            _put_back(grave, path)  # we took a newer, live one
        elif held is not None:
            remove_writer_file(path.parent, held)
        shutil.rmtree(grave) if grave.is_dir() else grave.unlink()
    return False


def _put_back(grave: Path, path: Path) -> None:
    """Give a claim its name again.  It stays away where there is another by now."""
    with suppress(FileExistsError):
        try:
            os.link(grave, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            write_new(path, grave.read_bytes())


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


def steady_clock() -> float:
    """Seconds of a clock that nobody sets, and that counts while the machine sleeps, if it can."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def is_here(host: str, started: str) -> bool:
    """Whether a process is one that this process can look at.

    Hosts, and above all containers, may have equal names.

    Args:
        host: of the process.
        started: of start_of; earlier versions wrote the ticks alone.
    """
    _, is_known, machine = started.partition("@")
    return host == socket.gethostname() and (not is_known or machine == _machine())


def start_of(pid: int) -> str:
    """When a process started, and of which machine or container it is: "TICKS@MACHINE", or ""."""
    ticks, machine = _started(pid), _machine()
    return f"{ticks}@{machine}" if ticks and machine else ticks


@functools.cache
def _machine() -> str:
    """What tells this machine since it started, and this container, from others; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        processes = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  no path of a file
    except OSError as error:
        if error.errno in LIMITS:
            raise
        return ""
    return hashlib.sha256(f"{boot} {processes}".encode()).hexdigest()[:16]


def process_ended(pid: int, started: str = "") -> bool:
    """Whether this host has no such process, or only what is left of it.

    Args:
        pid: of the process.
        started: of start_of; another process that has the number now is not it.  "" for unknown.
    """
    ticks = _started(pid)
    return ticks == "" or ticks != (started.partition("@")[0] or ticks)


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
