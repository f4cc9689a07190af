"""Whether two provenances name the same store: by its fingerprint, or by a former one of it."""

from collections.abc import Mapping
from typing import Any


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
