"""Imports of features, each rule alone: names, times, units, samples, and what a rerun tells."""

from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cache.tools.test_import_features import features, statement
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools import import_features as module
from tokenreel.cache.tools.import_features import FeatureFile, find_features, import_features
from tokenreel.cache.write.claims import EXPIRY_SECONDS, take_claim
from tokenreel.cache.write.store_writer import StoreWriter


def hdf5(folder: Path, name: str = "a.h5", *, frames: int = 4, block: int = 0, **given) -> Path:
    """A file of features: arrays of `given`, and attributes where they are texts."""
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        file[f"tokens/{block}"] = np.ones((frames, 12), np.float32)
        for key, value in given.items():
            if isinstance(value, str):
                file.attrs[key] = value
            elif key.startswith("bytes"):
                array = file.create_dataset(f"bytes/{key[5:]}", (len(value),), VLEN)
                for unit, string in enumerate(value):
                    array[unit] = np.frombuffer(string, np.uint8)
            else:
                file[key] = value
    return folder / name


VLEN = h5py.vlen_dtype(np.uint8)


def test_an_unknown_policy_is_refused_before_anything(tmp_path):
    with pytest.raises(UsageError, match="--changed 'later': refuse, replace, keep"):
        import_features(tmp_path / "none", tmp_path / "s", statement(), changed="later")


def test_blocks_are_stated_in_any_order_and_the_store_says_what_made_them(tmp_path):
    folder = features(tmp_path / "f", **{"a.0": (3, 12), "a.4": (3, 12)})
    import_features(folder, tmp_path / "s", statement(blocks=[4, 0], weights="w"))
    store = open_store(tmp_path / "s")
    assert store.identity.blocks == (0, 4)
    made = {"made_by": "import", "dataset": "mine", "weights": "w"}
    assert {name: store.made_with[name] for name in made} == made
    for stated in (0, 4):  # one of two, which is not a clip `a.4`, or `a.0`
        with pytest.raises(UsageError, match=rf"a: has blocks .*, stated are \[{stated}\]"):
            import_features(folder, tmp_path / "t", statement(blocks=[stated]))
    features(tmp_path / "three", **{f"a.{block}": (3, 12) for block in (0, 4, 7)})
    with pytest.raises(UsageError, match=r"a: has blocks \[0, 4, 7\], stated are \[0, 4\]"):
        import_features(tmp_path / "three", tmp_path / "t", statement(blocks=[4, 0]))
    for block in (0, 4):
        np.testing.assert_allclose(
            store.read("a").decode(block)[:, 0], np.load(folder / f"a.{block}.npy"), rtol=1e-3
        )


def test_a_second_import_takes_the_calibration_of_the_store(tmp_path):
    folder = features(tmp_path / "f", a=(9, 12))
    import_features(folder, tmp_path / "s", statement(codec="pca:4+int8"))
    np.save(folder / "b.npy", np.random.default_rng(9).standard_normal((9, 12)).astype(np.float32))
    report = import_features(folder, tmp_path / "s", statement(codec="pca:4+int8"))
    assert report.written == ["b"]


def test_a_rerun_counts_what_was_replaced_and_names_what_has_no_file_any_more(tmp_path):
    folder = features(tmp_path / "f", a=(3, 12), b=(3, 12), c=(3, 12))
    first = import_features(folder, tmp_path / "s", statement())
    assert (first.written, first.replaced, first.left) == (["a", "b", "c"], [], [])
    (folder / "c.npy").unlink()
    np.save(folder / "a.npy", np.ones((5, 12), np.float32))
    np.save(folder / "d.npy", np.ones((5, 12), np.float32))
    report = import_features(folder, tmp_path / "s", statement(), changed="replace")
    assert (report.written, report.replaced) == (["a", "d"], ["a"])
    assert (report.changed, report.left, report.exit_status) == ({}, ["c"], 0)


def test_a_clip_that_another_process_writes_is_passed_over(tmp_path, monkeypatch):
    folder = features(tmp_path / "f", a=(3, 12), b=(3, 12))
    begin = StoreWriter.begin

    def begin_late(writer, clip, **given):
        if clip.clip_id == "a":
            key = module.clip_key("a")
            take_claim(writer.path / "claims", key, owner="x", expiry_seconds=EXPIRY_SECONDS)
        return begin(writer, clip, **given)

    monkeypatch.setattr(StoreWriter, "begin", begin_late)
    assert import_features(folder, tmp_path / "s", statement()).written == ["b"]


def test_a_clip_that_another_import_committed_meanwhile_is_no_change(tmp_path, monkeypatch):
    folder = features(tmp_path / "f", a=(3, 12))
    opened = module.open_store

    def open_and_import(path):
        store = opened(path)
        monkeypatch.setattr(module, "open_store", opened)
        import_features(folder, tmp_path / "s", statement())
        return store

    monkeypatch.setattr(module, "open_store", open_and_import)
    report = import_features(folder, tmp_path / "s", statement())
    assert (report.written, report.changed) == ([], {})
    assert list(open_store(tmp_path / "s").records) == ["a"]


