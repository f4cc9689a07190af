"""`evaluate align | retrieve` as a user types them, on videos whose brightness counts frames."""

import csv
import json
from dataclasses import replace

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fuse.tiny import write_store
from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.format.source_notes import add_notes
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.provenance import describe_fingerprints
from tokenreel.evaluate.report.pictures.frames import FramesUnreachable
from tokenreel.pipeline.cli.evaluate import app
from tokenreel.pipeline.phases.reporting import frames_below

RATE, STEP = 20, 6  # frames a second; grey levels from one frame to the next
VIDEOS = {"one.mp4": 24, "two.mp4": 36}


def call(*words):
    """Exit status and output; an error of ours as run_app tells it."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, TokenReelError):
        return result.exception.exit_status, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def make_clip(name, frames, *, skip, seconds=0.0):
    """A clip that starts `skip` frames into its video; its embedding is how far it is."""
    share = np.arange(frames) / (frames - 1)
    return EmbeddedClip(
        clip_id=name.removesuffix(".mp4"),
        split="val",
        action="act",
        group="",
        embeddings=share.astype(np.float32)[:, None],
        labels=(share > 0.5).astype(np.int16),
        times_seconds=(skip + np.arange(frames)) / RATE + seconds,
        phases=("rise", "fall"),
        frame_index=skip + np.arange(frames),
        video=name,
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with videos/ and run/embeddings.h5."""
    path = tmp_path_factory.mktemp("work")
    (path / "videos").mkdir()
    for name, frames in VIDEOS.items():
        with av.open(str(path / "videos" / name), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.options = {"crf": "8"}
            for number in range(frames):
                pixels = np.full((64, 96, 3), 10 + STEP * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    clips = [make_clip(name, frames - 4, skip=4) for name, frames in VIDEOS.items()]
    write_embeddings(path / "run/embeddings.h5", clips, provenance={"dataset": "none"})
    return path


def levels(path):
    """Frame number that the middle of the left and of the right half of each frame shows."""
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    columns = (48, images[0].shape[1] - 48)
    return [tuple(round((float(i[32, x].mean()) - 10) / STEP) for x in columns) for i in images]


def test_the_video_shows_the_frames_of_the_table_step_by_step(work):
    status, out = call(
        "align",
        "one",
        "two",
        "--run",
        work / "run",
        "--root",
        work / "videos",
        "--out",
        work / "align",
        "--height",
        64,
    )
    assert status == 0
    assert "20 and 32 frames" in out
    with (work / "align/one--two.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["query_frame"] for row in (rows[0], rows[-1])] == ["0", "19"]
    assert (rows[0]["query_index"], rows[0]["query_seconds"]) == ("4", "0.2")
    wanted = [(int(row["query_index"]), int(row["reference_index"])) for row in rows]
    assert levels(work / "align/one--two.mp4") == wanted


def test_without_the_videos_the_table_is_written_and_the_reason_told(work, tmp_path):
    status, out = call(
        "align", "one", "two", "--run", work / "run", "--root", tmp_path / "no", "--out", tmp_path
    )
    assert status == 0
    assert "no video:" in out
    assert "one.mp4: no such file" in out
    assert [path.name for path in tmp_path.iterdir()] == ["one--two.csv"]


def test_retrieve_tells_and_draws_the_nearest_frames(work):
    status, out = call(
        "retrieve",
        "one",
        1,
        "--run",
        work / "run/embeddings.h5",
        "--root",
        work / "videos",
        "--out",
        work / "found",
        "--k",
        3,
    )
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "query: one, frame 1, 0.25 s, rise"
    assert lines[1].split()[-3:] == ["distance", "phase", "verdict"]
    assert [line.split()[2] for line in lines[2:5]] == ["2", "1", "3"]
    assert all(line.split()[-1] == "right" for line in lines[2:5])
    from PIL import Image

    with Image.open(work / "found/one-1.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[2] == 3
    assert len(np.unique(pixels)) > 3


def test_retrieve_without_videos_still_tells_the_table(work, tmp_path):
    status, out = call("retrieve", "two", 0, "--run", work / "run", "--root", tmp_path)
    assert status == 0
    assert "no picture:" in out
    assert "right" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["align", "one", "three"], "'three': no clip matches"),
        (["retrieve", "one", "99"], "frame 99: one has frames 0 to 19"),
    ],
)
def test_a_clip_or_frame_that_is_not_there_ends_with_2(work, words, message):
    status, out = call(*words, "--run", work / "run")
    assert (status, message in out) == (2, True)


def test_a_folder_of_several_runs_is_refused(work):
    again = work / "runs"
    clips = [make_clip(name, 4, skip=0) for name in VIDEOS]
    for name in ("a", "b"):
        write_embeddings(again / name / "embeddings.h5", clips, provenance={})
    status, out = call("align", "one", "two", "--run", again)
    assert (status, "2 runs are below it" in out) == (2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": ""}, "names no video of one"),
        ({"video": "../videos/one.mp4"}, "leads out of the folder of the videos: refused"),
        ({"video": "/videos/one.mp4"}, "leads out of the folder of the videos: refused"),
        ({"times_seconds": np.arange(20) / 25}, "is not the video of one: frame 4 is at 0.200 s"),
        (
            {"frame_index": 10 + np.arange(20), "times_seconds": (10 + np.arange(20)) / RATE},
            "has no frame 24 of one",
        ),
    ],
)
def test_frames_of_another_video_are_refused(work, change, message):
    clip = make_clip("one.mp4", 20, skip=4)
    changed = EmbeddedClip(**{**vars(clip), **change})
    with pytest.raises(FramesUnreachable, match=message):
        list(frames_below(work / "videos")(changed, range(20)))


