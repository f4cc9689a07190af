"""Two provenances of one store: its fingerprint, its former ones, and what changed in it."""

from tokenreel.cache.provenance import (
    CHANGES,
    describe_fingerprints,
    names_same_store,
    store_changes,
)


def test_former_fingerprints_are_named_where_there_are_some():
    assert describe_fingerprints("b", ()) == {"store_fingerprint": "b"}
    assert describe_fingerprints("b", ("z", "a")) == {
        "store_fingerprint": "b",
        "former_fingerprints": ["z", "a"],
    }


def test_two_provenances_without_a_fingerprint_name_no_store_together():
    assert not names_same_store({}, {})
    assert names_same_store(describe_fingerprints("b", ("a",)), {"store_fingerprint": "a"})


def test_what_only_one_of_two_provenances_records_has_not_changed():
    one = {"store_clips_sha256": "a", "store_labels_sha256": "b"}
    assert store_changes({}, one) == store_changes(one, {}) == store_changes(one, one) == []
    other = {"store_clips_sha256": "c", "store_labels_sha256": "d"}
    assert store_changes(one, other) == list(CHANGES.values())
