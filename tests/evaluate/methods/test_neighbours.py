"""Neighbours of one frame: order, ties, who is searched, and what is right."""

from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods.retrieval import gallery_of, nearest_frames, retrieve_frames


def make_clip(clip_id, values, labels=None, *, action="act", split="val", group=""):
    values = np.atleast_2d(np.array(values, np.float32).T).T
    return EmbeddedClip(
        clip_id=clip_id,
        split=split,
        action=action,
        group=group,
        embeddings=values,
        labels=np.array(labels if labels is not None else [0] * len(values), np.int16),
        times_seconds=np.arange(len(values)) / 4,
    )


def found(neighbours):
    return [(one.clip.clip_id, one.frame, one.is_right) for one in neighbours]


def test_the_nearest_come_first_and_ties_in_the_order_of_the_gallery():
    query = make_clip("q", [1.0], [0])
    one, two = make_clip("one", [2, 0, 9], [0, 1, 0]), make_clip("two", [1.5, 2], [1, 0])
    neighbours = nearest_frames(query, 0, [one, two], k=4)
    assert found(neighbours) == [
        ("two", 0, False),
        ("one", 0, True),
        ("one", 1, False),
        ("two", 1, True),
    ]
    assert neighbours[0].distance == 0.25


def test_frames_without_a_label_are_left_out_unless_the_query_has_none():
    other = make_clip("o", [0, 1], [-1, 0])
    assert found(nearest_frames(make_clip("q", [0.0], [0]), 0, [other], k=5)) == [("o", 1, True)]
    unlabelled = nearest_frames(make_clip("q", [0.0], [-1]), 0, [other], k=5)
    assert found(unlabelled) == [("o", 0, None), ("o", 1, None)]


def test_it_agrees_with_the_metric():
    rng = np.random.default_rng(0)
    clips = [make_clip(str(i), rng.random((9, 3)), rng.integers(0, 2, 9)) for i in range(4)]
    hits = [
        np.mean(
            [
                [one.is_right for one in nearest_frames(clip, frame, clips, k=5)]
                for frame in range(clip.num_frames)
            ]
        )
        for clip in clips
    ]
    labels = [clip.labels.astype(np.int64) for clip in clips]
    metric = retrieve_frames([clip.embeddings for clip in clips], labels, (5,))
    assert np.mean(hits) == pytest.approx(metric.precision[5], abs=1e-12)


def test_the_gallery_is_the_other_clips_of_the_action_and_split():
    own = make_clip("own", [0])
    clips = (
        own,
        make_clip("a", [0]),
        make_clip("b", [0], action="other"),
        make_clip("c", [0], split="train"),
    )
    file = EmbeddingFile(Path("e.h5"), {}, clips)
    assert [clip.clip_id for clip in gallery_of(file, own)] == ["a"]
    with pytest.raises(UsageError, match="no other clip of the action 'other' and the split 'val'"):
        gallery_of(file, clips[2])


def test_without_an_action_the_group_is_searched():
    clips = tuple(make_clip(name, [0], action="", group=name[0]) for name in ("g1", "g2", "h1"))
    file = EmbeddingFile(Path("e.h5"), {}, clips)
    assert [clip.clip_id for clip in gallery_of(file, clips[0])] == ["g2"]


@pytest.mark.parametrize("frame", [-1, 2])
def test_a_frame_that_the_clip_has_not_is_refused(frame):
    with pytest.raises(UsageError, match=f"frame {frame}: q has frames 0 to 1"):
        nearest_frames(make_clip("q", [0, 1]), frame, [], k=1)


def test_k_is_at_least_one():
    with pytest.raises(ValueError, match="k is at least 1, got 0"):
        nearest_frames(make_clip("q", [0]), 0, [], k=0)
