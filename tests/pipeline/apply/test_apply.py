"""A run on new videos: the numbers of extract and embed, without their store, one by one."""

import csv
import shutil

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.pipeline.small import SMALL
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import ClipFailed, UsageError, WrongIdentity
from tokenreel.cache.format.store_files import create_twin
from tokenreel.pipeline.apply import apply as module
from tokenreel.pipeline.apply.apply import Applied, apply_run, list_videos, watch_folder
from tokenreel.pipeline.cli.fuse import app
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
        for name in ("a.mp4", module.file_name("in/b.mp4"))
    )
    np.testing.assert_array_equal(one, other)
    assert all(one.was_done for one in applied(work, tmp_path / "out", videos, movies=False))


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

    def apply(videos):
        for path in videos:
            taken.append((path.name, path.stat().st_size))
            yield Applied(path.name, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        list(watch_folder(folder, apply))
    assert taken == [("a.mp4", len(video))]
