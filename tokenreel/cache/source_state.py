"""State of a source file: size, time of its last change and SHA-256, cheap ones first.

A source is a video file, or a folder of pictures: its files count together, in order of name.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

COARSE_NS = 2 * 10**9  # file systems keep times to 2 s at worst
TAG = "object_tag"  # of a record: the tag of a video on a bucket


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the file system says of a source.

    Attributes:
        num_bytes: size.
        mtime_ns: when it was last changed, nanoseconds since 1970.
        inode: device, number and ctime of the file: a file that takes its place has others.
        is_recent: whether it was changed so shortly before that another change may have its time.
        tag: of an object on a bucket, which changes with its bytes; "" on a disk.
    """

    num_bytes: int
    mtime_ns: int
    inode: tuple[int, int, int] = (0, 0, 0)
    is_recent: bool = False
    tag: str = ""

    def seems(self, other: "SourceState") -> bool:
        """Whether nothing was written between the two, as far as the file system can tell."""
        names = ("num_bytes", "mtime_ns", "inode", "tag")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def source_state(path: Path) -> SourceState:
    """The state of a video file or a folder of pictures.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if isinstance(path, Path):
            raise
        return _state_of_objects(path)
    num_bytes, mtime_ns = status.st_size, status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):
        num_bytes = 0
        for _, size, changed_ns in _files_of(path):
            num_bytes, mtime_ns = num_bytes + size, max(mtime_ns, changed_ns)
    inode = status.st_dev, status.st_ino, status.st_ctime_ns
    is_recent = abs(time.time_ns() - mtime_ns) < COARSE_NS
    return SourceState(num_bytes, mtime_ns, inode, is_recent, getattr(status, "tag", ""))


def _state_of_objects(folder: Any) -> SourceState:
    """The state of a folder of pictures on a bucket: its objects count together.

    Raises:
        FileNotFoundError: nothing is there.
    """
    found = [state for _, state in folder.objects()]
    if not found:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(folder))
    names = "".join(f"{len(state.key)}:{state.key}{state.tag}" for state in found)
    tag = hashlib.sha256(names.encode()).hexdigest()
    mtime_ns = int(max(state.modified for state in found) * 10**9)
    is_recent = abs(time.time_ns() - mtime_ns) < COARSE_NS
    return SourceState(sum(s.num_bytes for s in found), mtime_ns, is_recent=is_recent, tag=tag)


def source_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder: of name, size and bytes of each of its files.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, size, _ in _files_of(path):
        digest.update(f"{len(os.fsencode(name))}:{size}:".encode() + os.fsencode(name))
        with (path / name).open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    return digest.hexdigest()


def describe_source(num_bytes: int, mtime_ns: int | None, sha256: str, tag: str = "") -> str:
    """A video in words.

    >>> describe_source(1200, 0, "ab" * 32)
    '1200 bytes of 1970-01-01 00:00:00 (sha256 abababababab)'
    >>> describe_source(1200, None, ""), describe_source(1200, None, "", '"9f2"')
    ('1200 bytes', '1200 bytes (tag 9f2)')
    """
    when = ""
    if mtime_ns is not None:
        when = f" of {datetime.fromtimestamp(mtime_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
    mark = f" (sha256 {sha256[:12]})" if sha256 else ""
    return f"{num_bytes} bytes{when}{mark}" + (f" (tag {tag.strip(chr(34))})" if tag else "")


def _files_of(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each file of a folder, in order of name."""
    with os.scandir(folder) as entries:
        files = sorted((entry for entry in entries if entry.is_file()), key=lambda file: file.name)
    for file in files:
        status = file.stat()
        yield file.name, status.st_size, status.st_mtime_ns
