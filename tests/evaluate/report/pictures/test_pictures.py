"""Real frames on the page and in movies."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image as Pillow

from tests.evaluate.report import made
from tokenreel.evaluate.methods.alignment import align_pair
from tokenreel.evaluate.methods.retrieval import nearest_frames
from tokenreel.evaluate.report.pictures.frames import (
    FramesUnreachable,
    Pictures,
    jpeg_bytes,
    no_frames,
    resize,
    sprite,
    thumbnails,
)
from tokenreel.evaluate.report.pictures.movie import playback_rate, side_by_side, write_movie
from tokenreel.evaluate.report.pictures.strip import (
    BORDER,
    MARGIN,
    QUERY,
    RIGHT,
    WRONG,
    _shorten,
    draw_strip,
    write_strip,
)


def test_frames_are_asked_for_once_a_clip_whichever_run_shows_them(evaluated):
    asked = []

    def source(clip, positions):
        asked.append((clip.clip_id, list(positions)))
        return made.make_frames(clip, positions)

    one, other = (file.clips[2] for file in evaluated.files[:2])
    pictures = Pictures(source, height=16)
    pictures.want(one, [3, 1])
    pictures.want(other, [1, 7])
    pictures.fetch()
    pictures.fetch()
    assert asked == [(one.clip_id, [1, 3, 7])]
    assert pictures.frame(other, 3, words="w").startswith('<img src="data:image/jpeg;base64,')
    assert pictures.frame(one, 2, words="w") is None


def test_the_same_clip_of_other_frames_is_another_picture(evaluated):
    clip = evaluated.files[0].clips[2]
    shifted = replace(clip, frame_index=clip.frame_index + 1)
    pictures = Pictures(made.make_frames, height=16)
    pictures.want(clip, [0])
    pictures.fetch()
    assert pictures.frame(shifted, 0, words="w") is None
    assert pictures.frame(replace(clip, video="other.mp4"), 0, words="w") is None
    assert pictures.sheet(clip, [0], columns=2).startswith("<img")
    assert pictures.sheet(clip, [], columns=2) is None
    assert pictures.sheet(clip, [0, 1], columns=2) is None


def test_a_clip_out_of_reach_leaves_the_others():
    def source(clip, positions):
        if clip.clip_id == "bad":
            raise FramesUnreachable("gone")
        return made.make_frames(clip, positions)

    pictures = Pictures(source, height=16)
    for name in ("bad", "good"):
        pictures.want(made.make_clip(name), [0])
    pictures.fetch()
    assert pictures.reasons == {"bad": "gone"}
    assert "Without the frames of bad: gone" in pictures.notice()
    assert pictures.frame(made.make_clip("good"), 0, words="w") is not None


def test_frames_are_asked_for_in_rising_order_and_once():
    def source(clip, positions):
        assert list(positions) == [1, 20, 300]
        return made.make_frames(clip, [1, 20, 30])

    found = thumbnails(source, made.make_clip("a"), [300, 1, 20, 300], height=24)
    assert [int(found[key][0, 20, 0]) for key in (1, 20, 300)] == [44, 120, 160]


def test_a_sprite_is_row_by_row_in_order():
    images = {key: np.full((2, 4, 3), key, np.uint8) for key in (5, 1, 9)}
    sheet = sprite(images, columns=2)
    assert sheet.shape == (4, 8, 3)
    assert [int(sheet[0, 0, 0]), int(sheet[0, 4, 0]), int(sheet[2, 0, 0])] == [1, 5, 9]
    assert sheet[2, 4].tolist() == [0, 0, 0]
    images[10] = images[9]
    assert sprite(images, columns=2).shape == (4, 8, 3)
    with pytest.raises(ValueError, match="at least one picture"):
        sprite({}, columns=2)


def test_small_copies_keep_the_proportions_with_an_even_width():
    assert resize(np.zeros((50, 75, 3), np.uint8), height=20).shape == (20, 30, 3)
    assert resize(np.zeros((50, 73, 3), np.uint8), height=20).shape == (20, 30, 3)
    image = np.arange(24 * 32 * 3).astype(np.uint8).reshape(24, 32, 3)
    assert jpeg_bytes(image) == jpeg_bytes(image.copy())


def test_without_a_folder_of_videos_the_reason_is_the_option():
    with pytest.raises(FramesUnreachable, match="--root"):
        thumbnails(no_frames, made.make_clip("a"), [0], height=10)


def test_the_movie_holds_a_frame_while_the_path_stays_on_it():
    query = made.make_clip("a", noise=0, frames=6)
    twice = replace(
        query,
        clip_id="b",
        embeddings=query.embeddings.repeat(2, 0),
        labels=query.labels.repeat(2),
        times_seconds=np.arange(12) / 10,
        frame_index=np.arange(12),
    )
    pair = align_pair(query, twice)
    assert len(pair.path.steps) == 12
    images = list(side_by_side(pair, made.make_frames, height=24))
    assert len({image.shape for image in images}) == 1
    shown = [(int(image[12, 20, 0]) - 40) / 4 for image in images]
    assert shown == [i // 2 for i in range(12)]


def test_phases_that_differ_are_marked_in_the_movie_where_both_are_known():
    query = made.make_clip("a", noise=0, frames=4)
    other = replace(query, clip_id="b", labels=np.array([1, 0, 2, -1], np.int16))
    images = list(side_by_side(align_pair(query, other), made.make_frames, height=24))
    bars = [image[24, 0].tolist() == [230, 159, 0] for image in images]
    assert bars == [True, False, True, False]


def test_a_clip_plays_in_its_own_time_within_bounds():
    clip = made.make_clip("a", frames=5)
    assert playback_rate(clip) == Fraction(10)
    assert playback_rate(replace(clip, times_seconds=np.arange(5) * 10.0)) == 1
    assert playback_rate(replace(clip, times_seconds=np.arange(5) / 1e4)) == 60
    assert playback_rate(replace(clip, times_seconds=np.zeros(5))) == 25
    uneven = replace(clip, times_seconds=np.array([0, 0.1, 0.2, 0.3, 9.0]))
    assert playback_rate(uneven) == 10
    assert playback_rate(replace(clip, times_seconds=np.full(5, np.nan))) == 25
    assert playback_rate(made.make_clip("a", frames=1)) == 25


def test_a_movie_begins_at_0_at_its_rate_and_the_reference_is_right_of_the_query(tmp_path):
    def source(clip, positions):
        for _ in positions:
            yield np.full((24, 32 if clip.clip_id == "a" else 64, 3), 200, np.uint8)

    pair = align_pair(made.make_clip("a", frames=3), made.make_clip("b", frames=3))
    images = list(side_by_side(pair, source, height=24))
    dark = np.flatnonzero((images[0][0] < 100).all(axis=1))
    assert dark.tolist() == list(range(32, 40))  # the gap
    assert images[0].shape == (52, 32 + 8 + 64, 3)
    assert write_movie(tmp_path / "m.mp4", iter(images), rate=Fraction(10)) == len(images)
    with av.open(str(tmp_path / "m.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx(np.arange(len(images)) / 10)


def test_a_strip_frames_what_is_right_and_wrong_in_their_colours():
    clip = made.make_clip("a")
    image = np.full((24, 32, 3), 7, np.uint8)
    cells = [(image, verdict, clip, 3) for verdict in ("query", "right", "wrong", "unlabelled")]
    sheet = draw_strip(cells)
    width = 120 + 2 * BORDER  # a narrow picture has room for its words
    starts = [MARGIN + place * (width + MARGIN) for place in range(4)]
    colours = [tuple(sheet[MARGIN, start].tolist()) for start in starts]
    assert colours == [QUERY, RIGHT, WRONG, QUERY]
    assert sheet.shape[1] == 4 * width + 5 * MARGIN
    shown = [sheet[MARGIN + BORDER :][:24, start + BORDER :][:, :32] for start in starts]
    crossed = [bool((picture != 7).any()) for picture in shown]
    assert crossed == [False, False, True, False]


def test_a_strip_begins_with_its_query(tmp_path):
    clips = [made.make_clip(name) for name in "ab"]
    found = nearest_frames(clips[0], 3, clips, k=2)
    write_strip(tmp_path / "s.png", clips[0], 3, found, made.make_frames, height=24)
    with Pillow.open(tmp_path / "s.png") as picture:
        assert picture.convert("RGB").getpixel((MARGIN, MARGIN)) == QUERY


def test_a_long_name_keeps_its_end():
    font = SimpleNamespace(getlength=len)
    assert [_shorten(text, 6, font) for text in ("abcdef", "abcdefgh")] == ["abcdef", "...fgh"]
