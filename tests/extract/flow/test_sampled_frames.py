"""Extraction of frames=uniform:T and frames=listed:FILE: the tokens of those frames, by any way."""

import numpy as np
import pytest

from tests.extract.extraction import CONFIG, copy_without_clips, differing, write_video
from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.preview.plan import survey_headers
from tokenreel.extract.preview.show import look_at_clip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "a.mp4", 30)
    write_video(root / "b.mp4", 75)
    write_video(root / "short.mp4", 3)
    clips = (
        Clip("a", "a.mp4", action="turn", spans=(LabelSpan(0.2, 1.2, 1),)),
        Clip("b/part", "b.mp4", start_seconds=1.0, stop_seconds=2.0),
        Clip("short", "short.mp4"),
        Clip("too long", "a.mp4", start_seconds=0.2, stop_seconds=5.0),
    )
    return Manifest("toy", root, clips, phases={"turn": ("go", "stop")})


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    """All frames, without a codec that is calibrated."""
    store = tmp_path_factory.mktemp("out") / "all"
    config = CONFIG.model_copy(update={"codec": "fp16"})
    extract_clips(manifest, config, store, progress=False)
    return open_store(store)


@pytest.fixture(scope="module")
def uniform(manifest, tmp_path_factory):
    store = tmp_path_factory.mktemp("out") / "uniform"
    config = CONFIG.model_copy(update={"codec": "fp16", "frames": "uniform:5"})
    return extract_clips(manifest, config, store, progress=False), config, store


WANTED = {"a": [3, 9, 15, 21, 27], "b/part": [27, 32, 37, 42, 47], "short": [0, 0, 1, 2, 2]}


def require_rows(store, whole, clip_id, rows):
    """Rows of a store are these of one of all frames, but for rounding by place in a batch."""
    tokens, of_all = store.read(clip_id).decode(5), whole.read(clip_id).decode(5)
    distance = np.abs(tokens[:, None] - of_all[None]).max(axis=(2, 3))
    found = np.take_along_axis(distance, np.array(rows)[:, None], axis=1)[:, 0]
    assert found.max() < 5e-3
    np.put_along_axis(distance, np.array(rows)[:, None], np.inf, axis=1)
    assert distance.min() > 2e-2


def test_uniform_keeps_the_tokens_of_the_middle_frames(uniform, whole):
    report, _, path = uniform
    store = open_store(path)
    assert store.identity.frames == {"policy": "uniform", "count": 5}
    for clip_id, wanted in WANTED.items():
        assert store.frame_index(clip_id).tolist() == wanted
        rows = np.array(wanted) - whole.frame_index(clip_id)[0]
        np.testing.assert_array_equal(store.pts(clip_id), whole.pts(clip_id)[rows])
        require_rows(store, whole, clip_id, rows)
    assert store.labels("a").tolist() == [-1, 1, 1, 1, 1]
    assert (report.num_frames, report.num_repeated) == (15, 2)
    assert "frames  15 in" in report.table()
    assert "2 repeated" in report.table()


def test_a_clip_that_its_video_does_not_reach_is_refused(uniform):
    [failure] = uniform[0].failed
    assert (failure.clip_id, failure.stage) == ("too long", "decode")
    assert "the clip stops at 5 s, its frames end at 1.200 s" in failure.reason


def test_a_store_with_repeats_is_whole_and_each_row_has_a_duration(uniform):
    assert verify_store(uniform[2], deep=True).problems == ()
    store = open_store(uniform[2])
    first, second, third = np.unique(store.pts("short"))
    assert store.stop_pts("short").tolist() == [
        second,
        second,
        third,
        *2 * [third + second - first],
    ]


def test_a_resumed_store_has_the_same_bytes(uniform, manifest, tmp_path):
    _, config, path = uniform
    again = copy_without_clips(path, tmp_path / "again")
    for shard in ((0, 2), (1, 2)):
        one = config.model_copy(update={"workers": 1})
        extract_clips(manifest, one, again, progress=False, shard=shard)
    assert differing(path, again) == []


def test_a_plan_counts_the_frames_that_are_kept_and_those_that_are_decoded(uniform, manifest):
    survey = survey_headers(manifest, uniform[1])
    assert set(survey.clip_frames.values()) == {5}
    assert survey.num_decoded == 2 * (30 + 25 + 3 + 25)


def test_show_draws_repeated_frames(uniform, manifest):
    picture = look_at_clip(open_store(uniform[2]), "short", root=manifest.root, num_frames=5)
    assert picture.unseen_reason == ""
    assert picture.seen.shape[0] == 5
    np.testing.assert_array_equal(picture.seen[0], picture.seen[1])
    assert (picture.seen[1] != picture.seen[2]).any()


def test_listed_keeps_the_nearest_frames_of_the_clips_that_have_some(whole, manifest, tmp_path):
    path = tmp_path / "times.csv"
    path.write_text("video,time_seconds\nb.mp4,1.5\nb.mp4,0.1\nb.mp4,1.039\nb.mp4,1.05\n")
    config = CONFIG.model_copy(update={"codec": "fp16", "frames": f"listed:{path}"})
    report = extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert report.committed == ["b/part"]
    assert report.failed == []
    assert report.num_unlisted == 3
    assert "3 without a listed time" in report.table()
    store = open_store(tmp_path / "store")
    assert store.frame_index("b/part").tolist() == [26, 26, 37]  # 1.05 and 1.5: the earlier of two
    require_rows(store, whole, "b/part", [1, 1, 12])
    assert store.made_with["frames"] == f"listed:{path}"
    assert survey_headers(manifest, config).clip_frames == {"b/part": 3}
    path.write_text("video,time_seconds\nb.mp4,1.6\n")
    with pytest.raises(WrongIdentity, match=r"frames\.sha256"):
        extract_clips(manifest, config, tmp_path / "store", progress=False)


def test_a_listed_time_outside_its_video_is_named(manifest, tmp_path):
    path = tmp_path / "times.csv"
    path.write_text("video,time_seconds\na.mp4,1.1\na.mp4,7.5\nshort.mp4,0.04\n")
    config = CONFIG.model_copy(update={"codec": "fp16", "frames": f"listed:{path}"})
    report = extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert sorted(report.committed) == ["short", "too long"]
    reasons = {failure.clip_id: failure.reason for failure in report.failed}
    assert "7.5 s is listed, but the frames of the clip are from 0.000 to 1.160 s" in reasons["a"]
