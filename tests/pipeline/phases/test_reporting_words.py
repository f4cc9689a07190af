"""What the page is made of: memory, and the frames of the store that has a clip."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tests.evaluate.clips import make_clip
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.manifest import Clip
from tokenreel.pipeline.phases import reporting
from tokenreel.pipeline.phases.relabelling import ClipLabels, _clip


def test_the_page_is_evaluated_within_the_memory_that_is_named(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(reporting, "split_words", lambda words: (None, [Path("a")]))
    monkeypatch.setattr(
        reporting, "evaluate_words", lambda words, **named: given.update(named) or "scores"
    )
    monkeypatch.setattr(reporting, "report_scores", lambda *_, **__: Path("p"))
    found = reporting.report_words(["a"], out=tmp_path, jobs=3, memory="5GB")
    assert found == (Path("p"), "scores")
    assert given == {"out": tmp_path, "jobs": 3, "memory": "5GB"}


def test_frames_are_of_the_store_that_has_the_same_video_of_a_clip(monkeypatch):
    class Store:
        def __init__(self, path):
            self.records = {"a": SimpleNamespace(video=f"{path}.mp4")}
            self._first = {"one": 1.0, "two": 2.0}[str(path)]

        def times_seconds(self, _):
            return np.array([self._first, 9.0])

        def frame_index(self, _):
            return np.array([7, 8])

    monkeypatch.setattr(reporting, "store_of_run", lambda folder, _: Path(folder.name))
    monkeypatch.setattr(reporting, "open_store", Store)
    clip = make_clip("a", "val", frames=1)
    clip = type(clip)(**(vars(clip) | {"video": "two.mp4"}))
    files = [EmbeddingFile(Path(name) / "e.h5", {}, (clip,)) for name in ("one", "two")]
    found = reporting.stored_frames(files)(clip)
    assert found.times_seconds.tolist() == [2.0, 9.0]
    assert found.frame_index.tolist() == [7, 8]
    other = type(clip)(**(vars(clip) | {"video": "three.mp4"}))
    assert reporting.stored_frames(files)(other) is other


def test_a_clip_of_pictures_keeps_its_rate_with_new_labels():
    held = Clip("a", "a", start_seconds=1.0, stop_seconds=2.0, picture_fps=5.0)
    found = _clip(ClipLabels(clip_id="a", split="val"), held, {}, Path("f.json"))
    assert (found.picture_fps, found.start_seconds, found.stop_seconds) == (5.0, 1.0, 2.0)
    assert found.split == "val"
