"""The objects of a bucket: whole or in ranges, with conditions, and retried where that is safe.

Errors are those of files, so that their users need not know where a file is: FileNotFoundError,
FileExistsError for a condition that does not hold, PermissionError for one object alone.  What is
no object's fault is a ServiceError: Refused for credentials, Unanswered for a service that does not
answer after every retry.  What the service wrote is never part of a message: it may repeat a key or
a signed address.

Credentials come from the standard chain alone: the environment, files of profiles (s3 with boto3
installed), and the metadata service of the machine.
"""

import errno
import os
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from tokenreel.cache.errors import ServiceError, StoreError, UsageError

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az")
REQUESTS = 32  # at once, of one call
PART_BYTES = 2**23  # of one request for a range
MOST_BYTES = 5 * 10**9  # of an object that is put at once
RETRIES = 64  # of a request, by us
CLIENT_RETRIES = 3  # of each of these, by the client
FIRST_SECONDS, MOST_SECONDS = 0.1, 5.0  # waits between retries
OVERALL_SECONDS = 120.0  # after which a request is not retried
CONNECT_SECONDS = 15.0  # likewise, where no request of the process has had an answer yet
ANSWER_SECONDS = 30.0  # without a byte, after which a request is given up

EXPIRED = re.compile(
    "ExpiredToken|RequestExpired|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|"
    "SignatureDoesNotMatch|InvalidSecurity|AuthenticationFailed|MissingAuthenticationToken|"
    "Unauthorized"
)
DENIED = re.compile("AccessDenied|AuthorizationFailure|Forbidden")  # perhaps of one object
HTTP = re.compile(r"HttpError \{\s*kind: (\w+)")  # of an answer that never came
STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")  # the second of one of many keys
UNDONE = ("SlowDown", "ServiceUnavailable", "ServerBusy", "TooManyRequests")
INVALID = re.compile(r'\b[Pp]ath:? "(.*?)"')  # key that the client cannot read
AGAIN = (errno.ETIMEDOUT, errno.ENOTCONN)
CONDITIONS = ("AlreadyExistsError", "PreconditionError")
REFUSED = ("PermissionDeniedError", "UnauthenticatedError")
BEAT_SECONDS = 0.5  # between two signs of life of who waits for an answer

_clients: dict[tuple[str, str], Any] = {}
_unconditional: set[tuple[str, str]] = set()  # buckets without conditional puts
_reached: set[tuple[str, str]] = set()  # buckets that have answered
_used_in: list[int] = []  # the process that the client's threads live in
_alive: dict[int, Callable[[], None]] = {}  # by thread: called while it waits for an answer


class Refused(ServiceError, PermissionError):
    """The service refuses the credentials, or what they ask for."""


class Denied(Refused):
    """As Refused, perhaps for one object alone."""


class Unanswered(ServiceError, TimeoutError):
    """The service does not answer as it should, after every retry.

    Attributes:
        is_undone: whether it is certain that it did not do what was requested.
    """

    is_undone = False


def with_environment(
    environment: Mapping[str, str], work: Callable[..., None], *arguments: Any
) -> None:
    """Do the work of a process of a fork server, in the environment of the one that started it.

    The server has the environment of its own start; credentials and endpoints may be others since.

    Args:
        environment: of the process that starts this one.
        work: what this one does.
        arguments: of that.
    """
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


@contextmanager
def signs_of_life(alive: Callable[[], None]) -> Iterator[None]:
    """Call something twice a second while this thread waits for an answer.

    A service may take minutes to answer after retries, which is no reason to take a process for
    dead.
    """
    _alive[threading.get_ident()] = alive
    try:
        yield
    finally:
        del _alive[threading.get_ident()]


@dataclass(frozen=True)
class ObjectState:
    """What a bucket says of an object.

    Attributes:
        key: its name in the bucket.
        num_bytes: size.
        modified: when it was written, seconds since 1970 by the clock of the bucket.
        tag: changes with its bytes; for conditional puts.
    """

    key: str
    num_bytes: int
    modified: float
    tag: str


class ObjectExists(FileExistsError):
    """The condition of a put does not hold.

    Args:
        url: of the object.
        data, state: of the object in the way; None where it was not looked at.
    """

    def __init__(
        self, url: str, data: bytes | None = None, state: ObjectState | None = None
    ) -> None:
        super().__init__(errno.EEXIST, "another writer was first", url)
        self.data, self.state = data, state


