"""A run on new videos: the numbers of extract and embed, without their store, one by one."""

import csv
import shutil
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.pipeline.small import SMALL
from tokenreel.cache.embeddings import read_embeddings, write_embeddings
from tokenreel.cache.errors import ClipFailed, Damaged, UsageError, WrongIdentity
from tokenreel.cache.format.store_files import create_twin, load_identity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.sniff import VideoFiles
from tokenreel.fuse.embed import embed
from tokenreel.pipeline.apply import apply as module_of_apply
from tokenreel.pipeline.apply import tokens
from tokenreel.pipeline.apply import videos as module
from tokenreel.pipeline.apply.apply import apply_run, require_applicable
from tokenreel.pipeline.apply.results import Applied
from tokenreel.pipeline.apply.videos import list_videos, watch_folder
from tokenreel.pipeline.cli.fuse import app
from tokenreel.pipeline.phases.attention import file_name
from tokenreel.pipeline.phases.library import embed_store, extract_videos, train_model

EXTRACTION = {
    "backbone": "vit_tiny_patch16_224",
    "weights": "random:0",
    "image_size": 32,
    "blocks": (11,),
    "codec": "pca:4+int8",
    "workers": 1,
}


def settings(words):
    return dict(word.split("=") for word in words)


def write_video(path, *, seed, num_frames=14):
    """A picture that grows brighter, 48x32."""
    noise = np.random.default_rng(seed).integers(0, 60, (32, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for number in range(num_frames):
            image = (noise + 190 * number // num_frames).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run on a small data set whose store has moved since, and a folder of new videos."""
    path = tmp_path_factory.mktemp("apply")
    clips, labels = ["video,split,action"], ["video,start_seconds,stop_seconds,phase"]
    for number, split in enumerate(("train", "train", "train", "train", "val", "val")):
        name = f"{number}.mp4"
        write_video(path / "data" / name, seed=number)
        clips.append(f"{name},{split},{('lift', 'visit')[number % 2]}")
        labels += [f"{name},0,0.7,0", f"{name},0.7,1.4,1"]
    (path / "data" / "clips.csv").write_text("\n".join(clips))
    (path / "data" / "labels.csv").write_text("\n".join(labels))
    (path / "data" / "phases.csv").write_text(
        "action,phase\nlift,dark\nlift,bright\nvisit,come\nvisit,go\n"
    )
    extract_videos(path / "data", path / "store", settings=EXTRACTION)
    train_model(
        path / "store", path / "run", settings=settings(SMALL), device="cpu", progress=False
    )
    (path / "new" / "in").mkdir(parents=True)
    shutil.copy(path / "data" / "0.mp4", path / "new" / "a.mp4")
    write_video(path / "new" / "in" / "b.mp4", seed=9, num_frames=11)
    (path / "new" / "notes.txt").write_text("no video")
    shutil.move(path / "store", path / "moved")  # the run keeps what it needs
    return path


def applied(work, out, *videos, **options):
    options = {"action": "lift", "device": "cpu", "progress": False, **options}
    return list(apply_run(work / "run", videos or [work / "new"], out=out, **options))


@pytest.fixture(scope="module")
def done(work, tmp_path_factory):
    out = tmp_path_factory.mktemp("applied") / "out"
    return out, applied(work, out)


def test_embeddings_equal_those_of_extract_and_embed_without_the_runs_store(work, done, tmp_path):
    out, found = done
    assert [one.name for one in found] == ["a.mp4", "in/b.mp4"]
    given = embed_by_hand(work, tmp_path)
    wanted = {clip.clip_id: clip for clip in read_embeddings(given).clips}
    for one in found:
        [clip] = read_embeddings(one.folder / "embeddings.h5").clips
        np.testing.assert_array_equal(clip.embeddings, wanted[one.name].embeddings)
        np.testing.assert_array_equal(clip.times_seconds, wanted[one.name].times_seconds)
    assert not (out / "tokens").exists()


def embed_by_hand(work, tmp_path):
    """The ordinary commands, into a store with the calibration of the run's."""
    create_twin(tmp_path / "by_hand", work / "moved")
    extract_videos(work / "new", tmp_path / "by_hand", settings=EXTRACTION)
    return embed_store(
        work / "run", tmp_path / "by_hand", tmp_path / "e.h5", device="cpu", progress=False
    )


def test_the_tables_name_phases_their_probabilities_and_near_training_clips(work, done):
    _, found = done
    [clip] = read_embeddings(found[0].folder / "embeddings.h5").clips
    with (found[0].folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == clip.num_frames
    phases = list(rows[0])[3:]
    for row, moment in zip(rows, clip.times_seconds, strict=True):
        shares = [float(row[name]) for name in phases]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["phase"] == phases[int(np.argmax(shares))]
        assert float(row["probability"]) == max(shares)
        assert float(row["time_seconds"]) == pytest.approx(moment, abs=1e-6)
    with (found[0].folder / "nearest.csv").open() as file:
        nearest = list(csv.DictReader(file))
    assert [float(row["distance"]) for row in nearest] == sorted(
        float(row["distance"]) for row in nearest
    )
    # a.mp4 is a copy of a clip that the run was trained on
    assert float(nearest[0]["distance"]) == pytest.approx(0, abs=1e-3)


def test_the_movie_has_a_picture_for_each_frame(done):
    _, found = done
    [clip] = read_embeddings(found[0].folder / "embeddings.h5").clips
    with av.open(str(found[0].folder / "phases.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == clip.num_frames
    assert not np.array_equal(pictures[0][-12:], pictures[-1][-12:])  # the cursor has moved


def test_a_bad_video_is_listed_and_the_same_command_takes_what_has_changed(work, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(work / "new", videos)
    (videos / "bad.mp4").write_bytes((videos / "a.mp4").read_bytes()[:700])
    first = applied(work, tmp_path / "out", videos, movies=False)
    assert [one.clip_id for one in first if isinstance(one, ClipFailed)] == ["bad.mp4"]
    assert {one.name for one in first if isinstance(one, Applied)} == {"a.mp4", "in/b.mp4"}

    shutil.copy(videos / "a.mp4", videos / "bad.mp4")
    shutil.copy(videos / "in" / "b.mp4", videos / "a.mp4")
    again = applied(work, tmp_path / "out", videos, movies=False)
    assert {one.name: one.was_done for one in again} == {
        "a.mp4": False,
        "bad.mp4": False,
        "in/b.mp4": True,
    }
    one, other = (
        read_embeddings(tmp_path / "out" / name / "embeddings.h5").clips[0].embeddings
        for name in ("a.mp4", file_name("in/b.mp4"))
    )
    np.testing.assert_array_equal(one, other)
    assert all(one.was_done for one in applied(work, tmp_path / "out", videos, movies=False))


def test_the_command_lists_a_bad_video_and_ends_with_status_3(work, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    words = ["apply", work / "run", tmp_path / "bad.mp4", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [*map(str, words), "--action", "lift", "--device", "cpu"])
    assert result.exit_code == 3, result.output
    assert "failed: bad.mp4: open: " in result.output
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_that_another_writer_has_is_listed(work, tmp_path, monkeypatch):
    def skip(self):
        self._items.put(None)
        return ExtractReport()

    monkeypatch.setattr(tokens.Extraction, "_extract", skip)
    [one] = applied(work, tmp_path / "out", work / "new" / "a.mp4", movies=False)
    assert isinstance(one, ClipFailed)
    assert "has no clip 'a.mp4'" in one.reason


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"action": None}, "several actions: name one with --action: lift, visit"),
        ({"action": "jump"}, "--action jump: the run knows the phases of lift, visit"),
    ],
)
def test_what_means_nothing_is_refused(work, tmp_path, words, message):
    with pytest.raises(UsageError, match=message):
        applied(work, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_other_weights_are_refused_by_their_hash(work, tmp_path):
    with pytest.raises(WrongIdentity, match="weights_sha256"):
        applied(work, tmp_path / "out", weights="random:7")


def test_words_that_are_no_videos_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="does not exist: name videos"):
        list_videos([tmp_path / "missing.mp4"])
    with pytest.raises(UsageError, match="no video in this folder"):
        list_videos([tmp_path / "empty"])
    run = CliRunner().invoke(app, ["apply", str(tmp_path)])
    assert isinstance(run.exception, UsageError)


def test_each_video_is_written_while_later_ones_are_extracted_and_leaves_no_tokens(
    work, tmp_path, monkeypatch
):
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", seed=number, num_frames=6)
    is_written, tell, waits = threading.Event(), tokens.Extraction._tell, []

    def tell_and_wait(self, report):
        tell(self, report)
        if report.committed and not waits:
            waits.append(is_written.wait(600))

    monkeypatch.setattr(tokens.Extraction, "_tell", tell_and_wait)
    out = tmp_path / "out"
    options = {"action": "lift", "device": "cpu", "progress": False}
    found = apply_run(work / "run", [tmp_path / "videos"], out=out, **options)
    first = next(found)
    assert (first.folder / "applied.json").exists()
    assert first.name not in clips_of(out / "tokens")
    is_written.set()
    assert {first.name, *(one.name for one in found)} == {"0.mp4", "1.mp4", "2.mp4"}
    assert waits == [True]
    assert not (out / "tokens").exists()


def test_it_ends_with_equal_embeddings_where_one_video_may_wait(work, tmp_path, monkeypatch):
    """Videos that share a batch are complete together: nobody waits for a part of one."""
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", seed=number, num_frames=6)
    free = applied(work, tmp_path / "free", tmp_path / "videos", movies=False)
    monkeypatch.setattr(tokens, "AHEAD_VIDEOS", 1)
    paused = applied(work, tmp_path / "paused", tmp_path / "videos", movies=False)
    for one, other in zip(sorted_by_name(free), sorted_by_name(paused), strict=True):
        mine, theirs = (read_embeddings(each.folder / "embeddings.h5") for each in (one, other))
        np.testing.assert_array_equal(mine.clips[0].embeddings, theirs.clips[0].embeddings)
    assert not (tmp_path / "paused" / "tokens").exists()


def sorted_by_name(found):
    return sorted(found, key=lambda one: one.name)


def clips_of(store):
    return open_store(store).records if store.exists() else {}


def test_tokens_that_were_kept_stay_when_others_are_dropped(work, tmp_path):
    first, second = (work / "new" / "a.mp4", work / "new" / "in" / "b.mp4")
    applied(work, tmp_path / "out", first, movies=False, keep_tokens=True)
    applied(work, tmp_path / "out", second, movies=False)
    assert list(clips_of(tmp_path / "out" / "tokens")) == ["a.mp4"]
    [other] = applied(work, tmp_path / "out", first, movies=False, action="visit")
    [clip] = read_embeddings(other.folder / "embeddings.h5").clips
    assert clip.action == "visit"  # not that of the call which kept the tokens
    assert clip.phases == ("come", "go")


def test_what_a_killed_command_has_extracted_is_embedded_and_not_extracted_again(
    work, done, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    applied(work, out, movies=False, keep_tokens=True)
    for folder in out.iterdir():
        if folder.name != "tokens":
            shutil.rmtree(folder)
    extracted = []
    monkeypatch.setattr(tokens.Extraction, "_tell", lambda _, now: extracted.extend(now.committed))
    again = applied(work, out, movies=False)
    assert [(one.name, one.was_done) for one in again] == [("a.mp4", False), ("in/b.mp4", False)]
    assert not extracted
    for one, other in zip(again, done[1], strict=True):
        mine, theirs = (read_embeddings(each.folder / "embeddings.h5") for each in (one, other))
        np.testing.assert_array_equal(mine.clips[0].embeddings, theirs.clips[0].embeddings)
        assert mine.provenance == theirs.provenance  # whatever else was in the store


def test_a_part_of_a_clip_that_was_extracted_stays_for_the_next_call(tmp_path):
    stores = {name: tmp_path / "tokens" / name for name in ("spatial", "temporal")}
    part = stores["temporal"] / "clips" / "ab" / ".tmp-abc-extract-1"
    part.mkdir(parents=True)
    tokens.drop_empty(tmp_path, stores)
    assert part.exists()
    part.rmdir()
    tokens.drop_empty(tmp_path, stores)
    assert not (tmp_path / "tokens").exists()


def test_kept_tokens_are_of_the_video_as_it_is_and_a_bad_one_is_tried_again(work, tmp_path):
    videos, options = tmp_path / "videos", {"movies": False, "keep_tokens": True}
    shutil.copytree(work / "new", videos)
    (videos / "bad.mp4").write_bytes((videos / "a.mp4").read_bytes()[:700])
    first = applied(work, tmp_path / "out", videos, **options)
    record = open_store(tmp_path / "out" / "tokens").record("a.mp4")
    assert (record.split, record.action, record.phases) == ("test", "lift", ("dark", "bright"))
    assert not list((tmp_path / "out").rglob("*.mp4/*.mp4"))
    shutil.copy(videos / "in" / "b.mp4", videos / "a.mp4")
    again = applied(work, tmp_path / "out", videos, **options)
    one, other = (
        [each for each in found if isinstance(each, ClipFailed)] for found in (first, again)
    )
    assert len(one) == 1
    assert list(map(str, one)) == list(map(str, other))
    [clip] = read_embeddings(tmp_path / "out" / "a.mp4" / "embeddings.h5").clips
    assert clip.num_frames == 11  # of the new video
    assert open_store(tmp_path / "out" / "tokens").record("a.mp4").num_frames == 11


def test_videos_that_are_done_are_listed_without_the_run_being_loaded(work, done, monkeypatch):
    monkeypatch.setattr(module_of_apply, "lock_folder", None)
    again = applied(work, done[0], weights="nowhere.pt")
    assert [one.was_done for one in again] == [True, True]


def test_a_video_that_cannot_be_looked_at_is_listed(work, tmp_path, monkeypatch):
    reasons = iter([PermissionError(13, "Permission denied"), OSError("odd")])

    def closed(*_, **__):
        raise next(reasons)

    monkeypatch.setattr(module_of_apply.Target, "of", closed)
    found = applied(work, tmp_path / "out")
    assert list(map(str, found)) == ["a.mp4: open: Permission denied", "in/b.mp4: open: odd"]
    assert not (tmp_path / "out").exists()


def test_the_store_of_a_run_that_kept_none_is_taken_where_it_is_named(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(work / "run", tmp_path / "run")
    shutil.rmtree(run / "tokens")
    options = {"action": "lift", "out": tmp_path / "out"}
    with pytest.raises(UsageError, match="add --store PATH"):
        require_applicable(run, **options)
    require_applicable(run, store=work / "moved", **options)


def test_videos_of_which_none_has_scenes_are_listed(work, tmp_path, monkeypatch):
    names = ["a.mp4", "in/b.mp4"]
    failures = [ClipFailed(name, stage="open", reason="odd") for name in names]
    monkeypatch.setattr(module_of_apply, "listed_in", lambda _: tmp_path / "listed")
    monkeypatch.setattr(module_of_apply, "find_scenes", lambda *_, **__: failures)
    assert applied(work, tmp_path / "out") == failures
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_whose_stores_have_other_units_leaves_no_tokens(work, tmp_path, monkeypatch):
    def differ(*_):
        raise UsageError("clip 'a.mp4' has 3 and 4 units")

    monkeypatch.setattr(embed.ClipEmbedder, "open", differ)
    [failure] = applied(work, tmp_path / "out", work / "new" / "a.mp4")
    assert str(failure) == "a.mp4: read: clip 'a.mp4' has 3 and 4 units"
    assert list((tmp_path / "out").iterdir()) == []


def test_new_videos_have_no_stored_augmentations(work, tmp_path):
    identity, _ = load_identity(work / "moved")
    views = ({"name": "clean"}, {"name": "augment-1", "seed": 3, "strength": 1})
    source = create_twin(
        tmp_path / "augmented",
        work / "moved",
        identity=identity.model_copy(update={"views": views}),
    )
    config = tokens.prepare_tokens(
        work / "run", tmp_path / "new", source, weights="random:5", device="cpu"
    )
    assert load_identity(tmp_path / "new")[0].views == ({"name": "clean"},)
    assert (config.views, config.weights, config.device) == (0, "random:5", "cpu")


def test_results_of_another_video_of_the_same_name_are_not_replaced(work, tmp_path):
    for name, seed in (("x", 1), ("y", 2)):
        write_video(tmp_path / name / "a.mp4", seed=seed, num_frames=6)
    out = tmp_path / "out"
    [first] = applied(work, out, tmp_path / "x", movies=False)
    before = (first.folder / "predictions.csv").read_bytes()
    [second] = applied(work, out, tmp_path / "y", movies=False)
    assert isinstance(second, ClipFailed)
    assert f"has the results of {tmp_path / 'x' / 'a.mp4'}: use another --out" in second.reason
    assert (first.folder / "predictions.csv").read_bytes() == before
    shutil.move(tmp_path / "x" / "a.mp4", tmp_path / "x" / "moved.mp4")  # its place is free
    [third] = applied(work, out, tmp_path / "y", movies=False)
    assert not isinstance(third, ClipFailed)


def test_a_video_that_changes_meanwhile_is_taken_again(work, tmp_path, monkeypatch):
    video = tmp_path / "videos" / "a.mp4"
    write_video(video, seed=1, num_frames=6)
    write, out = module_of_apply.write_results, tmp_path / "out"

    def change(target, *args, **words):
        write_video(video, seed=2, num_frames=8)
        return write(target, *args, **words)

    with monkeypatch.context() as patched:
        patched.setattr(module_of_apply, "write_results", change)
        [one] = applied(work, out, video, movies=False)
    assert len(read_embeddings(one.folder / "embeddings.h5").clips[0].embeddings) == 6
    [again] = applied(work, out, video, movies=False)
    assert not again.was_done
    assert len(read_embeddings(one.folder / "embeddings.h5").clips[0].embeddings) == 8


def test_folders_of_pictures_are_videos_and_results_are_not(work, tmp_path, monkeypatch):
    videos, pictures = tmp_path / "videos", tmp_path / "videos" / "pictures"
    pictures.mkdir(parents=True)
    for number in range(9):
        image = np.full((32, 48, 3), 20 * number, np.uint8)
        Image.fromarray(image).save(pictures / f"{number:03}.png")
    shutil.copy(work / "new" / "a.mp4", videos / "a.mp4")
    out = videos / "applied"
    options = {"picture_fps": 10.0, "movies": True}
    make, rates = tokens.Extraction, {}

    def note_rates(manifest, *args, **words):
        rates.update({clip.clip_id: clip.picture_fps for clip in manifest.clips})
        return make(manifest, *args, **words)

    monkeypatch.setattr(module_of_apply, "Extraction", note_rates)
    found = applied(work, out, videos, **options)
    assert rates == {"a.mp4": None, "pictures": 10}
    assert sorted(one.name for one in found) == ["a.mp4", "pictures"]
    [one] = [one for one in found if one.name == "pictures"]
    [clip] = read_embeddings(one.folder / "embeddings.h5").clips
    np.testing.assert_allclose(clip.times_seconds, np.arange(9) / 10)
    assert all(one.was_done for one in applied(work, out, videos, **options))  # no phases.mp4
    assert list_videos([videos], out=out).names == ["a.mp4", "pictures"]
    assert list_videos([videos], out=tmp_path).names == ["a.mp4", "pictures"]  # of another --out
    assert list_videos([pictures]).names == ["pictures"]
    [other] = applied(work, out, pictures, picture_fps=5.0, movies=False)
    assert not other.was_done
    [clip] = read_embeddings(other.folder / "embeddings.h5").clips
    np.testing.assert_allclose(clip.times_seconds, np.arange(9) / 5)


def test_the_movie_shows_each_phase_when_it_is_in_a_video_of_uneven_times(work, tmp_path):
    video = tmp_path / "uneven.mp4"
    wanted = np.cumsum([0, 40, 400, 40, 2000, 40]) / 1000
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, moment in enumerate(wanted):
            frame = av.VideoFrame.from_ndarray(
                np.full((32, 48, 3), 40 * number, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = round(1000 * moment), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    [one] = applied(work, tmp_path / "out", video)
    with (one.folder / "predictions.csv").open() as file:
        table = [float(row["time_seconds"]) for row in csv.DictReader(file)]
    with av.open(str(one.folder / "phases.mp4")) as container:
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert table == pytest.approx(wanted, abs=1e-3)
    assert shown == pytest.approx(wanted, abs=1e-3)


def test_a_run_without_phases_gives_embeddings_and_the_nearest_clips(work, tmp_path):
    run = shutil.copytree(work / "run", tmp_path / "run")
    file = read_embeddings(run / "embeddings.h5")
    unlabelled = [
        replace(clip, labels=np.full(clip.num_frames, -1, np.int16)) for clip in file.clips
    ]
    write_embeddings(run / "embeddings.h5", unlabelled, provenance=file.provenance)
    options = {"out": tmp_path / "out", "device": "cpu", "progress": False}
    [one] = apply_run(run, [work / "new" / "a.mp4"], **options)
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == ["applied.json", "embeddings.h5", "nearest.csv"]
    with pytest.raises(UsageError, match=r"--action lift: no training clip of .* labelled phases"):
        list(apply_run(run, [work / "new" / "a.mp4"], action="lift", **options))


def test_names_in_a_watched_folder_begin_at_it_and_a_missing_folder_is_refused(work, tmp_path):
    folder = tmp_path / "watched"
    write_video(folder / "deep" / "a.mp4", seed=1, num_frames=6)
    [one] = applied(work, tmp_path / "out", folder / "deep" / "a.mp4", root=folder, movies=False)
    assert one.name == "deep/a.mp4"
    with pytest.raises(UsageError, match=r"--watch .*none: no such folder"):
        next(watch_folder(folder / "none", lambda *_: iter(())))


def test_a_file_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"x")
    found = VideoFiles(unreadable=[("a.bin", "permission denied")])
    monkeypatch.setattr(module, "find_videos", lambda *_: found)
    [failure] = list_videos([tmp_path]).unreadable
    assert str(failure) == "a.bin: open: permission denied"
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    watched = next(watch_folder(tmp_path, lambda *_: iter(())))
    assert str(watched) == "a.bin: open: permission denied"


def test_a_watched_folder_gives_a_file_when_it_no_longer_grows(work, tmp_path, monkeypatch):
    folder = tmp_path / "watched"
    folder.mkdir()
    video = (work / "new" / "a.mp4").read_bytes()
    looks = iter(["nothing", "half", "whole", "same", "same", "end"])
    taken = []

    def next_look(_):
        look = next(looks)
        if look == "half":
            (folder / "a.mp4").write_bytes(video[:1000])
        if look == "whole":
            (folder / "a.mp4").write_bytes(video)
        if look == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", next_look)

    def apply(videos, _):
        for path in videos:
            taken.append((path.name, path.stat().st_size))
            yield Applied(path.name, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        list(watch_folder(folder, apply))
    assert taken == [("a.mp4", len(video))]


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_watching_ends_on_a_signal_that_comes_while_the_last_video_is_written(
    tmp_path, monkeypatch, number, end
):
    (tmp_path / "a.mp4").write_bytes(b"x")
    found = VideoFiles(videos=["a.mp4"])
    monkeypatch.setattr(module, "find_videos", lambda *_: found)
    looks = iter([None, None])
    monkeypatch.setattr(module.time, "sleep", lambda _: next(looks))

    def apply(videos, stopping):
        signal.raise_signal(number)
        assert stopping.signal == number
        yield Applied(videos[0].name, tmp_path)

    made = watch_folder(tmp_path, apply)
    assert next(made).name == "a.mp4"
    with pytest.raises(end) as raised:
        next(made)
    assert end is KeyboardInterrupt or raised.value.code == 143


def test_sigterm_ends_it_with_143_and_the_same_command_resumes(work, done, tmp_path):
    out, options = tmp_path / "out", {"action": "lift", "device": "cpu", "progress": False}
    made = apply_run(work / "run", [work / "new"], out=out, movies=False, **options)
    first = next(made)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        list(made)
    assert raised.value.code == 143
    again = {one.name: one for one in applied(work, out, movies=False)}
    assert {name: one.was_done for name, one in again.items()} == {
        name: name == first.name for name in ("a.mp4", "in/b.mp4")
    }
    for other in done[1]:
        mine, theirs = (
            read_embeddings(each.folder / "embeddings.h5") for each in (again[other.name], other)
        )
        np.testing.assert_array_equal(mine.clips[0].embeddings, theirs.clips[0].embeddings)


def test_what_another_process_writes_while_this_one_waits_for_it_stays(work, tmp_path, monkeypatch):
    for name, num_frames in (("x", 6), ("y", 7)):
        write_video(tmp_path / name / "a.mp4", seed=1, num_frames=num_frames)
    out, lock = tmp_path / "out", module_of_apply.lock_folder

    @contextmanager
    def wait(*args, **words):
        with monkeypatch.context() as patched:
            patched.setattr(module_of_apply, "lock_folder", lock)
            applied(work, out, tmp_path / "x", movies=False)
        with lock(*args, **words):
            yield

    monkeypatch.setattr(module_of_apply, "lock_folder", wait)
    [other] = applied(work, out, tmp_path / "y", movies=False)
    assert isinstance(other, ClipFailed)
    assert f"has the results of {tmp_path / 'x' / 'a.mp4'}" in other.reason
    [other] = read_embeddings(out / "a.mp4" / "embeddings.h5").clips
    assert other.num_frames == 6


def test_damaged_tokens_are_dropped_so_that_the_same_command_extracts_them_again(work, tmp_path):
    out, video = tmp_path / "out", work / "new" / "a.mp4"
    applied(work, out, video, movies=False, keep_tokens=True)
    shutil.rmtree(out / "a.mp4")
    [clip] = (out / "tokens" / "clips").glob("*/*")
    largest = max(clip.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(bytes(largest.stat().st_size))
    [failure] = applied(work, out, video, movies=False)
    assert isinstance(failure, ClipFailed)
    assert "rerun the same command to extract it again" in failure.reason
    [again] = applied(work, out, video, movies=False)
    assert isinstance(again, Applied)


def test_a_damaged_run_is_the_fault_of_no_video(work, tmp_path):
    run = shutil.copytree(work / "run", tmp_path / "run")
    (run / "checkpoint.pt").write_bytes(b"torn")
    options = {"action": "lift", "device": "cpu", "progress": False, "out": tmp_path / "out"}
    with pytest.raises(Damaged, match=r"checkpoint\.pt"):
        list(apply_run(run, [work / "new"], **options))


def test_frames_of_a_list_are_refused_before_there_is_a_video(work, tmp_path):
    run = shutil.copytree(work / "run", tmp_path / "run")
    identity, _ = load_identity(work / "moved")
    shutil.rmtree(run / "tokens")
    frames = {"policy": "listed", "sha256": "0" * 64}
    listed = identity.model_copy(update={"frames": frames})
    create_twin(run / "tokens", work / "moved", identity=listed)
    options = {"action": "lift", "device": "cpu", "out": tmp_path / "out"}
    wanted = r"trained on frames of a list \(listed\).*`extract run`, then `fuse embed`"
    with pytest.raises(UsageError, match=wanted):
        list(apply_run(run, [work / "new"], **options))
    with pytest.raises(UsageError, match=wanted):
        require_applicable(run, **options)
    assert not (tmp_path / "out").exists()
