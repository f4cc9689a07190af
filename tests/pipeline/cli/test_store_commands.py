"""`tokenreel store ...` as a user types it, on a small extracted store."""

import importlib.util
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tokenreel.cache.errors import TokenReelError, UsageError, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.pipeline.cli.main import app
from tokenreel.pipeline.phases.extraction import extract_dataset, repair_store

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[2] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

GOLDEN = Path(__file__).parents[2] / "golden" / "store_v1"
WORDS = ["backbone=vit_tiny_patch16_224", "weights=random:3", "image_size=32", "blocks=3,11"]


def call(*words: object) -> tuple[int, str]:
    """Exit status and output; an error of ours as run_app tells it."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, TokenReelError):
        return result.exception.exit_status, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, frames in (("a.mp4", 30), ("b.mp4", 70)):
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(frames):
                pixels = np.full((48, 64, 3), (number * 5) % 256, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    store = tmp_path_factory.mktemp("stores") / "s"
    extract_dataset("folder", [*WORDS, "views=1", "view_seed=5"], root=root, out=store)
    return store, root


@pytest.fixture
def store(extracted, tmp_path):
    return shutil.copytree(extracted[0], tmp_path / "s")


@pytest.fixture
def root(extracted):
    return extracted[1]


def damage(store: Path, clip_id: str) -> Path:
    shard = store / folder_of(clip_key(clip_id)) / "views/0/tokens/11/c/0/0/0"
    torn = bytearray(shard.read_bytes())
    torn[100] ^= 4
    shard.write_bytes(torn)
    return shard


def test_a_store_is_told_listed_and_found_clean(store):
    status, text = call("store", "info", store)
    assert (status, "num_clips       2" in text) == (0, True)
    assert open_store(store).fingerprint in text
    assert "weights random:3" in text
    assert "b.mp4\ttrain\t\t70" in call("store", "ls", store)[1]
    assert call("store", "verify", "--deep", store) == (0, "2 clips, 0 problem(s)\n")


def test_a_clip_is_one_line_whatever_its_name_holds(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with stores.StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a\n\u2028b\tc\x9b", frames=3)
    assert call("store", "ls", path) == (0, "a\\n\\u2028b\\tc\\x9b\ttrain\t\t3\n")


def test_repair_makes_the_damaged_clip_again_and_leaves_the_other_alone(extracted, store, root):
    damage(store, "a.mp4")
    kept = store / folder_of(clip_key("b.mp4")) / "zarr.json"
    before = kept.stat().st_mtime_ns
    assert call("store", "verify", store)[0] == 0
    status, text = call("store", "verify", "--deep", store)
    assert (status, "a.mp4: " in text, "frame 0 is damaged" in text) == (5, True, True)
    status, text = call("store", "verify", "--deep", "--repair", store, "--root", root)
    assert (status, "after the repair: 2 clips, 0 problem(s)" in text) == (0, True), text
    assert kept.stat().st_mtime_ns == before
    assert call("store", "diff", extracted[0], store) == (0, "no difference\n")


def test_a_clip_that_is_gone_is_made_again(extracted, store, root):
    shutil.rmtree(store / folder_of(clip_key("b.mp4")))
    assert call("store", "verify", "--repair", store, "--root", root)[0] == 0
    assert call("store", "diff", extracted[0], store) == (0, "no difference\n")


def test_nothing_is_removed_when_it_could_not_be_made_again(store, tmp_path):
    shard = damage(store, "a.mp4")
    report = verify_store(store, deep=True)
    (tmp_path / "v").mkdir()
    with pytest.raises(UsageError):
        repair_store(store, report, root=tmp_path / "v")
    stores_video = tmp_path / "v" / "other.mp4"
    stores_video.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"no clip 'a\.mp4'.*--root"):
        repair_store(store, report, root=tmp_path / "v")
    with pytest.raises(WrongIdentity, match=r"weights_sha256"):
        repair_store(store, report, ["weights=random:4"], root=tmp_path / "v")
    assert shard.exists()


def _features(folder: Path) -> None:
    """Features of one clip, a.npy, and r.json, the statement of what made them."""
    np.save(folder / "a.npy", np.ones((3, 4), np.float32))
    stated = {
        "dataset": "mine",
        "architecture": "x",
        "weights_sha256": "0" * 64,
        "blocks": [0],
        "grid": [1, 1],
        "dim": 4,
        "image_size": [8, 8],
        "transform": {},
        "fps": 5,
    }
    (folder / "r.json").write_text(json.dumps(stated))


def test_an_imported_store_is_not_repaired_by_an_extraction(tmp_path):
    _features(tmp_path)
    made = call("store", "import", tmp_path, tmp_path / "s", "--statement", tmp_path / "r.json")
    assert made == (0, f"1 clips written to {tmp_path / 's'}\n")
    shutil.rmtree(tmp_path / "s" / folder_of(clip_key("a")))
    status, text = call("store", "verify", "--repair", tmp_path / "s")
    assert (status, "run `store import` again" in text) == (2, True)


def test_migrate_writes_a_store_of_format_1_in_format_2(store, tmp_path):
    first, new = str(GOLDEN), tmp_path / "new"
    assert call("store", "migrate", first, new, "--format", 2) == (
        0,
        f"1 clips written to {new}\n",
    )
    assert call("store", "migrate", first, new, "--format", 2)[1].startswith("0 clips")
    former = open_store(GOLDEN).fingerprint
    assert open_store(new).facts.former_fingerprints == (former,)
    for words, message in (
        ((new, tmp_path / "x", "--format", 2), "is of format 2 already"),
        ((first, tmp_path / "x", "--format", 3), "--format 3: a store can be written in 2"),
        ((first, tmp_path / "x", "--format", 2, "--codec", "int4"), "give --format or --codec"),
        ((first, "--format", 2), "a new store needs OUT"),
        ((first, tmp_path / "x"), "a new store needs OUT"),
    ):
        status, text = call("store", "migrate", *words)
        assert (status, message in text) == (2, True), text
    status, text = call("store", "migrate", first, store, "--format", 2)
    assert (status, "was made with other settings" in text) == (4, True), text
    assert not (tmp_path / "x").exists()


def test_export_merge_and_migrate(store, tmp_path):
    assert call("store", "export", store, tmp_path / "x", "--clip", "a.mp4", "--block", 11) == (
        0,
        f"1 files in {tmp_path / 'x'}\n",
    )
    assert call("store", "export", store, tmp_path / "x", "--kind", "mat")[0] == 2
    assert call("store", "export", store, tmp_path / "x", "--clip", "c")[0] == 2
    small = tmp_path / "small"
    assert call("store", "migrate", store, small, "--codec", "pool2+int8")[0] == 0
    assert open_store(small).num_bytes < open_store(store).num_bytes
    assert call("store", "migrate", store, "--codec", "int4")[0] == 2
    assert call("store", "migrate", small) == (0, f"{small}: already current (format 2)\n")
    assert call("store", "merge", store, small)[0] == 4
    other = shutil.copytree(store, tmp_path / "t")
    shutil.rmtree(other / folder_of(clip_key("a.mp4")))
    assert call("store", "merge", store, other) == (0, f"1 clips copied to {other}\n")
    assert call("store", "verify", "--deep", other)[0] == 0


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        (["export", "--layer", "11"], "--layer is now called --block"),
        (["import", "--recipe", "r.json"], "--recipe is now called --statement"),
    ],
    ids=["layer", "recipe"],
)
def test_an_option_is_read_under_its_former_name_with_a_warning(
    store, tmp_path, words, warning, caplog
):
    _features(tmp_path)
    command, option, value = words
    given = (store, tmp_path / "x") if command == "export" else (tmp_path, tmp_path / "mine")
    value = tmp_path / value if command == "import" else value
    assert call("store", command, *given, option, value)[0] == 0
    assert [record.message for record in caplog.records if "now called" in record.message] == [
        warning
    ]


def test_gc_lists_and_deletes_only_when_told(store):
    left = next((store / "clips").iterdir()) / ".tmp-x"
    left.mkdir()
    (left / "file").write_bytes(bytes(2_000_000))
    assert call("store", "gc", store) == (0, "nothing to delete\n")
    status, text = call("store", "gc", store, "--older-than", 0)
    assert (status, "2.0 MB" in text, "would be deleted by --yes" in text) == (0, True, True)
    assert left.exists()
    assert (
        "1 leftovers, 2.0 MB, deleted" in call("store", "gc", store, "--older-than", 0, "--yes")[1]
    )
    assert not left.exists()


def test_no_store_is_status_2(tmp_path):
    for command in ("info", "ls", "verify", "gc", "migrate"):
        status, text = call("store", command, tmp_path)
        assert (status, "no token store here" in text) == (2, True)
