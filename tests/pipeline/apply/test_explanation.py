"""`fuse explain` by its parts: numbers, words, and what is drawn of a made-up explanation."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from tokenreel.cache.errors import UsageError
from tokenreel.extract.preview import show
from tokenreel.extract.video.types import VideoError
from tokenreel.fuse.systems.base import Explained
from tokenreel.pipeline.apply import explanation
from tokenreel.pipeline.apply.explanation import SIDE, explain_clips, stores_of_run

UNITS = 11


def store(architecture, frames_per_window=1):
    identity = SimpleNamespace(architecture=architecture, frames_per_window=frames_per_window)
    return SimpleNamespace(identity=identity)


def made_up():
    """Eleven units of a clip: a map of one stream, attention of two."""
    units = np.arange(5, 5 + UNITS)
    strength = np.linspace(0.1, 0.3, UNITS)[:, None, None] * np.ones((1, 2, 2))
    explained = Explained(
        class_names=("war", "drama", "news"),
        scores=np.array([0.4, 0.9, 0.1], np.float32),
        decided=(0, 1),
        units=units,
        maps={"spatial": strength.astype(np.float32)},
        attention={"spatial": np.full(UNITS, 1 / UNITS), "temporal": np.linspace(0, 0.18, UNITS)},
        stores={"spatial": "frames", "temporal": "windows"},
    )
    starts = np.arange(UNITS) * 2.0
    record = SimpleNamespace(clip_id="val/a", split="val", tags=("drama",), video="a.mp4")
    seconds = np.stack([starts, starts + 2], axis=1)
    return SimpleNamespace(record=record, explained=explained, seconds=seconds)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in the place of their files."""
    figures = []

    def keep(figure, file, **_):
        figures.append(figure)
        file.write(b"png")

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def write(monkeypatch, folder, stores, pictures):
    """What is written for a clip, and the units whose pictures were read."""
    read = []

    def read_them(store, clip_id, units):
        read.append((store, clip_id, units))
        return [pictures[unit] for unit in units]

    monkeypatch.setattr(explanation, "read_pictures", read_them)
    return explanation._write(made_up(), stores, None, folder), read


def test_numbers_words_and_pictures_of_eight_units_spread_over_the_clip(
    monkeypatch, tmp_path, drawn
):
    stores = {"windows": store("pixels:all", 4), "frames": store("pixels:centre")}
    grey = {unit: np.full((3, 6, 10, 3), 10 * unit, np.uint8) for unit in range(20)}
    for unit, pictures in grey.items():
        pictures[1] = unit  # the centre one of three
        pictures[1, :, 2:8] = 100 + unit  # its centre square
    files, [(of, clip, units)] = write(monkeypatch, tmp_path, stores, grey)
    assert (of, clip) == (stores["frames"], "val/a")
    assert units == [5, 6, 8, 9, 11, 12, 14, 15]
    assert (files.decided, files.without_maps, files.unseen_reason) == (
        "drama 0.90, war 0.40",
        ("temporal",),
        "",
    )
    assert files.picture.read_bytes() == b"png"
    with np.load(files.numbers) as held:
        assert held["targets"].tolist() == [0, 1, 0]
        assert held["decided"].tolist() == [0, 1]
        assert held["units"].tolist() == list(range(5, 16))
        assert held["seconds"].tolist() == made_up().seconds.tolist()
        assert held["map_spatial"].shape == (UNITS, 2, 2)
        assert held["attention_temporal"][-1] == pytest.approx(0.18)
    [figure] = drawn
    assert figure.get_suptitle() == "val/a (val): drama 0.90, war 0.40; has drama"
    *panels, time_line = figure.axes
    frames, maps = panels[::2], panels[1::2]
    assert [panel.get_title() for panel in frames] == [
        f"{seconds:.1f} s" for seconds in (0, 2, 6, 8, 12, 14, 18, 20)
    ]
    assert [panel.get_ylabel() for panel in panels[:3]] == ["frame", "spatial", ""]
    for panel, unit in zip(frames, units, strict=True):
        image = panel.images[0].get_array()
        assert image.shape == (6, 6, 3)
        assert np.unique(image).tolist() == [100 + unit]
    first, last = (panel.images[0].get_array()[0, 0].astype(int) for panel in (maps[0], maps[-1]))
    wanted = 0.75 * np.array([127.5, 0, 0]) + 0.25 * (100 + 15)  # jet at 1: the strongest
    np.testing.assert_allclose(last, wanted, atol=1)
    assert first[2] > first[0]  # a third of it is on the side of blue
    lines = {line.get_label(): line.get_xydata() for line in time_line.lines[:2]}
    assert list(lines) == ["spatial", "temporal"]
    np.testing.assert_array_equal(lines["spatial"][:2, 0], [0, 2])
    np.testing.assert_allclose(lines["spatial"][:2, 1], 1 / UNITS)
    assert np.isnan(lines["spatial"][2, 1])  # no line from a unit to the next
    assert [line.get_xdata()[0] for line in time_line.lines[2:]] == made_up().seconds[:, 0].tolist()
    assert time_line.get_xlim() == (0, 22)
    assert time_line.get_ylim()[0] == 0
    assert time_line.get_legend() is not None