class Bucket:
    """One bucket.

    Args:
        scheme: "s3", "gs" or "az".
        name: of the bucket, or of the container of az.
    """

    def __init__(self, scheme: str, name: str) -> None:
        self.scheme, self.name = scheme, name

    @property
    def is_conditional(self) -> bool:
        """Whether it has conditional puts, as far as this process has found; see try_conditions."""
        return (self.scheme, self.name) not in _unconditional

    def note_unconditional(self) -> None:
        """Note that it has no conditional puts."""
        _unconditional.add((self.scheme, self.name))

    def get(self, key: str) -> bytes:
        """The bytes of an object."""
        return self.get_whole(key)[0]

    def get_whole(self, key: str) -> tuple[bytes, ObjectState]:
        """The bytes of an object, and its state, by one request."""
        self._require_key(key)

        def read(client: Any, store: Any) -> tuple[bytes, ObjectState]:
            found = client.get(store, key)
            return bytes(found.bytes()), _state(found.meta)

        return self._read(key, read)

    def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, tag: str | None = None
    ) -> list[memoryview]:
        """Bytes [start, stop) of an object for each of the ranges, requested side by side.

        Args:
            key: of the object.
            ranges: of its bytes.
            tag: only of the object of this tag.

        Raises:
            OSError: ENODATA, the object ends before a range; EBUSY, it has another tag by now.
        """
        parts = [
            (start, min(start + PART_BYTES, stop))
            for first, stop in ranges
            for start in range(first, stop, PART_BYTES)
        ]

        def read(client: Any, store: Any) -> list[Any]:
            starts, stops = zip(*parts, strict=True)
            return list(client.get_ranges(store, key, starts=starts, ends=stops, coalesce=0))

        def read_if_same(part: tuple[int, int]) -> Any:
            options = {"range": part, "if_match": tag}
            return self._read(
                key, lambda client, store: client.get(store, key, options=options).bytes()
            )

        try:
            if tag:
                found = in_parallel(read_if_same, parts)
            else:
                found = self._read(key, read) if parts else []
        except FileExistsError:
            what = "another object took its place while it was read"
            raise OSError(errno.EBUSY, what, self._url(key)) from None
        if any(len(data) != stop - start for data, (start, stop) in zip(found, parts, strict=True)):
            raise OSError(errno.ENODATA, "it ends before its last byte", self._url(key))
        rest = iter(found)
        joined = []
        for first, stop in ranges:
            pieces = [next(rest) for _ in range(first, stop, PART_BYTES)]
            whole = pieces[0] if len(pieces) == 1 else b"".join(map(bytes, pieces))
            joined.append(memoryview(whole))
        return joined

    def head(self, key: str) -> ObjectState:
        """The state of an object."""
        self._require_key(key)
        return self._read(key, lambda client, store: _state(client.head(store, key)))

    def put(self, key: str, data: Any, *, tag: str | None = None, new: bool = False) -> str:
        """Write an object whole; nobody ever sees a part of it.

        Args:
            key: its name.
            data: bytes, or the path of a file.
            tag: only in the place of the object of this tag.
            new: only where there is none.

        Returns:
            The tag of the new object.

        Raises:
            ObjectExists: the condition does not hold.
            FileNotFoundError: there is none of this tag.
            UsageError: more bytes than one request can put.
        """
        mode: Any = "create" if new else "overwrite"
        mode = {"e_tag": tag} if tag is not None else mode
        is_file = isinstance(data, os.PathLike)
        num_bytes = Path(data).stat().st_size if is_file else len(data)
        if num_bytes > MOST_BYTES:
            raise UsageError(
                f"{self._url(key)}: {num_bytes} bytes, and one request puts at most {MOST_BYTES}: "
                "keep this store on a disk"
            )

        def write(client: Any, store: Any) -> str:
            if is_file:
                with open(data, "rb") as file:  # noqa: PTH123
                    done = client.put(store, key, file, mode=mode, use_multipart=False)
            else:
                done = client.put(store, key, data, mode=mode, use_multipart=False)
            return str(done["e_tag"] or "")

        try:
            return self._call(key, write, again=True)
        except FileExistsError:
            found = None
            if not is_file:
                with suppress(FileNotFoundError):
                    found = self.get_whole(key)
            if found is None:
                raise ObjectExists(self._url(key)) from None
            if found[0] == data:  # the answer was lost on its way: the object is ours after all
                return found[1].tag
            raise ObjectExists(self._url(key), *found) from None

    def copy(self, key: str, target: str) -> None:
        """Copy an object within the bucket, in the place of the one there is, if any."""
        self._call(key, lambda client, store: client.copy(store, key, target), again=True)

    def delete(self, keys: Sequence[str], *, again: bool = True) -> None:
        """Delete objects; those that are not there are none to delete.

        Args:
            keys: their names.
            again: also where the answer was lost, so that they may be another writer's by now.
        """
        for start in range(0, len(keys), 1000):
            part = list(keys[start : start + 1000])
            with suppress(FileNotFoundError):
                try:
                    self._call(
                        part[0],
                        lambda client, store, part=part: client.delete(store, part),
                        again=again,
                    )
                except ServiceError:
                    raise
                except PermissionError as error:
                    reason = (
                        "it may not be deleted, though what is beside it is listed: give the "
                        "credentials the right to delete objects"
                    )
                    raise PermissionError(errno.EACCES, reason, error.filename) from None

    def objects(self, prefix: str = "") -> list[ObjectState]:
        """Every object whose key begins with the parts of a prefix, in order.

        Without the empty objects "a/b/" that consoles and mounted buckets keep for a folder a/b,
        and that a listing gives as "a/b".
        """

        def read(client: Any, store: Any) -> list[ObjectState]:
            pages = client.list(store, prefix or None, chunk_size=1000)
            return [_state(meta) for page in pages for meta in page]

        found = sorted(self._read(prefix, read), key=lambda state: state.key)
        keys = [state.key for state in found]
        empty = [key for key, state in zip(keys, found, strict=True) if not state.num_bytes]
        marks = {key for key in empty if key == prefix or _has_below(keys, key)}
        others = [key for key in empty if key not in marks]
        are_there = in_parallel(self._is_there, others)
        marks |= {key for key, is_there in zip(others, are_there, strict=True) if not is_there}
        return [state for state in found if state.key not in marks]

    def _is_there(self, key: str) -> bool:
        try:
            self.head(key)
        except FileNotFoundError:
            return False
        return True

    def level(self, prefix: str = "") -> tuple[list[str], list[ObjectState]]:
        """Names of the "folders" directly below a prefix, and the objects there."""

        def read(client: Any, store: Any) -> Any:
            return client.list_with_delimiter(store, prefix or None)

        found = self._read(prefix, read)
        folders = sorted(name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])
        states = [_state(meta) for meta in found["objects"]]  # first that of the folder, see above
        states = [state for state in states if state.key != prefix]
        return folders, sorted(states, key=lambda state: state.key)

    def try_conditions(self, key: str) -> bool:
        """Find out whether there are conditional puts, on an object that is deleted again."""
        _unconditional.discard((self.scheme, self.name))
        if not self._has_conditions(key):
            _unconditional.add((self.scheme, self.name))
        return self.is_conditional

    def _has_conditions(self, key: str) -> bool:
        def put_where_none_is(client: Any, store: Any) -> Any:
            return client.put(store, key, b"probe", mode="create")

        try:
            self._read(key, put_where_none_is)
            self._read(key, put_where_none_is)
        except FileExistsError:
            return True
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        finally:
            with suppress(OSError):
                self.delete([key])
        return False

    def _require_key(self, key: str) -> None:
        """Raise FileNotFoundError for the bucket itself: services answer, but with no object."""
        if not key:
            raise FileNotFoundError(errno.ENOENT, "a bucket, and no object in it", self._url(key))

    def _url(self, key: str) -> str:
        return f"{self.scheme}://{self.name}/{key}".rstrip("/")

    def _read(self, key: str, work: Callable[[Any, Any], T]) -> T:
        return self._call(key, work, again=True)

    def _call(self, key: str, work: Callable[..., T], *, again: bool = False) -> T:
        """Do a request, and do it again where the service or the line failed.

        Args:
            key: of the object, for messages.
            work: the request.
            again: also where the answer was lost, so that the request may have been done.
        """
        client, store = _client_of(self.scheme, self.name)
        started, wait, name = time.monotonic(), FIRST_SECONDS, (self.scheme, self.name)
        for attempt in range(RETRIES + 1):
            try:
                done = _answer(work, client, store)
                _reached.add(name)
                return done
            except (client.exceptions.BaseError, FileNotFoundError, OSError, ValueError) as error:
                failure = _failure(error, self._url(key))
            if getattr(failure, "errno", 0) != errno.ENOTCONN:
                _reached.add(name)
            is_repeatable = again or getattr(failure, "is_undone", False)
            if not is_repeatable or getattr(failure, "errno", 0) not in AGAIN or attempt == RETRIES:
                break
            most = OVERALL_SECONDS if name in _reached else CONNECT_SECONDS
            if time.monotonic() + wait > started + most:
                break
            if alive := _alive.get(threading.get_ident()):
                alive()
            time.sleep(wait)
            wait = min(2 * wait, MOST_SECONDS)
        if isinstance(failure, Denied) and key and self._answers(client, store, key):
            reason = "it is refused, though what is beside it is listed: check the rights to it"
            failure = PermissionError(errno.EACCES, reason, self._url(key))
        raise failure  # without its cause, which may repeat what is secret

    @staticmethod
    def _answers(client: Any, store: Any, key: str) -> bool:
        """Whether the service takes the credentials for a list of what is beside an object."""
        try:
            next(iter(client.list(store, key.rpartition("/")[0] or None, chunk_size=1)), None)
        except (client.exceptions.BaseError, OSError, ValueError):
            return False
        return True


