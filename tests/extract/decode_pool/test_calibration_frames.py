"""Frames to calibrate a codec on: which clips are decoded, and how, without decoding any."""

import numpy as np
import pytest

from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool import calibration_frames
from tokenreel.extract.decode_pool.calibration_frames import job_for, sample_images
from tokenreel.extract.decode_pool.pool import Attempt, ClipEnded, DecodedChunk
from tokenreel.extract.decode_pool.worker import ClipFailure
from tokenreel.extract.encode.identity import identity_for

CONFIG = ExtractConfig(
    backbone="vit_tiny_patch16_224",
    weights="random:0",
    image_size=32,
    blocks=(0,),
    views=1,
    codec="int8",
    fps=3.0,
    timeout_seconds=7.0,
    pixel_aspect="ignore",
)


class Pool:
    """Gives two chunks of each clip, in reverse, but of clips whose name is bad."""

    def __init__(self, jobs, **options):
        self.jobs, self.options = list(jobs), options
        type(self).made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        for position in reversed(range(len(self.jobs))):
            attempt = Attempt(position, 1, "pyav")
            name = self.jobs[position].path.name
            if name.startswith("bad"):
                failure = ClipFailure("decode", "torn", None)
                yield ClipEnded(attempt, failure, ("torn", "torn again"))
                continue
            for value in (int(name), 200):
                images = np.full((2, 1, 3, 32, 32), value, np.uint8)
                rows = np.arange(2)
                yield DecodedChunk(attempt, images, None, 0, rows, rows, 0.0, lambda: None)
            yield ClipEnded(attempt, None, ())


@pytest.fixture
def pools(monkeypatch):
    Pool.made = []
    monkeypatch.setattr(calibration_frames, "DecodePool", Pool)
    return Pool.made


def manifest_of(names, tmp_path, **fields):
    return Manifest("d", tmp_path, tuple(Clip(name, name, **fields) for name in names))


def values(manifest, config=CONFIG):
    found = sample_images(manifest, config, identity_for(config, "0" * 64))
    assert found.shape[1:] == (3, 32, 32)
    return found[::2, 0, 0, 0].tolist()


def test_eight_clips_spread_over_the_manifest_give_their_first_chunk_in_order(pools, tmp_path):
    assert values(manifest_of(map(str, range(20)), tmp_path)) == [4, 6, 8, 10, 12, 14, 16, 18]
    assert [job.path.name for job in pools[0].jobs] == [str(n) for n in range(0, 20, 2)]
    assert pools[0].options["timeout_seconds"] == 7.0
    assert values(manifest_of("312", tmp_path)) == [3, 1, 2]


def test_clips_are_decoded_as_they_are_extracted_but_for_two_seconds_at_four_a_second(
    tmp_path, pools
):
    values(manifest_of("1", tmp_path, start_seconds=5.0, stop_seconds=90.0, picture_fps=9.0))
    values(manifest_of("1", tmp_path, stop_seconds=1.5))
    config = CONFIG.model_copy(update={"fps": None, "frames": "uniform:4"})
    values(manifest_of("1", tmp_path), config)
    first, short, uniform = (pool.jobs[0] for pool in pools)
    assert (first.start_seconds, first.stop_seconds, first.fps, len(first.views)) == (5, 7, 4, 1)
    assert (first.picture_fps, first.pixel_aspect, first.seed_text) == (9.0, "ignore", "1")
    assert (short.stop_seconds, uniform.stop_seconds) == (1.5, 2.0)
    assert (uniform.num_uniform, uniform.times_seconds, uniform.scenes) == (None, None, None)
    (tmp_path / "list.csv").write_text("video,time_seconds\n1,0.5\n")
    listed = CONFIG.model_copy(update={"fps": None, "frames": f"listed:{tmp_path}/list.csv"})
    values(manifest_of("1", tmp_path), listed)
    assert pools[-1].jobs[0].times_seconds is None
    identity = identity_for(config, "0" * 64)
    clip = Clip("name", "a.mp4")
    assert job_for(clip, tmp_path, config, identity).num_uniform == 4
    assert job_for(clip, tmp_path, config, identity).seed_text == "name"


def test_where_the_chosen_clips_fail_the_others_are_tried(pools, tmp_path):
    names = [name for number in range(9) for name in (f"bad{number}", str(number))]
    assert values(manifest_of(names, tmp_path)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(pools) == 2


@pytest.mark.parametrize(("count", "more"), [(8, ""), (9, "\n  and 1 more")])
def test_where_all_fail_eight_reasons_are_listed(pools, tmp_path, count, more):
    manifest = manifest_of((f"bad{number}" for number in range(count)), tmp_path)
    with pytest.raises(TokenReelError, match="no clip could be decoded") as raised:
        values(manifest)
    lines = str(raised.value)
    assert lines.count(": torn; torn again") == 8
    assert lines.endswith("torn again" + more)