def test_frames_of_clips_without_times_are_found_by_their_index(work):
    clip = make_clip("one.mp4", 5, skip=4)
    untimed = EmbeddedClip(**{**vars(clip), "times_seconds": np.arange(5), "is_timed": False})
    source = frames_below(work / "videos")
    for one, other in zip(source(clip, range(5)), source(untimed, range(5)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_only_frame_of_a_video_is_shown(work):
    with av.open(str(work / "videos" / "lone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        pixels = np.full((64, 96, 3), 90, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    clip = replace(make_clip("lone.mp4", 2, skip=0), frame_index=np.array([0, 1]))
    [image] = frames_below(work / "videos")(clip, [0])
    assert abs(float(image.mean()) - 90) < 3


def test_report_lists_bad_files_shows_the_others_and_ends_with_3(work, tmp_path):
    bad = tmp_path / "complex.npz"
    np.savez(
        bad,
        embeddings=np.ones((2, 2), complex),
        lengths=[2],
        clip_id=["a"],
        split=["val"],
    )
    words = ["report", bad, work / "run", "--out", tmp_path / "page", "--jobs", 1]
    status, out = call(*words, "--root", work / "videos", "--actions", 0)
    assert status == 3
    page = (tmp_path / "page/index.html").read_text()
    for text in (out, page):
        assert "complex.npz: embeddings are complex numbers" in text


def test_report_evaluates_and_writes_the_page_beside_its_tables(work, tmp_path):
    words = ["report", work / "run", "--out", tmp_path, "--jobs", 1, "--title", "Two clips"]
    status, out = call(*words, "--root", work / "videos", "--projection", "tsne")
    assert status == 0
    assert f"report: {tmp_path / 'index.html'}" in out
    page = (tmp_path / "index.html").read_text()
    assert "<h1>Two clips</h1>" in page
    assert "t-SNE, perplexity" in page
    assert page.count('src="data:image/jpeg') > 10
    assert (tmp_path / "results.csv").is_file()

    before = (tmp_path / "index.html").read_bytes()
    call(*words, "--root", work / "videos", "--projection", "tsne")
    assert (tmp_path / "index.html").read_bytes() == before


def test_report_tells_what_was_wrong_with_a_file_and_shows_the_others(work, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"torn")
    status, out = call(
        "report", work / "run", bad, "--out", tmp_path / "out", "--root", tmp_path, "--jobs", 1
    )
    assert status == 3
    assert "problem: " in out
    page = (tmp_path / "out/index.html").read_text()
    assert "bad.h5" in page
    assert "Without the frames of" in page


def test_report_looks_for_videos_where_they_were_and_counts_those_it_lacks(work, tmp_path):
    store, run = write_store(tmp_path / "store", train=1, val=1), tmp_path / "run"
    add_notes(store, root=str(work / "videos"))
    about = describe_fingerprints(load_identity(store)[0].fingerprint, ())
    clips = [make_clip(name, frames - 4, skip=4) for name, frames in VIDEOS.items()]
    write_embeddings(run / "embeddings.h5", clips, provenance=about)
    (run / "run.json").write_text(json.dumps({**about, "store_path": str(store)}))
    status, out = call("report", run, "--out", tmp_path / "out", "--jobs", 1)
    assert (status, "no frames" in out) == (0, False)
    page = (tmp_path / "out/index.html").read_text()
    assert page.count('src="data:image/jpeg') > 10
    status, out = call("report", run, "--out", tmp_path / "out", "--jobs", 1, "--root", tmp_path)
    assert status == 3
    assert "problem: no frames of 2 clip(s), such as one: " in out


def test_report_of_nothing_that_can_be_read_is_refused(tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"torn")
    status, out = call("report", bad, "--out", tmp_path / "out", "--jobs", 1)
    assert (status, "no embedding file to report on" in out) == (5, True)