def _answer(work: Callable[[Any, Any], T], client: Any, store: Any) -> T:
    """What a request gives; `signs_of_life` meanwhile."""
    alive = _alive.get(threading.get_ident())
    if alive is None:
        return work(client, store)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, client, store)
        while not wait([future], BEAT_SECONDS).done:
            alive()
        return future.result()


def _has_below(keys: Sequence[str], key: str) -> bool:
    """Whether one of the keys, which are sorted, is below another one.

    >>> _has_below(["a", "a-b", "a/b"], "a"), _has_below(["a", "a-b"], "a")
    (True, False)
    """
    at = bisect_left(keys, f"{key}/")
    return at < len(keys) and keys[at].startswith(f"{key}/")


def _state(meta: Any) -> ObjectState:
    modified = meta["last_modified"].timestamp()
    return ObjectState(meta["path"], meta["size"], modified, meta["e_tag"] or meta["version"] or "")


def _failure(error: Exception, url: str) -> OSError | UsageError:
    """The error that says what failed, with nothing of what the service wrote but its code."""
    kind, text = type(error).__name__, str(error)
    status = next(iter(STATUS.findall(text)), "")
    code = next((one or other for one, other in CODE.findall(text)), "")
    said = " ".join(filter(None, (status, code))) or kind
    if kind in CONDITIONS:
        return FileExistsError(errno.EEXIST, "another writer was first", url)
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return UsageError(f"{'/'.join(url.split('/')[:3])}: there is no such bucket")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if code == "RequestTimeTooSkewed":
        what = f"the clock of this machine is not that of the service: set it ({said})"
        return Refused(errno.EACCES, what, url)
    is_sure = bool(EXPIRED.search(code)) or status == "401"
    if is_sure or kind in REFUSED or DENIED.search(code) or status == "403":
        if is_sure:
            advice = "the credentials are refused or have expired: renew them and rerun to resume"
            return Refused(errno.EACCES, f"{advice} ({said})", url)
        advice = "the credentials are refused, have expired, or lack the right to this"
        return Denied(errno.EACCES, f"{advice}: renew or extend them, and rerun ({said})", url)
    if kind == "InvalidPathError":
        found_key = next(iter(INVALID.findall(text)), "")
        return UsageError(
            f"{url}: the key {found_key!r} below it has an empty part ('//'), '.', '..' or a "
            "control character, which cannot be read: rename or delete that object, or name a "
            "folder without it"
        )
    if kind == "NotSupportedError" or status == "501" or code == "NotImplemented":
        return OSError(errno.EOPNOTSUPP, f"the service cannot do that ({said})", url)
    if status == "416" or "Range" in code:
        return OSError(errno.ENODATA, "it ends before its last byte", url)
    if isinstance(error, ValueError):  # a key that the library does not take
        return OSError(errno.EPROTO, f"no name of an object ({said})", url)
    if status.startswith("4") and status not in ("408", "429"):
        advice = "rerun to resume, with new credentials where they have expired"
        return ServiceError(
            errno.EPROTO, f"the service refused the request ({said}): {advice}", url
        )
    if (found := HTTP.search(text)) and found[1] == "Connect":
        scheme = url.partition(":")[0]
        where = next((key for key in ENDPOINTS[scheme] if os.environ.get(key)), "")
        what = f"no connection to the endpoint of {where}" if where else "no connection to it"
        lost = Unanswered(errno.ENOTCONN, f"{what}: check the address and the network", url)
        lost.is_undone = True
        return lost
    said = f"no answer: {found[1]}" if found else said
    reason = f"the service does not answer as it should ({said}): rerun when it does"
    lost = Unanswered(errno.ETIMEDOUT, reason, url)
    lost.is_undone = found is None and (status in ("429", "503") or code in UNDONE)
    return lost


