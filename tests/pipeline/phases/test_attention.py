"""`fuse attend`: the grid, the movie and the numbers, with frames and without."""

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fuse.tiny import write_store
from tests.pipeline.small import SMALL, extract_sample
from tokenreel.cache.errors import ClipFailed, TokenReelError, UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.embed.attend import ClipAttention
from tokenreel.pipeline.cli.fuse import app
from tokenreel.pipeline.phases import attention
from tokenreel.pipeline.phases.attention import attend_clips
from tokenreel.pipeline.phases.training import train_recipe


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with the sample extracted, small, and a run on it."""
    path = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        extract_sample("data.val=2")
        train_recipe("sample", SMALL, out=path / "run", device="cpu", progress=False)
    return path


def read_movie(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_clip_gets_a_grid_a_movie_and_its_numbers(work, monkeypatch):
    monkeypatch.chdir(work)
    result = CliRunner().invoke(app, ["attend", "run", "--clips", "val/visit", "--device", "cpu"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "attention alone" not in result.stdout
    [numbers] = (work / "run/attention").glob("*.npz")
    with np.load(numbers) as file:
        found = dict(file)
    frames, entities = found["weights"].shape[:2]
    assert entities == 3
    assert len(found["times_seconds"]) == len(found["labels"]) == frames
    np.testing.assert_allclose(found["weights"].sum(axis=(2, 3)), 1, atol=1e-4)
    movie = read_movie(numbers.with_suffix(".mp4"))
    assert len(movie) == frames
    assert movie[0].shape == (224, 4 * 224, 3)  # the frame, then three entities
    assert numbers.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_without_the_video_it_is_the_attention_alone_and_a_line_says_so(work, monkeypatch):
    monkeypatch.chdir(work)
    words = ["--clips", "val/visit", "--root", "nowhere", "--out", "alone", "--device", "cpu"]
    result = CliRunner().invoke(app, ["attend", "run", *words])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "attention alone, no frames: nowhere/val/visit" in result.stdout
    assert "(--root names the videos)" in result.stdout
    [movie] = (work / "alone").glob("*.mp4")
    assert read_movie(movie)[0].shape == (224, 3 * 224, 3)


def test_a_damaged_clip_is_told_and_the_command_ends_with_status_3(work, monkeypatch):
    def attend(run, store, clips, *, device):
        yield ClipFailed(clips[0], stage="read", reason="frame 3 is damaged")

    monkeypatch.chdir(work)
    monkeypatch.setattr("tokenreel.fuse.embed.attend.attend", attend)
    result = CliRunner().invoke(app, ["attend", "run", "--clips", "val/visit", "--device", "cpu"])
    assert result.exit_code == 3, (result.output, result.exception)
    assert "failed: val/visit_001.mp4: read: frame 3 is damaged" in result.stdout


def test_without_an_encoder_the_rest_is_written_and_it_is_said(work, monkeypatch):
    def add_stream(*_, **__):
        raise ValueError("libx264")

    monkeypatch.chdir(work)
    monkeypatch.setattr(av.container.OutputContainer, "add_stream", add_stream, raising=True)
    with pytest.raises(TokenReelError, match=r"\.mp4: this build of PyAV has no encoder libx264"):
        list(attend_clips(work / "run", ["val/visit"], out=work / "still", device="cpu"))
    assert sorted(path.suffix for path in (work / "still").iterdir()) == [".npz", ".png"]


def test_a_clip_is_named_by_a_part_of_its_id_that_only_it_has(tmp_path):
    store = attention.open_store(write_store(tmp_path / "s"))
    assert attention.find_clips(store, ["val1", "n4", "val1"]) == ["val1", "train4"]
    with pytest.raises(UsageError, match="no clip is named"):
        attention.find_clips(store, [])
    with pytest.raises(UsageError, match=r"'train': 5 clips match .* of train0, .*train4$"):
        attention.find_clips(store, ["train"])
    with pytest.raises(UsageError, match=r"'nobody': no such clip in .* one of train0.*, \.\.\.$"):
        attention.find_clips(store, ["nobody"])
    with pytest.raises(UsageError, match=r"'vall1': no such clip in \S+, did you mean val1"):
        attention.find_clips(store, ["vall1"])


def test_a_store_that_is_elsewhere_has_to_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = write_store(tmp_path / "s")
    train_recipe("sample", SMALL, store=store, out=tmp_path / "run", device="cpu", progress=False)
    store.rename(tmp_path / "moved")
    with pytest.raises(
        UsageError, match=r"trained on s: its store is not in \./stores .*: add --store"
    ):
        next(attend_clips(tmp_path / "run", ["val0"], device="cpu"))


def test_a_place_that_nobody_looks_at_shows_the_frame_dimmed():
    image = np.full((4, 4, 3), 200, np.uint8)
    strength = np.array([[0.0, 1.0]], np.float32)
    drawn = attention._overlay(strength, image, 4)
    assert (drawn[:, :2] == 140).all()  # 0.7 of 200
    assert drawn[0, 3, 0] > drawn[0, 3, 2] + 50  # the bright end of the colours is yellow


def test_the_movie_of_uneven_frames_shows_each_at_its_own_time(tmp_path):
    store = open_store(write_store(tmp_path / "s"))
    times = np.cumsum([0, 40, 400, 40, 2000, 40]) / 1000
    found = ClipAttention(
        next(iter(store.records.values())),
        weights=np.full((6, 1, 2, 2), 0.25, np.float32),
        times_seconds=times,
        labels=np.full(6, -1, np.int16),
    )
    files = attention._write(found, store, tmp_path / "nowhere", tmp_path)
    with av.open(str(files.movie)) as container:
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert shown == pytest.approx(times, abs=1e-3)