@pytest.mark.parametrize("name", ["times_seconds", "units"])
def test_a_rerun_by_another_rate_is_no_change_of_files_that_have_times(tmp_path, name):
    times = np.array([0, 0.5, 1, 1.5])
    given = times if name == "times_seconds" else np.stack([times, times + 0.5], axis=1)
    hdf5(tmp_path / "f", **{name: given})
    import_features(tmp_path / "f", tmp_path / "s", statement())
    assert import_features(tmp_path / "f", tmp_path / "s", statement(fps=30)).changed == {}
    np.testing.assert_allclose(open_store(tmp_path / "s").times_seconds("a"), times)


def test_times_are_whole_ticks_of_a_ninety_thousandth_and_rates_are_fractions(tmp_path):
    assert module.ticks_of(np.array([0.5 / 90_000 + 1e-9, 1.2 / 90_000, 1.0])).tolist() == [
        *(1, 1),
        90_000,
    ]
    assert module._step(30_000 / 1001) == Fraction(1001, 30_000)
    assert module._step(0.1) == 10


@pytest.mark.parametrize(
    ("stops", "wanted"),
    [
        ((1, 2, 3), (1, 2, 3)),
        ((1 + 1 / 90_000, 2, 3 - 1 / 90_000), (1, 2, 3)),  # as rounding leaves them
        ((1 + 2 / 90_000, 2, 3), (1 + 2 / 90_000, 2, 3)),
        ((0.5, 2, 3.05), (0.5, 2, 3.05)),
    ],
)
def test_stops_are_kept_but_for_those_that_rounding_moved(tmp_path, stops, wanted):
    units = np.stack([np.arange(3), np.array(stops)], axis=1).astype(np.float64)
    hdf5(tmp_path / "f", frames=3, units=units)
    import_features(tmp_path / "f", tmp_path / "s", statement(unit="scene"))
    np.testing.assert_allclose(open_store(tmp_path / "s").units("a")[:, 1], wanted, atol=1e-9)


