"""Claims on a bucket: objects that are put where there is none, several of them side by side.

A claim says who works on a clip, as on a disk (see `claims`); its heartbeat is the time at which it
was put last, by the clock of the bucket, and is itself a put under the condition that nobody took
the claim over.  No two puts have the same bytes, as the tag of an object may be a hash of them.
Ended claims are deleted together, by the thread of the heartbeat.

Where a bucket has no conditional puts, one object is the claim of the only writer that may write.
"""

import itertools
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tokenreel.cache.bucket.objects import ObjectExists, in_parallel
from tokenreel.cache.bucket.path import (
    bucket_path,
    is_bucket,
    put_if_absent,
    put_object,
    read_object,
)
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import Damaged, TokenReelError
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    Claim,
    ClaimHeld,
    ClaimHolder,
    WriterClaims,
    is_live,
    is_live_object,
    parse_claim,
    read_claim,
    steady_clock,
    take_claim,
)

log = logging.getLogger(__name__)

AHEAD = 8  # clips that are claimed side by side: one wait for all of them
ENDED = 256  # claims that are deleted at once, before the next heartbeat
ONLY_WRITER = ".tmp-writer"  # of claims/, where a bucket has no conditional puts
SETTLE_SECONDS = 2.0  # from its put to the look at whether another writer was later


class BucketClaim(Claim):
    """A claim on a bucket.

    Args:
        path: of the object.
        writer: whose it is.
        tag: of the object as this writer put it last.
    """

    def __init__(self, path: Path, writer: "BucketClaims", tag: str) -> None:
        super().__init__(path, writer, is_link=False)
        self._claims, self._tag, self._put_at = writer, tag, steady_clock()
        self._turn = threading.Lock()

    @property
    def is_fresh(self) -> bool:
        """Whether it was put so lately that no other writer can have taken it over."""
        return steady_clock() - self._put_at < self._claims.expiry_seconds / 2

    def require_own(self) -> None:
        """Make sure that no other writer has taken it over.  Raises what `renew` raises."""
        if not self.is_fresh:
            self.renew()

    def beat(self) -> None:
        """Heartbeat; a service that is away for a while costs no more than a beat."""
        with suppress(OSError, TokenReelError):
            self.renew()

    def renew(self) -> None:
        """Put the claim again.

        Raises:
            ClaimHeld: another writer has taken it over.
            OSError: the service does not answer, or refuses.
        """
        with self._turn:
            now = steady_clock()
            try:
                self._tag = put_object(self.path, self._claims.next_data(), tag=self._tag)
            except (FileExistsError, FileNotFoundError):
                raise ClaimHeld(f"{self.path.stem}: another writer has taken it over") from None
            self._put_at = now

    def release(self) -> None:
        """End it; the object is deleted with those of other clips."""
        self.is_held = False
        self._claims.end(self)


