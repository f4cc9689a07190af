"""What a plan says is what an extraction then makes; what a picture shows is what was seen."""

from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.preview import plan, show
from tokenreel.extract.preview.plan import (
    measure_machine,
    planned_identity,
    store_size,
    survey_headers,
)
from tokenreel.extract.preview.show import draw_clip, look_at_clip, tokens_to_rgb
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.types import VideoError

CONFIG = ExtractConfig(
    backbone="vit_tiny_patch16_224",
    weights="random:0",
    image_size=32,
    blocks=(3, 11),
    batch_frames=8,
    device="cpu",
    views=1,
    codec="pool2+int8",
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    with av.open(str(root / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(70):
            pixels = np.full((48, 64, 3), (number * 3) % 256, np.uint8)
            pixels[:, number % 64] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (root / "bad.mp4").write_text("no video")
    clips = (Clip("bad", "bad.mp4"), Clip("part", "a.mp4", 1.0, 2.0), Clip("whole", "a.mp4"))
    return Manifest("toy", root, clips)


@pytest.fixture(scope="module")
def store(manifest, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "toy"
    extract_clips(manifest, CONFIG, path, progress=False)
    return path


def test_plan_predicts_frames_bytes_and_files_of_the_extraction(manifest, store):
    survey = survey_headers(manifest, CONFIG)
    opened = open_store(store)
    assert survey.clip_frames == {name: r.num_frames for name, r in opened.records.items()}
    assert [clip for clip, _ in survey.unreadable] == ["bad"]
    size = store_size(planned_identity(CONFIG), CONFIG.codec, list(survey.clip_frames.values()))
    files = [path for path in (store / "clips").rglob("*") if path.is_file()]
    assert size.num_files == len(files)
    folders = [path for path in store.glob("clips/*/*/**") if path.is_dir()]
    assert size.num_folders == len(folders)
    chunks = [path.stat().st_size for path in files if path.name != "zarr.json"]
    assert size.num_bytes == sum(chunks)


def test_a_folder_of_pictures_counts_with_all_its_bytes_at_its_own_rate(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (40 * number, 0, 0)).save(folder / f"{number}.png")
    manifest = Manifest("toy", tmp_path, (Clip("a", "a", picture_fps=2.0),))
    survey = survey_headers(manifest, CONFIG)
    assert survey.video_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert (survey.num_seconds, survey.clip_frames) == (3.0, {"a": 6})
    rates = []

    def timed(path, **options):
        rates.append(options["picture_fps"])
        return decode(path, **options)

    monkeypatch.setattr(plan, "decode", timed)
    found = measure_machine(manifest, CONFIG, tmp_path, device=torch.device("cpu"), seconds=0.1)
    assert found.decode_frames > 0
    assert rates == [2.0]


def test_every_rate_of_the_machine_is_measured(manifest, tmp_path):
    rates = measure_machine(manifest, CONFIG, tmp_path, device=torch.device("cpu"), seconds=0.3)
    measured = (rates.decode_frames, rates.backbone_frames, rates.write_bytes, rates.read_bytes)
    assert min(measured) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_block_is_written_and_read_where_the_time_is_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "DISK_BLOCK_BYTES", 1 << 16)
    assert min(plan.disk_rates(tmp_path, 0.0)) > 0


@pytest.mark.parametrize("out", ["nowhere/a.png", "."])
def test_picture_that_cannot_be_written_is_an_error(manifest, store, tmp_path, out):
    picture = look_at_clip(open_store(store), "part", root=manifest.root, num_frames=1)
    with pytest.raises(UsageError, match="the picture cannot be written: "):
        draw_clip(picture, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_shows_the_frames_through_the_preprocessing_of_the_store(manifest, store):
    opened = open_store(store)
    picture = look_at_clip(opened, "part", root=manifest.root, num_frames=4)
    place = opened.frame_index("part")[picture.frames[2]]
    frame = list(decode(manifest.root / "a.mp4"))[place]
    expected = apply_transform(frame.pixels, opened.identity.transform).permute(1, 2, 0).numpy()
    assert np.array_equal(picture.seen[2], expected)
    assert picture.blocks.keys() == {3, 11}
    assert picture.blocks[3].shape == (4, 1, 1, 3)  # pool2 made one token of the 2x2 grid
    assert np.allclose(np.diagonal(picture.similarity), 1)


def test_the_picture_is_drawn_without_the_video_and_says_why(store, tmp_path):
    picture = look_at_clip(open_store(store), "whole", root=tmp_path, num_frames=3, view=1)
    assert picture.seen is None
    assert "no such file" in picture.unseen_reason
    out = draw_clip(picture, tmp_path / "whole.png")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_another_video_with_the_same_name_is_detected(store, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(70):
            black = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(black))
        container.mux(stream.encode())
    picture = look_at_clip(open_store(store), "whole", root=tmp_path, num_frames=3)
    assert "is not the video of the store" in picture.unseen_reason


@pytest.mark.parametrize("wrong", [{"view": 2}, {"num_frames": 0}])
def test_unknown_view_or_number_of_frames_is_refused(store, wrong, tmp_path):
    with pytest.raises(UsageError, match=r"view 2|0 frames"):
        look_at_clip(open_store(store), "whole", root=tmp_path, **wrong)


def test_first_principal_components_of_the_tokens_become_colours():
    tokens = np.zeros((1, 4, 5), np.float32)
    tokens[0, :2, 3] = 10
    colours = tokens_to_rgb(tokens, (2, 2))
    assert colours.shape == (1, 2, 2, 3)
    assert abs(colours[0, 0, 0, 0] - colours[0, 1, 0, 0]) == pytest.approx(1)
    assert colours[0, 0, 0, 0] == pytest.approx(colours[0, 0, 1, 0])


def test_a_survey_counts_what_is_kept_and_what_is_decoded_for_it(manifest):
    def survey(**fields):
        found = survey_headers(manifest, CONFIG.model_copy(update=fields))
        return found.clip_frames, found.num_decoded, found.num_seconds

    assert survey() == ({"part": 25, "whole": 70}, 95, pytest.approx(3.8))
    assert survey(frames="uniform:4")[:2] == ({"part": 4, "whole": 4}, 190)  # read twice
    assert survey(fps=5.0)[:2] == ({"part": 5, "whole": 14}, 95)
    assert survey(fps=100.0)[:2] == ({"part": 25, "whole": 70}, 95)


def test_rows_of_windows_and_every_view_are_counted():
    identity = planned_identity(CONFIG)
    one = store_size(identity, "int8", [64]).frame_bytes
    windows = identity.model_copy(update={"frames_per_window": 4, "rows_per_window": 2})
    assert store_size(windows, "int8", [64]).frame_bytes == one / 2
    clean = identity.model_copy(update={"views": identity.views[:1]})
    assert store_size(clean, "int8", [64]).frame_bytes == one / 2
    more = identity.model_copy(update={"frames_per_window": 12, "rows_per_window": 1})
    assert store_size(more, "fp16", [13]).num_bytes == store_size(more, "fp16", [24]).num_bytes


def test_clips_are_measured_spread_over_the_manifest(manifest, monkeypatch):
    assert list(plan._spread(list(range(5)))) == [0, 2, 4, 1, 3]
    for name in ("planned_identity", "JpegEncoder"):
        monkeypatch.setattr(plan, name, lambda _: None)
    monkeypatch.setattr(plan, "_spread", lambda clips: iter(()))
    assert plan.picture_bytes(manifest, CONFIG, seconds=1.0) == 0.0


def test_similarities_are_drawn_from_the_first_second_to_the_last(monkeypatch):
    monkeypatch.setattr(show, "save_figure", lambda figure, out: figure)
    similarity = np.array([[1.0, 0.25, 0.5], [0.25, 1, 0.75], [0.5, 0.75, 1]])
    seen = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20)])
    picture = show.ClipPicture(
        SimpleNamespace(clip_id="a", num_frames=3, split="val", action=""),
        np.array([0, 2]),
        np.array([1.0, 2.0, 4.0]),
        seen,
        "",
        {3: np.zeros((2, 1, 1, 3))},
        similarity,
    )
    axes = draw_clip(picture, None).axes
    assert [axis.get_title() for axis in axes[:2]] == ["1.00 s", "4.00 s"]
    assert [axis.images[0].get_array()[0, 0, 0] for axis in axes[:2]] == [10, 20]
    matrix = next(axis for axis in axes if axis.get_title() == "cosine of the CLS tokens")
    assert list(matrix.images[0].get_extent()) == [1.0, 4.0, 4.0, 1.0]
    [line] = next(axis for axis in axes if "the one before" in axis.get_title()).lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([2.0, 4.0], [0.25, 0.75])


def test_a_missing_video_is_a_line_of_the_plan(tmp_path: Path):
    survey = survey_headers(Manifest("toy", tmp_path, (Clip("gone", "gone.mp4"),)), CONFIG)
    assert survey.num_frames == 0
    assert survey.unreadable == (("gone", "no such file or directory"),)


def test_only_a_row_that_begins_with_its_frame_has_the_time_of_the_frame(
    manifest, store, monkeypatch
):
    opened = open_store(store)
    record = opened.records["whole"]
    monkeypatch.setattr(opened, "pts", lambda _, own=opened.pts: own("whole") + 1)
    plain, video, frames = opened.identity, manifest.root / "a.mp4", np.array([0, 30])

    def seen(**changes):
        monkeypatch.setattr(opened, "identity", plain.model_copy(update=changes))
        return len(list(show.frames_as_seen(opened, record, frames, video)))

    with pytest.raises(VideoError, match="is not the video of the store: frame 0 is at tick 0"):
        seen()
    assert seen(unit="scene") == seen(rows_per_window=2) == 2
