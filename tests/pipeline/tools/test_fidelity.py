"""`tokenreel fidelity`: the table, the recommendation, and what could not be measured."""

import importlib.util
import math
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.codec_error import CodecError
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.flow import runner
from tokenreel.pipeline.cli.main import app
from tokenreel.pipeline.tools import fidelity as fidelity_module
from tokenreel.pipeline.tools.fidelity import (
    FidelityReport,
    FidelityRow,
    default_codecs,
    fidelity_of,
    fidelity_table,
    kept_neighbours,
    measure_store,
)

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[2] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

CODECS = ["int8", "int4", "pool2+int8", "pca:8+int8"]


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def write_clip(writer: StoreWriter, clip_id: str, frames: int, labels: np.ndarray) -> None:
    clip = writer.begin(
        Clip(clip_id, "a/v.mp4", split="val" if clip_id.startswith("v") else "train"),
        dataset="d",
        phases=("x", "y"),
        source=stores.SOURCE,
        time_base=stores.Fraction(1, 25),
    )
    stores.append(writer, clip, clip_id, frames)
    count = np.arange(frames)
    clip.commit(count, count * 2, labels, np.zeros(frames, np.uint8))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    path = stores.make_store(tmp_path_factory.mktemp("stores") / "s", codec="fp16")
    with StoreWriter(path, writer_id="w") as writer:
        for clip_id in ("a", "b", "c", "va", "vb"):
            write_clip(writer, clip_id, 20, np.arange(20) // 10)
    return path


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    path = stores.make_store(tmp_path_factory.mktemp("stores") / "s", codec="int8")
    with StoreWriter(path, writer_id="w") as writer:
        for clip_id in ("a", "va"):
            write_clip(writer, clip_id, 20, np.full(20, -1))
    return path


@pytest.fixture(scope="module")
def report(labelled):
    return measure_store(labelled, clips=9, codecs=CODECS, progress=False)


def test_every_codec_has_its_bytes_errors_and_metrics(report):
    assert [row.codec for row in report.rows] == ["fp16", *CODECS]
    by_name = {row.codec: row for row in report.rows}
    assert by_name["int8"].bytes_per_frame == 2 * 16 * (16 + 4)
    assert by_name["int8"].share == 20 / 32
    assert by_name["fp16"].error.relative < 1e-3 < by_name["int8"].error.relative
    assert all(set(row.metrics) == {"classification", "tau", "ap@5"} for row in report.rows)
    assert (report.num_clips, report.num_frames, report.notes) == (5, 100, ())


def test_metrics_see_the_tokens_a_codec_gives_back(report):
    by_name = {row.codec: row for row in report.rows}
    assert by_name["fp16"].metrics["ap@5"] != by_name["pool2+int8"].metrics["ap@5"]
    assert report.change(by_name["fp16"], "tau") == 0
    assert report.change(by_name["int4"], "tau") == pytest.approx(
        by_name["int4"].metrics["tau"] - by_name["fp16"].metrics["tau"]
    )


def embedded(*clips: list[float]) -> list[EmbeddedClip]:
    return [
        EmbeddedClip(
            str(number),
            "val",
            "",
            "",
            np.array(own, np.float32)[:, None],
            np.full(len(own), -1, np.int16),
            np.arange(len(own)) / 25,
            (),
        )
        for number, own in enumerate(clips)
    ]


def test_kept_neighbours_are_counted_by_hand():
    found = kept_neighbours(
        {
            "fp16": embedded([0], [1, 2, 3, 4, 5, 6, 7]),
            # of the 5 nearest of the frame at 0, two have moved away; the others have one frame
            "far": embedded([0], [1, 2, 3, 40, 50, 6, 7]),
            "broken": embedded([0], [1, 2, 3, math.nan, 5, 6, 7]),
        }
    )
    assert found["fp16"] == 1
    assert found["far"] == pytest.approx((3 / 5 + 7 * 1) / 8)
    assert math.isnan(found["broken"])
    assert math.isnan(kept_neighbours({"fp16": embedded([0, 1])})["fp16"])


def test_neighbours_need_no_labels_and_more_than_one_clip(report, unlabelled, tmp_path):
    assert report.rows[0].neighbours == 1
    assert 0 < report.rows[3].neighbours < report.rows[1].neighbours <= 1
    found = measure_store(unlabelled, clips=9, codecs=["int8"], progress=False)
    assert found.rows[0].neighbours == 1
    assert 0.9 < found.rows[1].neighbours < 1
    lonely = measure_store(
        _store_of(tmp_path / "one", ["a"]), clips=1, codecs=["int8"], progress=False
    )
    assert math.isnan(lonely.rows[1].neighbours)
    header, line = fidelity_table(lonely).splitlines()[:2]
    assert "neighbours" in header
    assert line.split()[-1] == "absent"


def test_the_same_store_is_measured_the_same_twice(labelled, report):
    assert measure_store(labelled, clips=9, codecs=CODECS, progress=False) == report


def test_the_command_prints_a_table_and_a_recommendation(labelled):
    status, text = call("fidelity", labelled, "--codec", "int8", "--codec", "pool2+int4")
    assert status == 0
    for words in (
        "codec",
        "of fp16",
        "cos worst 1%",
        "pooled error",
        "probe",
        "tau",
        "ap@5",
        "pool2+int4",
        "5 clips, 100 frames of s, tiny (fp16); weights unknown",
        "recommended: ",
        "compact: pool2+int4, 0.094 of fp16's bytes, pooled error 0.8",
    ):
        assert words in text
    assert (
        "compact: none of these has at most 0.13"
        in call("fidelity", labelled, "--codec", "int8")[1]
    )


def test_without_labels_the_report_says_why_there_are_no_metrics(unlabelled):
    status, text = call("fidelity", unlabelled, "--codec", "int8")
    assert status == 0
    assert "note: no phase labels: no probe accuracy, tau or AP@5" in text
    assert "probe" not in text.splitlines()[0]
    found = measure_store(unlabelled, clips=9, codecs=CODECS, progress=False)
    assert found.rows[1].metrics == {}
    assert math.isnan(found.change(found.rows[1], "tau"))


def test_a_metric_that_cannot_be_computed_is_absent_and_named(tmp_path):
    path = stores.make_store(tmp_path / "s", codec="fp16")
    with StoreWriter(path, writer_id="w") as writer:
        write_clip(writer, "a", 20, np.arange(20) // 10)
        write_clip(writer, "va", 20, np.arange(20) // 10)  # one clip has no pair: no tau
        write_clip(writer, "vb", 20, np.full(20, -1))
    found = measure_store(path, clips=9, codecs=["int8"], progress=False)
    assert "tau" not in found.rows[0].metrics
    assert any(note.startswith("tau could not be computed for fp16, int8") for note in found.notes)
    assert "1 clips without labels are in no metric" in found.notes
    assert "classification" in found.rows[0].metrics


def test_one_clip_is_measured_and_said_to_be_calibrated_on_itself(unlabelled):
    found = measure_store(unlabelled, clips=1, codecs=["int8"], progress=False)
    assert found.num_clips == 2  # one of each split
    lonely = measure_store(
        _store_of(unlabelled.parent / "one", ["a"]), clips=1, codecs=["int8"], progress=False
    )
    assert any("calibrated on the frames they are measured on" in note for note in lonely.notes)


def _store_of(path: Path, clip_ids: list[str]) -> Path:
    stores.make_store(path, codec="fp16")
    with StoreWriter(path, writer_id="w") as writer:
        for clip_id in clip_ids:
            stores.write_clip(writer, clip_id, 5)
    return path


def test_what_cannot_be_judged_is_refused(tmp_path, unlabelled):
    with pytest.raises(UsageError, match="holds no clips"):
        measure_store(stores.make_store(tmp_path / "empty"), clips=3)
    coarse = stores.make_store(tmp_path / "coarse", codec="pool2+int8")
    with pytest.raises(UsageError, match="lost too much to judge other codecs by"):
        measure_store(coarse, clips=3)
    with pytest.raises(UsageError, match="is a store: words and --root are for a data set"):
        fidelity_of(str(unlabelled), ["blocks=11"])
    with pytest.raises(UsageError, match="no codec 'int9', did you mean int8"):
        measure_store(unlabelled, clips=3, codecs=["int9"], progress=False)
    with pytest.raises(UsageError, match="nowhere"):
        fidelity_of("nowhere")


@pytest.mark.parametrize("codec", ["pca:9999+int8", "pca:7+int4", "pca:0+int8", "pca:769+fp16"])
def test_a_codec_that_does_not_fit_is_refused_before_anything_is_read_or_extracted(
    tmp_path, unlabelled, codec, monkeypatch
):
    monkeypatch.setattr(fidelity_module, "sample_of", None)
    monkeypatch.setattr(runner, "extract_clips", None)
    with pytest.raises(UsageError, match="codec"):
        fidelity_of(str(unlabelled), codecs=["int8", codec])
    (tmp_path / "a.mp4").write_bytes(b"")
    words = ["weights=random:0", "image_size=32", "blocks=3"]
    with pytest.raises(UsageError, match="codec"):
        fidelity_of("folder", words, root=tmp_path, codecs=["int8", codec])


def test_a_data_set_is_extracted_as_fp16_and_a_broken_clip_is_named(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(6):
                pixels = np.full((48, 64, 3), number * 40, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    (tmp_path / "c.mp4").write_bytes(b"no video")
    words = ["backbone=vit_tiny_patch16_224", "weights=random:3", "image_size=32", "blocks=11"]
    found = fidelity_of("folder", words, root=tmp_path, progress=False)
    assert found.source == "folder, vit_tiny_patch16_224 (fp16)"
    assert [row.codec for row in found.rows] == list(default_codecs(192))
    assert any(note.startswith("left out: c.mp4: ") for note in found.notes)
    assert "these weights are random" in fidelity_table(found)


def row(codec: str, share: float, pooled: float, **metrics: float) -> FidelityRow:
    error = CodecError(pooled, 1.0, 1.0, pooled)
    return FidelityRow(codec, share * 1000, share, error, metrics)


def make_report(*rows: FidelityRow) -> FidelityReport:
    return FidelityReport(rows, 1, 1, "d", "w")


def test_the_recommended_codec_is_the_smallest_that_costs_next_to_nothing():
    fp16, int8 = row("fp16", 1, 0, tau=0.9), row("int8", 0.5, 0.01, tau=0.89)
    int4 = row("int4", 0.3, 0.1, tau=0.9)
    assert make_report(fp16, int8, int4).default is int8
    worse = row("int8", 0.5, 0.01, tau=0.87)
    assert make_report(fp16, worse, int4).default is fp16


def test_the_compact_codec_fits_and_costs_least():
    fp16 = row("fp16", 1, 0, tau=0.9)
    large = row("int4", 0.3, 0.1, tau=0.9)
    one, two = row("one", 0.12, 0.2, tau=0.8), row("two", 0.13, 0.5, tau=0.85)
    assert make_report(fp16, large, one, two).compact is two
    risen, stayed = row("risen", 0.07, 0.7, tau=0.94), row("stayed", 0.12, 0.3, tau=0.88)
    assert make_report(fp16, risen, stayed).compact is stayed
    fallen = row("fallen", 0.12, 0.3, tau=0.87)
    assert make_report(fp16, risen, fallen).compact is risen
    assert make_report(fp16, large).compact is None
    bare = [row("fp16", 1, 0), row("one", 0.12, 0.2), row("two", 0.13, 0.5)]
    assert make_report(*bare).compact is bare[1]


@pytest.mark.parametrize("dim", [192, 384, 768, 1024])
def test_the_pca_codecs_that_are_compared_are_as_wide_as_the_bytes_allow(dim):
    narrow, wide = default_codecs(dim)[-2:]
    for name, size in ((narrow, lambda k: k + 4), (wide, lambda k: k / 2 + 4 * math.ceil(k / 64))):
        width = int(name.removeprefix("pca:").split("+")[0])
        assert size(width) <= 0.13 * 2 * dim < size(width + 8)


def test_a_damaged_clip_of_a_store_is_left_out_by_name(tmp_path, labelled):
    store = shutil.copytree(labelled, tmp_path / "s")
    spoil(store, "vb")
    found = measure_store(store, clips=9, codecs=CODECS, progress=False)
    assert (found.num_clips, found.num_left_out, found.exit_status) == (4, 1, 3)
    assert any(note.startswith("left out: vb: ") for note in found.notes)
    for clip_id in ("a", "b", "c", "va"):
        spoil(store, clip_id)
    with pytest.raises(Damaged, match="every clip is damaged"):
        measure_store(store, clips=9, codecs=CODECS, progress=False)


def test_the_other_clips_of_a_store_are_exported(tmp_path, labelled):
    store = shutil.copytree(labelled, tmp_path / "s")
    spoil(store, "b")
    for kind in ("hdf5", "npy"):
        report = export_store(store, tmp_path / kind, kind=kind)
        [failed] = report.failed
        assert (failed.clip_id, failed.stage) == ("b", "read")
        assert {path.name.partition(".")[0] for path in report.files} >= {
            open_store(store).record(clip_id).key for clip_id in ("a", "c", "va", "vb")
        }


def spoil(store, clip_id):
    """Change a byte in each shard of tokens of a clip."""
    folder = store / folder_of(open_store(store).record(clip_id).key)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 2000:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
