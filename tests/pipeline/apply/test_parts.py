"""The parts of `fuse apply` by themselves: classifiers, near clips, captions, watched pictures."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load

from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Manifest
from tokenreel.evaluate.methods.probe import LogisticFit, fit_logistic
from tokenreel.extract.scene_list import DESCRIPTION
from tokenreel.extract.scenes import run as scenes_run
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.run import describe_method
from tokenreel.extract.video.pictures import LEAST_PICTURES
from tokenreel.fuse.embed.export import ExportedModel
from tokenreel.pipeline.apply import export, results, tokens, videos
from tokenreel.pipeline.apply.captions import BAND, CAPTION, HEIGHT, caption
from tokenreel.pipeline.apply.probes import Probe, fit_probes, labelled_actions
from tokenreel.pipeline.apply.trained import read_trained


def make_clip(name, frames, labels=None, *, split="train", action="act", phases=("a", "b")):
    """A clip of some vectors, 10 a second."""
    values = np.asarray(frames, np.float32)
    numbers = np.full(len(values), -1) if labels is None else np.asarray(labels)
    times = np.arange(len(values)) / 10
    return EmbeddedClip(name, split, action, "", values, numbers.astype(np.int16), times, phases)


def test_a_classifier_is_fitted_on_labelled_frames_of_training_clips_of_its_action():
    one = make_clip("one", [[-1, 0], [1, 0], [9, 9]], [0, 1, -1])
    two = make_clip("two", [[-2, 1], [3, 1]], [0, 1])
    turned = [[-1, 0], [1, 0]] * 9, [1, 0] * 9
    others = [make_clip("val", *turned, split="val"), make_clip("other", *turned, action="b")]
    probe = fit_probes([one, two, *others])["act"]
    frames = np.array([[-1, 0], [1, 0], [-2, 1], [3, 1]], np.float32)
    wanted = fit_logistic(frames, np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(probe.fit.classes, [0, 1])
    np.testing.assert_array_equal(probe.fit.weight, wanted.weight)
    logits = frames[1] @ wanted.weight.T + wanted.bias
    share = 1 / (1 + np.exp(logits[0] - logits[1]))
    assert share > 0.5
    assert probe.probabilities(frames[1:2])[0] == pytest.approx([1 - share, share], abs=1e-6)
    assert [probe.name(number) for number in (0, 1, 2)] == ["a", "b", "phase 2"]


def test_actions_of_which_one_phase_is_labelled_have_no_classifier():
    frames = [[0, 0], [1, 1]]
    clips = [
        make_clip("none", frames, action="none"),
        make_clip("one", frames, [-1, 0], action="one"),
        make_clip("two", frames, [0, 1], action="two"),
        make_clip("val", frames, [0, 1], split="val", action="val"),
    ]
    assert labelled_actions(clips) == ["two"]
    assert list(fit_probes(clips)) == ["two"]


def test_ten_clips_are_near_by_the_mean_distance_of_frames_to_their_nearest():
    own = make_clip("own", [[0, 0], [0, 0], [3, 4]])
    far = [make_clip(f"c{number}", [[6, 8]]) for number in reversed(range(10))]
    whole = make_clip("whole", [[0, 0], [3, 4], [99, 0]])  # what it has besides does not count
    rows = results._nearest(own, [*far, make_clip("half", [[0, 0]]), whole])
    assert rows[0] == ["clip", "action", "video", "distance"]
    assert [(row[0], row[3]) for row in rows[1:]] == [
        ("whole", 0),
        ("half", round(5 / 3, 6)),
        *((f"c{number}", round(25 / 3, 6)) for number in range(8)),
    ]


@pytest.mark.parametrize(("frame", "cursor"), [(0, 0), (1, 159), (3, 478)])
def test_a_caption_has_the_phases_of_all_frames_and_a_cursor_at_its_own(frame, cursor):
    clip = make_clip("clip", [[0, 0]] * 4, [0, 0, 1, 1])
    picture = caption(np.zeros((40, 60, 3), np.uint8), clip, frame, 0.5)
    assert picture.shape == (HEIGHT + CAPTION + BAND, 480, 3)
    assert not picture[:HEIGHT].any()
    assert picture[HEIGHT : HEIGHT + CAPTION].max() > 200  # the text
    is_cursor = (picture[-1] == 255).all(axis=-1)
    assert np.flatnonzero(is_cursor).tolist() == [cursor, cursor + 1]
    blue, orange = (31, 119, 180), (255, 127, 14)  # the first colours of tab10
    halves = np.repeat([blue, orange], 240, axis=0)
    np.testing.assert_array_equal(picture[-1][~is_cursor], halves[~is_cursor])


def test_the_cursor_of_a_video_of_one_frame_is_at_its_beginning():
    clip = make_clip("clip", [[0, 0]], [1])
    picture = caption(np.zeros((40, 60, 3), np.uint8), clip, 0, 1.0)
    assert np.flatnonzero((picture[-1] == 255).all(axis=-1)).tolist() == [0, 1]


def test_pictures_in_a_watched_folder_itself_are_not_taken_as_it_grows(tmp_path, monkeypatch):
    for number in range(LEAST_PICTURES):
        (tmp_path / f"{number:03}.png").write_bytes(b"x")
    looks, taken = iter(range(2)), []

    def next_look(_):
        if next(looks, None) is None:
            raise KeyboardInterrupt

    def apply(paths, _):
        taken.extend(paths)
        return iter(())

    monkeypatch.setattr(videos.time, "sleep", next_look)
    with pytest.raises(KeyboardInterrupt):
        list(videos.watch_folder(tmp_path, apply))
    assert taken == []


def write_run(folder, clips, **data):
    """The folder of a run that is done, as far as it is read."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"config": {"data": data}}))
    write_embeddings(folder / "embeddings.h5", clips, provenance={})
    return folder