class BucketClaims(WriterClaims):
    """The claims of a writer on a bucket.

    Args:
        folder: of the claims.
        owner: a word for people.
        expiry_seconds: a claim of another host is dead after that long without a heartbeat.
        keeps_ended: whether ended claims are deleted together, by a heartbeat and by release_all;
            otherwise each at once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        owner: str,
        expiry_seconds: float = EXPIRY_SECONDS,
        keeps_ended: bool = True,
    ) -> None:
        super().__init__(folder, owner=owner, expiry_seconds=expiry_seconds)
        self.expiry_seconds, self._keeps_ended = expiry_seconds, keeps_ended
        self._puts = itertools.count()
        self._ahead: dict[str, BucketClaim | ClaimHeld] = {}
        self._ended: dict[Path, BucketClaim] = {}
        self._deleting = threading.Lock()

    def next_data(self) -> bytes:
        """The bytes of the next put of a claim."""
        return canonical_json(seal({**asdict(self.holder), "beat": next(self._puts)}))

    def is_new(self, key: str) -> bool:
        """Whether take_ahead would claim a clip."""
        return key not in self._ahead and key not in self._held

    def take_ahead(self, keys: Sequence[str]) -> None:
        """Claim clips side by side, for `take` to give one after another."""
        in_parallel(self.take_one_ahead, [key for key in keys if self.is_new(key)])

    def take_one_ahead(self, key: str) -> None:
        """Claim a clip, for `take` to give it."""
        try:
            self._ahead[key] = self._take(key)
        except ClaimHeld as held:
            self._ahead[key] = held

    def is_refused(self, key: str) -> bool:
        """Whether take_ahead found that another writer has a clip."""
        return isinstance(self._ahead.get(key), ClaimHeld)

    def drop_ahead(self, key: str) -> None:
        """Give up what take_ahead found of a clip; its claim ends."""
        claim = self._ahead.pop(key, None)
        if isinstance(claim, BucketClaim):
            claim.release()

    def is_ahead(self, key: str) -> bool:
        """Whether take_ahead has claimed a clip that `take` has not given yet."""
        return isinstance(self._ahead.get(key), BucketClaim)

    def take(self, key: str) -> BucketClaim:
        """Claim a clip; see WriterClaims.take."""
        if key in self._held:
            raise ClaimHeld(f"{key}: this writer works on it")
        claim = self._ahead.pop(key, None) or self._take(key)
        if isinstance(claim, ClaimHeld):
            raise claim
        with self._guard:
            self._held[key] = claim
        return claim

    def _take(self, key: str) -> BucketClaim:
        path = self._folder / f"{key}.json"
        with self._deleting:  # it ended, and is not to be deleted any more
            self._ended.pop(path, None)
        for _ in range(4):
            try:
                tag = put_if_absent(path, self.next_data())
            except ObjectExists as held:
                try:
                    tag = self._take_over(path, held)
                except (FileExistsError, FileNotFoundError):
                    continue  # it ended just now, or another writer was faster
            return BucketClaim(path, self, tag)
        raise ClaimHeld(f"{key}: claimed by another writer")

    def _take_over(self, path: Path, held: ObjectExists) -> str:
        """Take a dead claim, or this writer's own; the new tag.

        Raises:
            ClaimHeld: it is live.
            FileExistsError, FileNotFoundError: it has changed meanwhile.
        """
        if held.data is None or held.state is None:
            data, state = read_object(path)
        else:
            data, state = held.data, held.state
        holder = _parse(data, path)
        is_live_one = is_live_object(path, data, state, expiry_seconds=self._expiry_seconds)
        if holder != self.holder and is_live_one:
            who = f"{holder.owner} on {holder.host}" if holder else "another writer"
            raise ClaimHeld(f"{path.stem}: {who} works on it")
        return put_object(path, self.next_data(), tag=state.tag)

    def beat(self) -> None:
        """Heartbeat of all claims, side by side; those that have ended are deleted."""
        with self._guard:
            held = [*self._held.values(), *self._ahead.values()]
        in_parallel(lambda claim: claim.beat(), [c for c in held if isinstance(c, Claim)])
        self._delete_ended()

    def end(self, claim: BucketClaim) -> None:
        """Note that a claim has ended."""
        self.forget(claim)
        with self._deleting:
            self._ended[claim.path] = claim
            is_due = not self._keeps_ended or len(self._ended) >= ENDED
        if is_due:
            self._delete_ended()

    def _delete_ended(self) -> None:
        """Delete the claims that have ended, but for those that another writer may have taken.

        Where the service is away they stay for the next time.
        """
        with self._deleting, suppress(OSError, TokenReelError):
            ended = list(self._ended.values())
            old = [claim.path for claim in ended if not claim.is_fresh]
            holders = dict(zip(old, in_parallel(_holder_of, old), strict=True))
            mine = [c.path for c in ended if holders.get(c.path, self.holder) == self.holder]
            if mine:
                keys = [bucket_path(path).key for path in mine]
                bucket_path(self._folder).bucket.delete(keys, again=False)
            self._ended = {}

    def release_all(self) -> None:
        """Release the claims that are held, or were taken ahead."""
        ahead = [claim for claim in self._ahead.values() if isinstance(claim, Claim)]
        self._ahead = {}
        for claim in [*list(self._held.values()), *ahead]:
            claim.release()
        self._delete_ended()

    def close(self) -> None:
        """Nothing: a claim on a bucket is an object of its own."""


class OnlyWriter:
    """The claim of the only writer of a store, where a bucket has no conditional puts.

    Of two that begin at once the later put counts: each looks again after a while.

    Args:
        claims: folder of the claims.
        owner: a word for people.
        expiry_seconds: of a claim.

    Raises:
        ClaimHeld: another writer is at work.
    """

    def __init__(self, claims: Path, *, owner: str, expiry_seconds: float = EXPIRY_SECONDS) -> None:
        self._path, self._store = claims / ONLY_WRITER, claims.parent
        self._writer = BucketClaims(claims, owner=owner, expiry_seconds=expiry_seconds)
        self._is_lost = False
        if is_live(self._path, expiry_seconds=expiry_seconds):
            raise self._held()
        for claim in sorted(claims.glob("*.json")):
            if is_live(claim, expiry_seconds=expiry_seconds):
                raise self._held()
        self._put()
        time.sleep(SETTLE_SECONDS)
        if not self._is_own():
            raise self._held()

    def require_own(self) -> None:
        """Make sure that no other writer has taken the store over.  Raises ClaimHeld."""
        if self._is_lost:
            raise self._held()

    def beat(self) -> None:
        """Heartbeat."""
        with suppress(OSError, TokenReelError):
            if self._is_own():
                self._put()
            else:
                self._is_lost = True

    def release(self) -> None:
        """End it."""
        with suppress(OSError, TokenReelError):
            if self._is_own():
                self._path.unlink()

    def _put(self) -> None:
        put_object(self._path, self._writer.next_data())

    def _is_own(self) -> bool:
        return _holder_of(self._path) == self._writer.holder

    def _held(self) -> ClaimHeld:
        return ClaimHeld(
            f"{self._store}: another writer is at work there, and this bucket has no conditional "
            "puts to keep two apart: rerun when it has ended"
        )


def claim_clip(
    store: Path, key: str, *, owner: str, expiry_seconds: float = EXPIRY_SECONDS
) -> Claim:
    """Claim one clip of a store, on a disk or on a bucket; see WriterClaims.take."""
    claims = store / "claims"
    if not is_bucket(claims):
        return take_claim(claims, key, owner=owner, expiry_seconds=expiry_seconds)
    writer = BucketClaims(claims, owner=owner, expiry_seconds=expiry_seconds, keeps_ended=False)
    return writer.take(key)


def _holder_of(path: Path) -> ClaimHolder | None:
    try:
        return read_claim(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("%s; taken for the claim of a dead writer", error)
        return None


def _parse(data: bytes, path: Path) -> ClaimHolder | None:
    try:
        return parse_claim(data, where=path)
    except Damaged as error:
        log.warning("%s; taken for the claim of a dead writer", error)
        return None
