"""The ledger of attempts: what it counts, what survives in it, and whose claims are released."""

import pytest

from tests.cache import stores
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.pipeline.launch.attempts import LEDGER, Attempt, Attempts, release_claims

TOKEN = "ab" * 16


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store")


def segment(store, key, name):
    folder = store / folder_of(key)
    folder = folder.with_name(f".tmp-{key}-w") / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_deaths_without_a_new_segment_add_up_and_survive_the_driver(store):
    assert Attempts(store).found == {}
    assert Attempts(store).note("a") == Attempt(1, 0)
    assert Attempts(store).note("b") == Attempt(1, 0)
    assert Attempts(store).note("a") == Attempt(2, 0)
    segment(store, "a", "0")
    segment(store, "a", "1")
    assert Attempts(store).note("a") == Attempt(1, 2)
    assert Attempts(store).note("a") == Attempt(2, 2)
    assert Attempts(store).found == {"a": Attempt(2, 2), "b": Attempt(1, 0)}


def test_segments_of_other_clips_are_no_progress(store):
    key = clip_key("a")
    folder = (store / folder_of(key)).with_name(f".tmp-{key}0-w")  # of a longer key
    folder.mkdir(parents=True)
    (folder / "0").touch()
    Attempts(store).note(key)
    assert Attempts(store).note(key) == Attempt(2, 0)


def test_a_torn_or_altered_line_costs_no_other_line(store):
    Attempts(store).note("a")
    with (store / LEDGER).open("ab") as ledger:
        ledger.write(b'{"key":"x","deaths":"many","files":0}\n{"key":"y"}\n[1]\n{"key":"b","dea')
    attempts = Attempts(store)
    assert attempts.found == {"a": Attempt(1, 0)}
    attempts.note("c")
    attempts.note("d")
    assert Attempts(store).found == {key: Attempt(1, 0) for key in "acd"}
    assert b"\n\n" not in (store / LEDGER).read_bytes()


def test_the_ledger_is_removed_with_its_folder_once_its_clips_have_ended(store):
    attempts = Attempts(store)
    attempts.forget({"a"})  # there is none
    attempts.note("a")
    Attempts(store).note("b")  # by the command of another shard
    attempts.forget({"a"})
    assert Attempts(store).found == {"a": Attempt(1, 0), "b": Attempt(1, 0)}
    (store / "workers/of-another.json").touch()
    attempts.forget({"a", "b", "c"})
    assert [path.name for path in (store / "workers").iterdir()] == ["of-another.json"]
    Attempts(store).note("a")
    (store / "workers/of-another.json").unlink()
    attempts.forget({"a"})
    assert not (store / "workers").exists()


def test_only_the_claims_of_the_process_that_ended_are_released(store):
    claims = store / "claims"

    def claim(key, host, pid, token=TOKEN, started="1@here"):
        holder = {"owner": "x", "host": host, "pid": pid, "started": started, "token": token}
        (claims / f"{key}.json").write_bytes(canonical_json(seal(holder)))

    for name in (TOKEN, "cd" * 16):
        (claims / f".tmp-{name}").touch()
    claim("b", "here", 7)
    claim("a", "here", 7)
    claim("c", "there", 7, "cd" * 16)
    claim("d", "here", 8, "cd" * 16)
    claim("f", "here", 7, "cd" * 16, started="1@there")  # a container of the same name
    (claims / "e.json").write_text("{")
    assert release_claims(store, "here", 7, "1@here") == ["a", "b"]
    left = sorted(path.name for path in claims.iterdir())
    assert left == [f".tmp-{'cd' * 16}", "c.json", "d.json", "e.json", "f.json"]
    assert release_claims(store, "here", 7, "1@here") == []
