"""Pooled maps: the means by hand, what is refused, and a run that is killed between clips."""

import numpy as np
import pytest

from tests.fuse.systems.ftp.maps import write_maps
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.pool_maps import pool_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter


@pytest.fixture
def maps(tmp_path):
    """A store with four frames of every clip."""
    return write_maps(tmp_path / "long", train=1, val=0, first_frames=4, views=2)


def test_a_pooled_clip_is_the_means_over_places_then_over_frames(maps, tmp_path):
    assert pool_store(maps, tmp_path / "pooled") == ("train0",)
    whole, pooled = open_store(maps), open_store(tmp_path / "pooled")
    assert (pooled.identity.unit, pooled.identity.grid) == ("pooled", (4 + 6, 1))
    assert pooled.identity.frames["pooled_grid"] == [2, 3]
    assert pooled.record("train0").action == whole.record("train0").action
    for view in (0, 1):
        for block in whole.identity.blocks:
            tokens = whole.read("train0", slice(0, 4), view=view).decode(block)
            wanted = np.concatenate([tokens.mean(axis=1), tokens.mean(axis=0)])
            found = pooled.read("train0", slice(0, 1), view=view).decode(block)[0]
            np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3)
    assert not verify_store(tmp_path / "pooled").problems
    assert pool_store(maps, tmp_path / "pooled") == ()


def test_a_run_that_was_killed_is_resumed(tmp_path, monkeypatch):
    maps = write_maps(tmp_path / "maps", train=1, val=1, first_frames=4)
    begin, begun = StoreWriter.begin, []

    def stop_at_second(self, clip, **fields):
        begun.append(clip.clip_id)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return begin(self, clip, **fields)

    monkeypatch.setattr(StoreWriter, "begin", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        pool_store(maps, tmp_path / "pooled")
    assert pool_store(maps, tmp_path / "pooled") == ("val0",)


def test_what_has_no_maps_of_one_length_is_refused(tmp_path):
    several = write_maps(tmp_path / "several")
    told = r"has clips of from 3 to 24 frames, a map has as many of each: extract with frames=unif"
    with pytest.raises(UsageError, match=told):
        pool_store(several, tmp_path / "out")
    one = write_maps(tmp_path / "one", train=1, val=0)
    pool_store(one, tmp_path / "pooled")
    with pytest.raises(UsageError, match="holds pooled maps already"):
        pool_store(tmp_path / "pooled", tmp_path / "again")
