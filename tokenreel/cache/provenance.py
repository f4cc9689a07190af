"""Whether two provenances name the same store: by its fingerprint, or by a former one of it."""

from collections.abc import Mapping
from typing import Any

STORE_PATH = "store_path"  # in run.json alone: where the store of a run was

CHANGES = {
    "store_clips_sha256": "other clips: videos were replaced, clips came, or their splits changed",
    "store_labels_sha256": "other labels: those of the data set were taken over",
}


def describe_fingerprints(fingerprint: str, former: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a provenance that name a store.

    Args:
        fingerprint: of the store.
        former: of the stores that it was migrated from.
    """
    names: dict[str, Any] = {"store_fingerprint": fingerprint}
    return {**names, "former_fingerprints": list(former)} if former else names


def names_same_store(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two provenances name stores of the same tokens.

    Their fingerprints are equal, or one of them is a former one of the other's store.

    >>> names_same_store({"store_fingerprint": "a"}, describe_fingerprints("b", ("a",)))
    True
    >>> names_same_store({"store_fingerprint": "a"}, {"store_fingerprint": "b"})
    False
    """
    here, there = (
        {provenance.get("store_fingerprint"), *provenance.get("former_fingerprints", ())}
        for provenance in (one, other)
    )
    return bool((here & there) - {None})


def store_changes(former: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed in a store between two provenances that name it, in words.

    Videos that were replaced, and clips that were added, change store_clips_sha256, as splits and
    actions do; labels of any kind change store_labels_sha256.

    >>> store_changes({"store_clips_sha256": "a"}, {"store_clips_sha256": "b"})
    ['other clips: videos were replaced, clips came, or their splits changed']
    >>> both = {"store_clips_sha256": "a", "store_labels_sha256": "c"}
    >>> store_changes(both, {**both, "store_labels_sha256": "d"})
    ['other labels: those of the data set were taken over']
    """
    names = [
        name
        for name in ("store_clips_sha256", "store_labels_sha256")
        if name in former and name in now and former[name] != now[name]
    ]
    return [CHANGES[name] for name in names]