def test_a_codec_is_calibrated_on_eight_frames_of_each_of_32_files(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    files = []
    for number, frames in enumerate([20, 3, *[1] * 63]):
        path = folder / f"{number:02}.npy"
        np.save(path, np.full((frames, 12), 100 * number) + np.arange(frames)[:, None])
        files.append(FeatureFile(None, {0: path}, frames, None))
    sample = module._sample(files[:2], statement())[0][:, 0, 0]
    assert sample.tolist() == [0, 3, 6, 9, 12, 15, 18, 100, 101, 102]
    sample = module._sample(files, statement())[0][:, 0, 0]
    assert sample.tolist()[7:] == [100 * number for number in range(3, 65, 3)]


def test_an_import_that_was_killed_goes_on_after_its_whole_segments(tmp_path, monkeypatch):
    strings = [bytes([unit]) * (unit % 5) for unit in range(70)]
    hdf5(tmp_path / "f", frames=70, bytestext=strings)
    real, segments = module._tokens, []

    def stop_in_the_second_segment(rows, stated):
        segments.append(len(rows))
        if len(segments) == 3:
            raise KeyboardInterrupt
        return real(rows, stated)

    suspend = module.StoreWriter.begin

    def begin(writer, clip, **given):
        found = suspend(writer, clip, **given)
        found.abort = found.suspend  # as a kill would leave it
        return found

    monkeypatch.setattr(module, "_tokens", stop_in_the_second_segment)
    monkeypatch.setattr(module.StoreWriter, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
        import_features(tmp_path / "f", tmp_path / "s", statement())
    monkeypatch.undo()
    monkeypatch.setattr(
        module, "_tokens", lambda rows, s: segments.append(len(rows)) or real(rows, s)
    )
    assert import_features(tmp_path / "f", tmp_path / "s", statement()).written == ["a"]
    assert segments == [8, 64, 6, 6]  # a sample, then segment after segment
    assert open_store(tmp_path / "s").read_bytes("a", "text") == strings


def found(folder: Path, blocks=(0,), num_tokens: int = 1) -> list[FeatureFile]:
    return find_features(folder, blocks=blocks, num_tokens=num_tokens, dim=12)


def test_names_of_files_give_clips_and_blocks(tmp_path):
    names = ("0", "1", "a", "b.0", "b.x", "c.9")
    folder = features(tmp_path / "f", **dict.fromkeys(names, (2, 12)))
    hdf5(folder, "d.hdf5"), hdf5(folder, "e.h5")
    wanted = ["0", "1", "a", "b", "b.x", "c.9"]
    assert sorted(file.clip.clip_id for file in found(folder)) == [*wanted, "d", "e"]
    assert sorted(file.name for file in found(folder)) == [*wanted, "d.hdf5", "e.h5"]


def test_the_table_comes_before_the_words_in_a_file_and_empty_cells_say_nothing(tmp_path):
    words = {"split": "val", "action": "turn", "video": "x.mp4", "group": "g", "clip_id": "own"}
    hdf5(tmp_path / "f", **words)
    (tmp_path / "f" / "clips.csv").write_text("file,split,action,video\na.h5,test,,y.mp4\n")
    [file] = found(tmp_path / "f")
    clip = file.clip
    names = (clip.clip_id, clip.split, clip.action, clip.video, clip.group)
    assert names == ("own", "test", "turn", "y.mp4", "g")


def test_two_files_of_one_clip_are_refused(tmp_path):
    hdf5(tmp_path / "f", "x.h5", clip_id="same"), hdf5(tmp_path / "f", "y.h5", clip_id="same")
    with pytest.raises(UsageError, match="two files are of the clip 'same'"):
        found(tmp_path / "f")


def test_lines_without_a_clip_id_are_of_no_common_clip(tmp_path):
    folder = features(tmp_path / "f", a=(2, 12), b=(2, 12))
    (folder / "clips.csv").write_text("file,clip_id,split\na,,val\nb,,val\n")
    assert [file.clip.clip_id for file in found(folder)] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "vall"}, "a.h5: split is 'vall', not one of train, val, test"),
        ({"phases": '["a", 1]'}, r"phases or tags: .*wanted JSON texts such as"),
        ({"tags": '{"a": 1}'}, r"phases or tags: .*wanted JSON texts such as"),
        ({"phases": "run"}, "phases or tags: not JSON"),
        ({"units": np.array([[0, np.inf]] * 4)}, r"units is \(4, 2\) for 4 units"),
        ({"units": np.array([[0, np.nan]] * 4)}, r"units is \(4, 2\) for 4 units"),
        ({"bytestext": [b"x"] * 3}, r"bytes/text is object\(3,\) for 4 units"),
        ({"bytesText": [b"x"] * 4}, r"bytes/Text is object\(4,\) for 4 units"),
        ({"bytes/a": np.zeros(4, np.uint8)}, r"bytes/a is uint8\(4,\) for 4 units"),
        ({"times_seconds": np.array([0, 1, 1, 2.0])}, "of frames 1 and 2 are 1 and 1"),
        ({"block": 3}, r"no array tokens/0; it holds \['tokens'\]"),
    ],
)
def test_a_file_with_a_wrong_word_or_array_is_refused_by_name(tmp_path, given, message):
    arrays = {key: value for key, value in given.items() if key != "bytes/a"}
    path = hdf5(tmp_path / "f", **arrays)
    if "bytes/a" in given:
        with h5py.File(path, "a") as file:
            file["bytes/a"] = given["bytes/a"]
    with pytest.raises(UsageError, match=message) as told:
        found(tmp_path / "f")
    assert str(told.value).count("a.h5") == 1


def test_bytes_of_other_integers_are_refused(tmp_path):
    path = hdf5(tmp_path / "f")
    with h5py.File(path, "a") as file:
        file.create_dataset("bytes/text", (4,), h5py.vlen_dtype(np.int16))
    with pytest.raises(UsageError, match="wanted variable-length uint8"):
        found(tmp_path / "f")


def test_bytes_that_lie_in_another_file_are_refused(tmp_path):
    path, other = hdf5(tmp_path / "f"), hdf5(tmp_path / "other", bytestext=[b"x"] * 4)
    with h5py.File(path, "a") as file:
        file["bytes/text"] = h5py.ExternalLink(str(other), "bytes/text")
    with pytest.raises(UsageError, match="bytes/text lie in another file"):
        found(tmp_path / "f")


def test_rows_without_an_axis_of_tokens_are_of_one_token_alone(tmp_path):
    folder = features(tmp_path / "f", a=(2, 12))
    assert found(folder)[0].num_frames == 2
    with pytest.raises(UsageError, match=r"block 0 is \(2, 12\), stated are \(frames, 4 tokens"):
        found(folder, num_tokens=4)


def test_a_file_that_another_program_writes_to_is_said_to_be_busy(tmp_path, monkeypatch):
    hdf5(tmp_path / "f")

    def busy(path):
        raise BlockingIOError(11, "open in another process")

    monkeypatch.setattr(module, "open_hdf5", busy)
    with pytest.raises(UsageError, match=r"a\.h5: open in another process"):
        found(tmp_path / "f")


@pytest.mark.parametrize("name", ["notes.CSV", "b.xlsx", "b.tsv", "sub/clips.csv"])
def test_tables_that_are_not_read_are_told_whatever_their_suffix(tmp_path, caplog, name):
    folder = features(tmp_path / "f", a=(2, 12))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    assert len(found(folder)) == 1
    assert f"1 table(s) are not read, such as {name}: they are called clips.csv" in caplog.text
