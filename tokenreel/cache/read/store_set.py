"""Several stores of the same clips, read side by side: a frozen backbone, or a codec, each."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store, open_store

SHOWN = 3  # differences that an error lists


class StoreSet(Mapping[str, Store]):
    """Stores by name, joined on clip id and on their units.

    A unit is a row in time of every array of a clip: a frame of the video.  Stores are joined where
    each clip has as many units in each, at the same times.

    Args:
        stores: name -> store, or its directory; the first gives splits, actions and labels.

    Raises:
        UsageError: none is given, or they do not hold the same clips or units; the first three
            that differ.
        StoreNotFound, Damaged: as :func:`open_store`.
    """

    def __init__(self, stores: Mapping[str, Store | str | Path]) -> None:
        if not stores:
            raise UsageError("a StoreSet of no store: give name -> store")
        self._stores = {
            name: store if isinstance(store, Store) else open_store(store)
            for name, store in stores.items()
        }
        names = list(self._stores)
        for name in names[1:]:
            self._require_joined(names[0], name)

    def __getitem__(self, name: str) -> Store:
        return self._stores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stores)

    def __len__(self) -> int:
        return len(self._stores)

    @property
    def first(self) -> Store:
        """The store that gives splits, actions, labels and times."""
        return next(iter(self._stores.values()))

    @property
    def records(self) -> dict[str, ClipRecord]:
        """Records of the first store by clip id."""
        return self.first.records

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each store's identity, by name."""
        return {name: store.fingerprint for name, store in self._stores.items()}

    def _require_joined(self, first: str, other: str) -> None:
        one, two = self._stores[first], self._stores[other]
        found = [
            f"clip {clip_id!r} is only in {first if clip_id in one.records else other}"
            for clip_id in sorted(one.records.keys() ^ two.records.keys())
        ]
        if not found:
            found = [wrong for clip_id in one.records if (wrong := _unlike(one, two, clip_id))]
        if found:
            more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise UsageError(
                f"{first}={one.path} and {other}={two.path} cannot be joined:\n  "
                + "\n  ".join(found[:SHOWN])
                + f"{more}\nextract both from the same videos, with the same frames"
            )


def _unlike(one: Store, two: Store, clip_id: str) -> str | None:
    """In what the units of a clip differ between two stores, or None."""
    counts = [store.record(clip_id).num_frames for store in (one, two)]
    if counts[0] != counts[1]:
        return f"clip {clip_id!r} has {counts[0]} and {counts[1]} units"
    here, there = (store.units(clip_id) for store in (one, two))
    differ = np.argwhere(here != there)
    if len(differ):
        unit, end = differ[0].tolist()
        verb = ("begins", "ends")[end]
        return (
            f"clip {clip_id!r}, unit {unit}, {verb} at {here[unit, end]:.6g} s and at "
            f"{there[unit, end]:.6g} s"
        )
    return None
