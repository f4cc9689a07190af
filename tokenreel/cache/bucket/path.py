"""A path on a bucket, with the part of `pathlib.Path` that stores and videos use.

A bucket has no folders, no links and no renames: a folder is there when something is below it,
making one does nothing, and everything that needs a disk says so.
"""

import errno
import fnmatch
import hashlib
import io
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, cast

from tokenreel.cache.bucket.objects import SCHEMES, Bucket, ObjectExists, ObjectState
from tokenreel.cache.errors import UsageError

BLOCK_BYTES = 2**17  # that a read of an open object fetches at least
MOST_BLOCKS = 16  # that one request fetches, where reads follow one another
KEPT_BLOCKS = 256  # of all open objects of the process

OTHERS = frozenset(("s3a", "s3n", "gcs", "abfs", "wasb", "hdfs", "http", "https", "file"))
EMPTY = re.compile(r"\w+:///")  # a URL without a bucket

_blocks: OrderedDict[tuple[str, str, int], memoryview] = OrderedDict()
_guard = threading.Lock()


def store_path(path: "str | Path") -> Path:
    """The path that a text or a path names: on a bucket for s3://, gs:// and az://, else here.

    `Path` makes "s3:/bucket/store" of "s3://bucket/store", which is taken for the same.

    Raises:
        UsageError: a URL without a bucket, or with more in it than a bucket and a path.
    """
    if isinstance(path, BucketPath):
        return cast(Path, path)
    text = os.fspath(path)
    parts = PurePosixPath(text).parts
    word = parts[0].lower() if parts else ""
    if word.partition(":")[0] in (*SCHEMES, *OTHERS) and ":" in word:
        if parts[0] not in [f"{name}:" for name in SCHEMES]:
            raise UsageError(
                f"{_shown(text)!r}: no such place: give a path on a disk, or s3://BUCKET/PATH, "
                "gs://BUCKET/PATH or az://CONTAINER/PATH"
            )
        if EMPTY.match(text):
            raise UsageError(f"{text!r}: the name of the bucket is missing")
    scheme = next((part[:-1] for part in parts if part[:-1] in SCHEMES and part[-1] == ":"), None)
    if scheme is None:
        return Path(path)
    inner = parts[parts.index(f"{scheme}:") + 1 :]
    if not inner or "@" in inner[0] or any(mark in text for mark in "?#"):
        raise UsageError(
            f"{scheme}://...: give {scheme}://BUCKET/PATH and nothing else: credentials come from "
            "the environment or your profile, another endpoint from AWS_ENDPOINT_URL (s3), "
            "AZURE_STORAGE_ENDPOINT (az) or GOOGLE_BASE_URL (gs)"
        )
    if ".." in inner:
        raise UsageError(f"{scheme}://{'/'.join(inner)}: a bucket has no '..'")
    return cast(Path, BucketPath(scheme, inner[0], inner[1:]))


def _shown(text: str) -> str:
    """An address without what may be secret: a signature, a user and a password.

    >>> _shown("https://user:word@host/a?X-Amz-Signature=5"), _shown("s3a:/bucket/a")
    ('https://host/a', 's3a:/bucket/a')
    """
    return re.sub(r"(?<=/)[^/@]*@", "", re.split("[?#]", text)[0], count=1)


def require_disk(path: Path, what: str) -> None:
    """Raise UsageError for a path on a bucket, of what only a disk can hold."""
    if isinstance(path, BucketPath):
        raise UsageError(
            f"{path} is on a bucket, where {what} cannot be written: name a folder on a disk, and "
            "copy it from there"
        )


def is_bucket(path: object) -> bool:
    """Whether a path is on a bucket."""
    return isinstance(path, BucketPath)


def object_state(path: Path) -> ObjectState:
    """Size, time and tag of the object at a path on a bucket.

    Raises:
        FileNotFoundError: there is none.
    """
    return bucket_path(path).bucket.head(bucket_path(path).key)


def read_object(path: Path) -> tuple[bytes, ObjectState]:
    """The bytes of the object at a path on a bucket, and its state, by one request.

    Raises:
        FileNotFoundError: there is none.
    """
    return bucket_path(path).bucket.get_whole(bucket_path(path).key)


def put_object(path: Path, data: Any, *, tag: str | None = None) -> str:
    """Put an object at a path on a bucket, and give its tag; see Bucket.put."""
    bucket, key = bucket_path(path).bucket, bucket_path(path).key
    if tag is not None and bucket.is_conditional:
        with _no_conditions(bucket):
            return bucket.put(key, data, tag=tag)
    return bucket.put(key, data)


def put_new(path: Path, data: Any) -> str | None:
    """Put an object where there is none, and give its tag; None where there is one."""
    try:
        return put_if_absent(path, data)
    except ObjectExists:
        return None


