"""Claims on a bucket: objects that are put where there is none, several of them side by side.

A claim says who works on a clip, as on a disk (see `claims`); its heartbeat is the time at which it
was put last, by the clock of the bucket, and is itself a put under the condition that nobody took
the claim over.  Ended claims are deleted together, now and then.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import bucket_path, object_state, put_new, put_object
from tokenreel.cache.errors import Damaged
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    Claim,
    ClaimHeld,
    ClaimHolder,
    WriterClaims,
    is_live,
    read_claim,
    steady_clock,
)

log = logging.getLogger(__name__)

AHEAD = 8  # clips that are claimed side by side: one wait for all of them
ENDED = 16  # claims that are deleted together


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
        with suppress(OSError, ClaimHeld):
            self.renew()

    def renew(self) -> None:
        """Put the claim again.

        Raises:
            ClaimHeld: another writer has taken it over.
            OSError: the service does not answer, or refuses.
        """
        now = steady_clock()
        try:
            self._tag = put_object(self.path, self._claims.data, tag=self._tag)
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
    """

    def __init__(self, folder: Path, *, owner: str, expiry_seconds: float = EXPIRY_SECONDS) -> None:
        super().__init__(folder, owner=owner, expiry_seconds=expiry_seconds)
        self.data, self.expiry_seconds = self._data, expiry_seconds
        self._ahead: dict[str, BucketClaim | ClaimHeld] = {}
        self._ended: dict[Path, BucketClaim] = {}

    def take_ahead(self, keys: Sequence[str]) -> None:
        """Claim clips side by side, for `take` to give one after another."""

        def take(key: str) -> BucketClaim | ClaimHeld:
            try:
                return self._take(key)
            except ClaimHeld as held:
                return held

        wanted = [key for key in keys if key not in self._ahead and key not in self._held]
        self._ahead |= zip(wanted, in_parallel(take, wanted), strict=True)

    def is_refused(self, key: str) -> bool:
        """Whether take_ahead found that another writer has a clip."""
        return isinstance(self._ahead.get(key), ClaimHeld)

    def is_ahead(self, key: str) -> bool:
        """Whether take_ahead has claimed a clip that `take` has not given yet."""
        return isinstance(self._ahead.get(key), BucketClaim)

    def take(self, key: str) -> Claim:
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
        for _ in range(4):
            tag = put_new(path, self.data)
            try:
                if tag is None:
                    tag = self._take_over(path)
            except (FileExistsError, FileNotFoundError):
                continue  # it ended just now, or another writer was faster
            with self._guard:
                self._ended.pop(path, None)
            return BucketClaim(path, self, tag)
        raise ClaimHeld(f"{key}: claimed by another writer")

    def _take_over(self, path: Path) -> str:
        """Take a dead claim, or this writer's own; the new tag.

        Raises:
            ClaimHeld: it is live.
            FileExistsError, FileNotFoundError: it has changed meanwhile.
        """
        state, holder = object_state(path), _holder_of(path)
        if holder != self.holder and is_live(path, expiry_seconds=self._expiry_seconds):
            who = f"{holder.owner} on {holder.host}" if holder else "another writer"
            raise ClaimHeld(f"{path.stem}: {who} works on it")
        return put_object(path, self.data, tag=state.tag)

    def beat(self) -> None:
        """Heartbeat of all claims, side by side; those that have ended are deleted."""
        with self._guard:
            held = [*self._held.values(), *self._ahead.values()]
        in_parallel(lambda claim: claim.beat(), [c for c in held if isinstance(c, Claim)])
        self._delete_ended()

    def end(self, claim: BucketClaim) -> None:
        """Note that a claim has ended."""
        self.forget(claim)
        with self._guard:
            self._ended[claim.path] = claim
            is_due = len(self._ended) >= ENDED
        if is_due:
            self._delete_ended()

    def _delete_ended(self) -> None:
        """Delete the claims that have ended, but for those that another writer may have taken."""
        with self._guard:
            ended, self._ended = list(self._ended.values()), {}
        old = [claim.path for claim in ended if not claim.is_fresh]
        holders = dict(zip(old, in_parallel(_holder_of, old), strict=True))
        mine = [c.path for c in ended if holders.get(c.path, self.holder) == self.holder]
        if mine:
            with suppress(OSError):
                bucket_path(self._folder).bucket.delete([bucket_path(path).key for path in mine])

    def release_all(self) -> None:
        """Release the claims that are held, or were taken ahead."""
        ahead = [claim for claim in self._ahead.values() if isinstance(claim, Claim)]
        self._ahead = {}
        for claim in [*list(self._held.values()), *ahead]:
            claim.release()
        self._delete_ended()

    def close(self) -> None:
        """Nothing: a claim on a bucket is an object of its own."""


def _holder_of(path: Path) -> ClaimHolder | None:
    try:
        return read_claim(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("%s; taken for the claim of a dead writer", error)
        return None