def test_frames_are_those_of_a_store_with_one_picture_a_unit(monkeypatch, tmp_path, drawn):
    """Also where the only map is of a store with several."""
    found = made_up()
    maps = {"temporal": found.explained.maps["spatial"]}
    monkeypatch.setattr(found, "explained", replace(found.explained, maps=maps))
    stores = {"windows": store("pixels:all", 2), "frames": store("pixels:centre")}
    read = []
    monkeypatch.setattr(
        explanation,
        "read_pictures",
        lambda of, _, units: read.append(of) or [np.zeros((1, 4, 4, 3), np.uint8)] * len(units),
    )
    found.record.tags = ("drama",) * 30
    explanation._write(found, stores, None, tmp_path)
    assert read == [stores["frames"]]
    lines = drawn[0].get_suptitle().splitlines()
    assert 120 < max(map(len, lines)) <= 128  # as wide as eight pictures


def test_a_video_that_is_out_of_reach_leaves_maps_on_no_frames(monkeypatch, tmp_path, drawn):
    def unseen(of, *_):
        tried.append(of)
        raise VideoError("no such file", stage="open")

    monkeypatch.setattr(show, "frames_as_seen", unseen)
    monkeypatch.setattr(explanation, "videos_of_store", lambda *_: tmp_path / "videos")
    stores = {"windows": store("vit"), "frames": store("vit")}
    tried = []
    files, read = write(monkeypatch, tmp_path, stores, {})
    assert not read
    assert [of is stores["frames"] for of in tried] == [True]  # the one that has a map
    assert files.unseen_reason == f"{tmp_path / 'videos' / 'a.mp4'}: no such file"
    frames, maps = drawn[0].axes[:-1:2], drawn[0].axes[1:-1:2]
    assert {int(panel.images[0].get_array().min()) for panel in frames} == {255}
    strongest = maps[-1].images[0].get_array()
    assert strongest.shape == (SIDE, SIDE, 3)
    assert strongest[0, 0].tolist() == [128, 0, 0]


@pytest.mark.parametrize("threshold", [-0.01, 1.01])
def test_a_threshold_is_a_score(tmp_path, threshold):
    with pytest.raises(UsageError, match="a score is from 0 to 1"):
        next(explain_clips(tmp_path, [], threshold=threshold))


@pytest.mark.parametrize("threshold", [0, 1])
def test_the_bounds_of_a_score_are_thresholds(tmp_path, threshold):
    with pytest.raises(UsageError, match="is no run"):
        next(explain_clips(tmp_path, [], threshold=threshold))


def test_each_of_several_stores_that_is_not_found_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(explanation, "read_provenance", lambda _: {"stores": {"a": {}, "b": {}}})
    places = {"a": tmp_path / "a", "b": None}
    found = iter(places.values())
    monkeypatch.setattr(explanation, "store_of_run", lambda *_: next(found))
    with pytest.raises(UsageError, match="add --store a=PATH --store b=PATH"):
        stores_of_run(tmp_path)
    places["b"] = tmp_path / "b"
    found = iter(places.values())
    assert stores_of_run(tmp_path) == places
