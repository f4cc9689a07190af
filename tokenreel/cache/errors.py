"""The exception tree, with the exit status that each error gives a command.

    TokenReelError                 3   a job finished with failures
    |-- UsageError                 2   a wrong word, key, path or value (also a ValueError)
    |-- StoreError                 5
    |   |-- StoreNotFound          2   no token store at the path
    |   |-- WrongIdentity          4   a store made with other settings
    |   |-- Damaged                5   a missing, torn or altered file
    |   |-- ClipNotFound           2   the store has no such clip, block, view or frame
    |   `-- MachineError           6   the machine, not the store: disk, permissions, limits, memory
    |-- EmbeddingFileError         5
    |   `-- UnreadableFile         6   also a MachineError
    `-- ClipFailed                 3   one clip could not be processed; the batch continues

Arguments of the wrong type or value raise TypeError and ValueError, as everywhere in Python.
"""

import errno
import mmap
import os
import signal
from functools import partial
from pathlib import Path

INTERRUPTED = 130
TERMINATED = 143

STATUSES = {  # of every command; README.md has the same table
    0: "done",
    1: "`store diff`: the stores differ; else a fault of TokenReel: a traceback, please report it",
    2: "a wrong word, key or path; the message suggests the nearest",
    3: "finished, with failures listed",
    4: "the store or run was made by another recipe; the differing fields are listed",
    5: "a store, run or embedding file is damaged",
    6: "the machine, not the store: a full or read-only disk, a quota, no inodes, too many open "
    "files, too little memory",
    INTERRUPTED: "stopped by Ctrl-C before the end; rerun the same command to resume",
    TERMINATED: "stopped by SIGTERM before the end; rerun the same command to resume",
}


class TokenReelError(Exception):
    """Base of everything that TokenReel raises about files and jobs."""

    exit_status = 3


class UsageError(TokenReelError, ValueError):
    """A word, key, path or value that the user gave is wrong."""

    exit_status = 2


class StoreError(TokenReelError):
    """A token store cannot be used."""

    exit_status = 5


class StoreNotFound(StoreError):
    """There is no token store at the path."""

    exit_status = 2


class WrongIdentity(StoreError):
    """The store was made with other settings; the message lists the fields that differ."""

    exit_status = 4


class Damaged(StoreError):
    """A file of the store is missing, torn or altered."""


class ClipNotFound(StoreError):
    """The store holds no such clip, block, view or frame."""

    exit_status = 2


class MachineError(StoreError):
    """This machine cannot go on, whatever the files hold: disk, permissions, limits or memory."""

    exit_status = 6


class ServiceError(OSError):
    """An object store does not do what it was asked: its fault or the credentials', no object's."""


class EmbeddingFileError(TokenReelError):
    """An embedding file is missing, torn or not in the documented layout."""

    exit_status = 5


class UnreadableFile(MachineError, EmbeddingFileError):
    """An embedding file that this process cannot read now: permissions, limits or memory."""


class ClipFailed(TokenReelError):
    """One clip could not be processed.

    Attributes:
        clip_id: the clip.
        stage: "open", "decode", "transform", "backbone", "encode", "write", "labels", "read"
            or "worker".
        reason: one sentence, as printed in the closing table.
    """

    def __init__(self, clip_id: str, *, stage: str, reason: str) -> None:
        super().__init__(f"{clip_id}: {stage}: {reason}")
        self.clip_id = clip_id
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return partial(ClipFailed, stage=self.stage, reason=self.reason), (self.clip_id,)


ADVICE = {  # of the errors of the operating system that are the machine's: what to do
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG), "make room and rerun the same command"),
    errno.EDQUOT: "make room within the quota and rerun the same command",
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "check that the path exists and is writable, or name another",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "close other programs, or allow more (see ulimit -n), and rerun the same command",
    ),
    errno.ENOMEM: "free memory and rerun the same command",
    errno.EAGAIN: "too many processes or threads (see ulimit -u): rerun when there are fewer",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO),
        "the disk or its server does not answer: rerun when it does",
    ),
}


def machine_error(error: OSError, what: object = "") -> MachineError | None:
    """The error for what is the fault of the machine; None for any other, such as no such file.

    Args:
        error: of the operating system.
        what: what could not be done; the name of the file when empty.

    >>> print(machine_error(OSError(errno.EDQUOT, "Disk quota exceeded"), "cannot write a.h5"))
    cannot write a.h5: Disk quota exceeded; make room within the quota and rerun the same command
    """
    if isinstance(error, ServiceError):
        return MachineError(f"{what or error.filename}: {error.strerror}")
    if error.errno not in ADVICE:
        return None
    reason, advice = error.strerror or str(error), ADVICE[error.errno]
    if error.errno == errno.ENOSPC and _lacks_inodes(error.filename):
        reason += " (no inodes are left: the disk has bytes, but no room for another file)"
        advice = "remove files that are not needed and rerun the same command"
    return MachineError(f"{what or error.filename or 'this machine'}: {reason}; {advice}")


LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
SPARE_BYTES = 2**28  # that a process can still have while its memory is not short


def limit_behind(error: BaseException | None) -> MachineError | None:
    """The limit of this process that is behind an error, for one that blames a file; else None.

    Where a file is about to be called damaged, wrong or unreadable, this is raised before: too many
    open files say nothing of it, nor does an object store that refuses or does not answer.

    A library runs out of memory for a file too whose header asks for more than there is: that is
    the file's fault where other memory is available.
    """
    cause = error
    while cause is not None:
        if isinstance(cause, ServiceError):
            return machine_error(cause)
        number = getattr(cause, "errno", None)
        if number in LIMITS and (number != errno.ENOMEM or is_memory_short()):
            what = error if error is not cause else getattr(error, "filename", None)
            return machine_error(OSError(number, os.strerror(number)), what or "")
        cause = cause.__cause__
    return None


def is_memory_short() -> bool:
    """Whether this process is refused 256 MiB; nothing is kept."""
    try:
        mmap.mmap(-1, SPARE_BYTES).close()
    except OSError:
        return True
    return False


def process_lost(what: str, exit_code: int | None, advice: str) -> TokenReelError:
    """The error for a process of ours that ended by itself: the machine's where it was killed.

    Args:
        what: the process.
        exit_code: of it, negative for a signal.
        advice: what to do.

    >>> print(process_lost("the process of cpu", -9, "rerun to resume"))
    the process of cpu was killed, perhaps because memory ran out: rerun to resume
    """
    if exit_code == -signal.SIGKILL:
        return MachineError(f"{what} was killed, perhaps because memory ran out: {advice}")
    return TokenReelError(f"{what} died (exit {exit_code}): {advice}")


def _lacks_inodes(file: object) -> bool:
    """Whether the disk of a file has room for bytes, but for no more files."""
    path = Path(os.fsdecode(file)) if isinstance(file, str | bytes | os.PathLike) else Path()
    for folder in (path, *path.absolute().parents):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0
    return False