def put_if_absent(path: Path, data: Any) -> str:
    """Put an object where there is none, and give its tag.

    Raises:
        ObjectExists: there is one.
    """
    bucket, key = bucket_path(path).bucket, bucket_path(path).key
    if bucket.is_conditional:
        with _no_conditions(bucket):
            return bucket.put(key, data, new=True)
    with suppress(FileNotFoundError):
        raise ObjectExists(str(path), *bucket.get_whole(key))
    return bucket.put(key, data)


@contextmanager
def _no_conditions(bucket: Bucket) -> Iterator[None]:
    """Note a bucket that refuses conditional puts; what follows is then done without them."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        bucket.note_unconditional()


def bucket_path(path: object) -> "BucketPath":
    """A path of store_path that is on a bucket."""
    assert isinstance(path, BucketPath)
    return path


@dataclass(frozen=True)
class Status:
    """What `stat` says of an object, and its tag."""

    st_size: int
    st_mtime: float
    st_mtime_ns: int
    st_ino: int
    st_mode: int = stat.S_IFREG
    st_dev: int = 0
    st_ctime_ns: int = 0
    tag: str = ""


@total_ordering
class BucketPath:
    """A path on a bucket.  Picklable; it holds no credentials.

    Args:
        scheme: "s3", "gs" or "az".
        name: of the bucket.
        parts: of the path in it.
        listed_as: "file" or "folder" where a listing has just said so.
    """

    def __init__(
        self, scheme: str, name: str, parts: tuple[str, ...] = (), listed_as: str = ""
    ) -> None:
        self.scheme, self._name, self._parts = scheme, name, parts
        self._listed_as = listed_as

    @property
    def bucket(self) -> Bucket:
        """The bucket."""
        return Bucket(self.scheme, self._name)

    @property
    def key(self) -> str:
        """The path in the bucket."""
        return "/".join(self._parts)

    def __str__(self) -> str:
        return "/".join([f"{self.scheme}://{self._name}", *self._parts])

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __fspath__(self) -> str:
        raise UsageError(
            f"{self} is on a bucket, and this needs a disk: copy the store here first by `store "
            "merge`, or name a path on a disk"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, other: str | PurePosixPath) -> "BucketPath":
        return self.joinpath(str(other))

    def joinpath(self, *others: str) -> "BucketPath":
        """The path of something below."""
        parts = [part for other in others for part in PurePosixPath(other).parts]
        return BucketPath(self.scheme, self._name, (*self._parts, *parts))

    @property
    def name(self) -> str:
        """The last part; the name of the bucket where there is none."""
        return self._parts[-1] if self._parts else self._name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "BucketPath":
        """The path above; the bucket is above itself."""
        return BucketPath(self.scheme, self._name, self._parts[:-1])

    @property
    def parents(self) -> tuple["BucketPath", ...]:
        """The paths above, the nearest first; the bucket is the last."""
        ends = range(len(self._parts) - 1, -1, -1)
        return tuple(BucketPath(self.scheme, self._name, self._parts[:end]) for end in ends)

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, the scheme first."""
        return (f"{self.scheme}://", self._name, *self._parts)

    def with_name(self, name: str) -> "BucketPath":
        """The path of a neighbour."""
        return self.parent / name

    def relative_to(self, other: "BucketPath") -> PurePosixPath:
        """The path below another one."""
        return PurePosixPath(*self.parts).relative_to(PurePosixPath(*other.parts))

    def as_posix(self) -> str:
        """The URL."""
        return str(self)

    def absolute(self) -> "BucketPath":
        """The path itself."""
        return self

    resolve = expanduser = absolute

    def exists(self) -> bool:
        """Whether there is an object, or something below."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is an object."""
        if self._listed_as:
            return self._listed_as == "file"
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether something is below."""
        if self._listed_as:
            return self._listed_as == "folder"
        folders, objects = self.bucket.level(self.key)
        return bool(folders or objects)

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def stat(self) -> Status:
        """Size and time of the object.

        Raises:
            FileNotFoundError: there is none.
        """
        return status_of(self.bucket.head(self.key))

    lstat = stat

    def read_bytes(self) -> bytes:
        """The bytes of the object."""
        return self.bucket.get(self.key)

    def read_text(self) -> str:
        """The text of the object."""
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> int:
        """Put an object in the place of the one there is, if any; nobody sees a part of it."""
        self.bucket.put(self.key, data)
        return len(data)

    def open(self, mode: str = "r", *_: Any, **__: Any) -> IO[bytes]:
        """Open the object to read; bytes are fetched as they are read."""
        if mode != "rb":
            self.__fspath__()
        return open_object(self)

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object."""
        self.bucket.delete([self.key])

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Nothing: a bucket has no folders."""

    rmdir = mkdir

    def iterdir(self) -> Iterator["BucketPath"]:
        """What is directly below."""
        folders, objects = self.bucket.level(self.key)
        yield from (self._below((name,), "folder") for name in folders)
        yield from (self._below((state.key.rpartition("/")[2],), "file") for state in objects)

    def _below(self, parts: tuple[str, ...], listed_as: str) -> "BucketPath":
        return BucketPath(self.scheme, self._name, (*self._parts, *parts), listed_as)

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """What is below and matches, level by level."""
        first, _, rest = pattern.partition("/")
        for entry in self.iterdir():
            if fnmatch.fnmatchcase(entry.name, first):
                yield from entry.glob(rest) if rest else [entry]

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """Objects at any depth below whose name matches."""
        if "/" in pattern:
            self._refuse(f"rglob({pattern!r})")
        for path, _ in self.objects():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def objects(self) -> list[tuple["BucketPath", ObjectState]]:
        """Every object at any depth below, with its state."""
        skipped = len(self._parts)
        return [
            (self._below(PurePosixPath(state.key).parts[skipped:], "file"), state)
            for state in self.bucket.objects(self.key)
        ]

    def rename(self, *_: Any) -> NoReturn:
        """Refused: a bucket has no renames."""
        self._refuse("a rename")

    replace = symlink_to = hardlink_to = touch = chmod = write_text = rename

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"{self}: {what} is impossible on a bucket: copy the store to a disk by `store merge`"
        )


def status_of(state: ObjectState) -> Status:
    """The state of an object as that of a file; another object in its place has another number."""
    number = int.from_bytes(hashlib.sha256(state.tag.encode()).digest()[:8], "big") >> 1
    modified_ns = int(state.modified * 10**9)
    return Status(state.num_bytes, state.modified, modified_ns, number, tag=state.tag)


def open_object(path: BucketPath) -> IO[bytes]:
    """An object as an open file that reads and seeks, of which only what is read is fetched."""
    return cast(IO[bytes], io.BufferedReader(ObjectReader(path), BLOCK_BYTES))


class ObjectReader(io.RawIOBase):
    """The bytes of an object by ranged requests, whole blocks and some ahead while reads follow.

    All are of the object that was there when this was opened.  The last blocks are kept for all
    readers of the process: a video is opened several times.

    Args:
        path: of the object.

    Attributes:
        name: of the object, for PyAV.
        num_fetched: bytes so far.
        fetches: False: bytes that are not there yet read as zeros, for a reader that looks at none
            of them.
        failure: the first error of a request, which is raised once: FFmpeg may read on after it,
            and then finds the end.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, path: BucketPath) -> None:
        super().__init__()
        state = path.bucket.head(path.key)
        self._path, self._tag, self.num_bytes = path, state.tag, state.num_bytes
        self.name, self.fetches, self.num_fetched = str(path), True, 0
        self.failure: OSError | None = None
        self._at, self._next, self._ahead = 0, -1, 1

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; nothing is fetched."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.num_bytes}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "before the first byte", self.name)
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from where we are, at most to the end of a block; 0 at the end."""
        target = memoryview(buffer).cast("B")
        number, first = divmod(self._at, BLOCK_BYTES)
        count = min(len(target), BLOCK_BYTES - first, self.num_bytes - self._at)
        if count <= 0 or self.failure is not None:
            return 0
        try:
            block = self._block(number)
        except OSError as error:
            self.failure = error
            raise
        target[:count] = bytes(count) if block is None else block[first : first + count]
        self._at += count
        return count

    def _block(self, number: int) -> memoryview | None:
        """A block, fetched where it has to be; None where nothing is fetched."""
        with _guard:
            block = _blocks.get((self.name, self._tag, number))
        if block is not None or not self.fetches:
            return block
        self._ahead = min(2 * self._ahead, MOST_BLOCKS) if number == self._next else 1
        stop = min((number + self._ahead) * BLOCK_BYTES, self.num_bytes)
        ranges = [(number * BLOCK_BYTES, stop)]
        data = self._path.bucket.get_ranges(self._path.key, ranges, tag=self._tag)[0]
        self.num_fetched += len(data)
        self._next = number + self._ahead
        with _guard:
            for start in range(0, len(data), BLOCK_BYTES):
                key = self.name, self._tag, number + start // BLOCK_BYTES
                _blocks[key] = data[start : start + BLOCK_BYTES]
            while len(_blocks) > KEPT_BLOCKS:
                _blocks.popitem(last=False)
        return data[:BLOCK_BYTES]