def in_parallel(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """The work done on each item by several threads, in order."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(REQUESTS, len(items))) as pool:
        return list(pool.map(work, items))


def _client_of(scheme: str, name: str) -> tuple[Any, Any]:
    """The client library, and its handle of a bucket, one a process.

    Raises:
        UsageError: the library is not installed, or its settings are wrong.
        StoreError: this process was forked after a bucket had been used.
    """
    try:
        import obstore
    except ImportError as error:
        raise UsageError(
            f"{scheme}://{name}: buckets need obstore: pip install 'tokenreel[bucket]'"
        ) from error
    _used_in[:] = _used_in or [os.getpid()]
    if os.getpid() not in _used_in:
        raise StoreError(
            f"{scheme}://{name} was used before this process was forked: spawn workers "
            "(multiprocessing_context='spawn' of a DataLoader)"
        )
    if (scheme, name) not in _clients:
        try:
            _clients[scheme, name] = _open(scheme, name)
        except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
            if "Missing AccessKeyId" in str(error):
                what = (
                    "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
                )
            else:
                what = f"the settings of the bucket in the environment are wrong ({error})"
                what = what if isinstance(error, WrongEndpoint) else what.partition(" (")[0]
            raise UsageError(f"{scheme}://{name}: {what}: see docs/scale.md") from None
    return obstore, _clients[scheme, name]


class WrongEndpoint(ValueError):
    """A variable of the environment that names no endpoint."""


def _open(scheme: str, name: str) -> Any:
    from obstore.store import AzureStore, GCSStore, S3Store

    for key in ENDPOINTS[scheme]:  # what it holds is not shown: it may name a user
        given = os.environ.get(key, "")
        if given and key.endswith(URLS) and not re.match(r"https?://[^/]", given):
            raise WrongEndpoint(f"{key} is no https://HOST or http://HOST:PORT")
    options: dict[str, Any] = {
        "client_options": {
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=ANSWER_SECONDS),
            "timeout": timedelta(seconds=OVERALL_SECONDS),
            "allow_http": any("http://" in os.environ.get(key, "") for key in ENDPOINTS[scheme]),
        },
        "retry_config": {
            "max_retries": min(CLIENT_RETRIES, RETRIES),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_SECONDS),
                "max_backoff": timedelta(seconds=MOST_SECONDS),
                "base": 2,
            },
            "retry_timeout": timedelta(seconds=OVERALL_SECONDS),
        },
    }
    if scheme == "gs":
        return GCSStore(name, **options)
    if scheme == "az":
        return AzureStore(name, **options)
    provider = None
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        with suppress(ImportError, ValueError):  # no boto3, or no credentials that it knows of
            from obstore.auth.boto3 import Boto3CredentialProvider

            provider = Boto3CredentialProvider()
    return S3Store(name, credential_provider=provider, **options)


# The variables of the environment that name another endpoint than the provider's own.
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


URLS = ("_URL", "_URL_S3", "_ENDPOINT")  # endings of those that hold an address


def forget_clients() -> None:
    """Make new clients on the next request: the environment has changed."""
    _clients.clear()
    _reached.clear()


def spans(rows: Sequence[int], starts: Sequence[int], most_gap: int) -> Iterator[range]:
    """Runs of rows that one request reads: a gap of few bytes is read too.

    Args:
        rows: sorted and distinct.
        starts: byte at which each row of the object begins.
        most_gap: bytes that are rather read than left out.

    >>> [(run.start, run.stop) for run in spans([0, 1, 5, 60], range(0, 700, 10), 30)]
    [(0, 6), (60, 61)]
    """
    start = last = rows[0]
    for row in rows[1:]:
        if starts[row] - starts[last + 1] > most_gap:
            yield range(start, last + 1)
            start = row
        last = row
    yield range(start, last + 1)