def test_what_a_run_has_learned_is_read_from_its_training_clips(tmp_path):
    frames, labels = [[-1.0, 0], [1, 0], [2, 1]], [0, 1, 1]
    clips = [make_clip("v", frames, labels, split="val", action="lift")]
    clips += [make_clip(f"l{number}", frames, labels, action="lift") for number in range(3)]
    clips += [make_clip("o", frames, [1, 0, 0], action="other")]
    run = write_run(tmp_path / "run", clips)
    found = read_trained(run, "lift")
    assert [clip.clip_id for clip in found.clips] == ["l0", "l1", "l2", "o"]
    assert found.sha256 == hashlib.sha256((run / "embeddings.h5").read_bytes()).hexdigest()
    assert (found.action, found.unit, found.score_names) == ("lift", "frame", ())
    assert found.probe.probabilities(np.array([[9.0, 0]]))[0].argmax() == 1
    with pytest.raises(UsageError, match=r"name one with --action: lift, other$"):
        read_trained(run, None)
    with pytest.raises(
        UsageError, match=r"--action jump: the run knows the phases of lift, other$"
    ):
        read_trained(run, "jump")
    (run / "embeddings.h5").unlink()
    with pytest.raises(UsageError, match="type its `fuse train` again to finish it"):
        read_trained(run, None)


def test_nine_actions_are_listed_as_eight_and_dots_and_one_without_a_name_by_words(tmp_path):
    frames, labels = [[-1.0, 0], [1, 0]], [0, 1]
    for number, end in ((8, "act6$"), (9, r"act6, \.\.\.$")):
        names = ["", *(f"act{place}" for place in range(number - 1))]
        clips = [make_clip(f"c{name}", frames, labels, action=name) for name in names]
        run = write_run(tmp_path / f"run{number}", clips)
        wanted = rf"with --action: \(no name\), act0, act1, act2, act3, act4, act5, {end}"
        with pytest.raises(UsageError, match=wanted):
            read_trained(run, None)
    assert read_trained(run, "").action == ""


def test_a_run_without_labels_has_no_probe_and_the_action_that_it_was_trained_on(tmp_path):
    run = write_run(tmp_path / "run", [make_clip("a", [[1, 2], [3, 4]])], action="act3")
    found = read_trained(run, None)
    assert (found.action, found.probe) == ("act3", None)
    alone = write_run(tmp_path / "one", [make_clip("a", [[0, 2], [3, 4]], [0, 1], action="lift")])
    assert read_trained(alone, None).action == "lift"


@pytest.fixture
def known(tmp_path):
    """The folder of a list of scenes that was made with settings of its own."""
    made = describe_method(ScenesConfig(threshold=9.5, window=5, min_frames=7))
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / DESCRIPTION).write_bytes(canonical_json(seal(made)))
    return tmp_path / "known"


def test_scenes_are_found_by_the_settings_of_the_runs_list(known, tmp_path, monkeypatch):
    given = []

    def extract(manifest, config, out, *, progress):
        given.append((config, sorted(path.name for path in out.parent.iterdir()), progress))
        return SimpleNamespace(signal=0, failed=["one"])

    monkeypatch.setattr(scenes_run, "extract_scenes", extract)
    out, manifest = tmp_path / "out", Manifest("new", tmp_path, (), {})
    out.mkdir()
    (out / "of-other-videos").touch()
    assert tokens.find_scenes(known, manifest, out, progress=True) == ["one"]
    [(config, there, progress)] = given
    assert (config.threshold, config.window, config.min_frames, progress) == (9.5, 5, 7, True)
    assert there == ["known"]  # what was found of other videos is gone
    stopped = SimpleNamespace(signal=2, failed=[])
    monkeypatch.setattr(scenes_run, "extract_scenes", lambda *_, **__: stopped)
    with pytest.raises(KeyboardInterrupt):
        tokens.find_scenes(known, manifest, out, progress=True)


def test_scenes_that_were_found_by_other_rules_are_refused(known, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_run, "RULES_VERSION", 99)
    manifest = Manifest("new", tmp_path, (), {})
    with pytest.raises(UsageError, match="this version finds scenes in another way: rules"):
        tokens.find_scenes(known, manifest, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("frames", "made_with", "folder"),
    [
        ({"policy": "all"}, {}, None),
        ({"policy": "scenes", "sha256": "0" * 64}, {"frames": "scenes:some/where"}, "some/where"),
        ({"policy": "scenes", "sha256": "0" * 64}, {}, "scenes"),
    ],
)
def test_the_list_of_a_store_of_scenes_lies_where_its_words_say(
    tmp_path, monkeypatch, frames, made_with, folder
):
    found = SimpleNamespace(frames=frames), {"made_with": made_with}
    monkeypatch.setattr(tokens, "load_identity", lambda _: found)
    assert tokens.listed_in(tmp_path) == (None if folder is None else Path(folder))


def test_arrays_of_an_export_are_written_in_the_order_of_their_axes():
    turned = np.arange(6.0).reshape(2, 3).T
    held = load(export._safetensors({"turned": turned}))
    np.testing.assert_array_equal(held["turned"], turned)


def test_names_on_the_card_of_an_export_are_code_on_one_line():
    says = "`tokens` are floats."
    model = ExportedModel(b"", b"", {"tokens": (6, 16), "cls": (8,)}, 50, says)
    probe = Probe(LogisticFit(np.eye(2), np.zeros(2), np.arange(2), 1), ())
    identity = SimpleNamespace(architecture="vit", weights_sha256="5e" * 32, codec={"name": "int8"})
    provenance = {"config": {}, "dataset": "odd `name`"}
    text = export._card(
        Path("runs/a`b"), provenance, identity, model, {"lift\n# up": probe}, {"sd": np.ones(1)}
    )
    assert text.startswith("# `ab`\n")
    assert "(commit not recorded) trained: `mvformer` on the data set `odd name`,\nseed 0." in text
    assert "embeddings = model(tokens=tokens, cls=cls)" in text
    assert "of T frames, 1 to 50:\n\n- `tokens` (T, 6, 16)\n- `cls` (T, 8)\n" in text
    assert f"backbone `vit`, the SHA-256 of its weights\n({'5e' * 32})" in text
    assert "has the arrays of its codec, `int8`." in text
    assert "- `lift # up`: phases without names\n" in text


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        export._write_folder(tmp_path / "deep" / "out", {"a": b"x"})
    assert list((tmp_path / "deep").iterdir()) == []
