"""SIGKILL at a random moment of every kind of writer: afterwards all of it is there, or none."""

import importlib.util
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.format.source_notes import NOTES
from tokenreel.cache.tools.copying import (
    merge_store,
    migrate_store,
    recode_store,
    upgrade_store,
)
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.import_features import ImportStatement, import_features
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

NAMES = [f"c{i}" for i in range(4)]
GOLDEN = Path(__file__).parents[2] / "golden" / "store_v1"


def create(source: Path, out: Path) -> None:
    stores.make_store(out)


def write(source: Path, out: Path) -> None:
    stores.make_store(out, views=2)
    with StoreWriter(out, writer_id="k") as writer:
        for name in NAMES:
            if not writer.is_committed(name):
                stores.write_clip(writer, name, 130, batch=5)


def merge(source: Path, out: Path) -> None:
    stores.make_store(out, "fp16")
    merge_store(source / "store", out)


def recode(source: Path, out: Path) -> None:
    recode_store(source / "store", out, codec="pool2+int8")


def import_(source: Path, out: Path) -> None:
    stated = {
        "dataset": "d",
        "architecture": "x",
        "weights_sha256": "0" * 64,
        "blocks": [0],
        "grid": [1, 1],
        "dim": 16,
        "image_size": [8, 8],
        "transform": {},
        "fps": 5,
        "codec": "int8",
    }
    import_features(source / "features", out, ImportStatement.model_validate(stated))


def migrate(source: Path, out: Path) -> None:
    if not out.exists():
        shutil.copytree(GOLDEN, out.with_name("copy"), dirs_exist_ok=True)
        out.with_name("copy").rename(out)
    migrate_store(out)


def write_bytes(source: Path, out: Path) -> None:
    stores.make_store(out)
    with StoreWriter(out, writer_id="k") as writer:
        for name in NAMES:
            if writer.is_committed(name):
                continue
            clip = stores.begin(writer, name, byte_arrays=("text",))
            for start in range(clip.resume_frames, 130, 5):
                units = range(start, min(start + 5, 130))
                clip.append_bytes("text", [f"{name}, {unit}".encode() for unit in units])
            stores.append(writer, clip, name, 130)
            count = np.arange(130)
            clip.commit(count, count, count % 2, np.zeros(130, np.uint8))


def upgrade(source: Path, out: Path) -> None:
    upgrade_store(GOLDEN, out)


def export(source: Path, out: Path) -> None:
    export_store(source / "store", out)


def embed(source: Path, out: Path) -> None:
    rng = np.random.default_rng(0)
    clip = EmbeddedClip(
        "a",
        "train",
        "",
        "",
        rng.standard_normal((20_000, 32)).astype("f4"),
        np.zeros(20_000, np.int16),
        np.arange(20_000.0),
    )
    write_embeddings(out / "e.h5", [clip], provenance={})


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "create": create,
    "write": write,
    "write bytes": write_bytes,
    "upgrade": upgrade,
    "merge": merge,
    "recode": recode,
    "import": import_,
    "migrate": migrate,
    "export": export,
    "embed": embed,
}


def contents(out: Path) -> dict[str, bytes]:
    """Every file that holds data.

    Logs of writers only say when, notes only save work, and names of claims say nothing.
    """
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    kept = [name for name in names if name.parts[0] not in ("manifest", "claims", NOTES)]
    return {str(name): (out / name).read_bytes() for name in kept if name.suffix != ".h5"}


def require_whole(kind: str, out: Path) -> None:
    """What is there after a kill, temporary files apart, is whole."""
    if not out.exists():
        return
    if (out / "recipe.json").is_file():
        assert verify_store(out, deep=True).problems == ()
    for file in out.glob("*.h5"):
        if kind == "embed":
            assert len(read_embeddings(file).clips) == 1
        else:
            with h5py.File(file) as handle:
                assert handle["tokens/3"].shape == (70, 16, 16)


def kill_loop(kind: str, folder: Path, kills: int, seed: int) -> None:
    """Kill the writer again and again; then it finishes and equals one that was never killed."""
    source, out, whole = folder / "source", folder / "out", folder / "whole"
    stores.make_store(source / "store", "fp16")
    with StoreWriter(source / "store", writer_id="w") as writer:
        for name in NAMES:
            stores.write_clip(writer, name, 70)
    (source / "features").mkdir()
    rng = np.random.default_rng(seed)
    for name in NAMES:
        values = rng.standard_normal((130, 16)).astype(np.float32)
        np.save(source / "features" / f"{name}.npy", values)
    began = time.monotonic()
    WRITERS[kind](source, whole)
    seconds = time.monotonic() - began
    context = multiprocessing.get_context("fork")
    for number in range(kills):
        if number % 5 == 4:  # begin anew, so that kills meet every stage
            shutil.rmtree(out, ignore_errors=True)
        child = context.Process(target=WRITERS[kind], args=(source, out))
        child.start()
        time.sleep(float(rng.uniform(0, 1.2 * seconds + 0.01)))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        require_whole(kind, out)
    WRITERS[kind](source, out)
    require_whole(kind, out)
    for left in out.rglob(".tmp-*"):
        left.unlink()
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("kind", WRITERS)
def test_after_a_kill_all_of_it_is_there_or_none(tmp_path, kind):
    kill_loop(kind, tmp_path, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_after_200_kills_over_every_kind_of_writer(tmp_path, kind):
    kill_loop(kind, tmp_path, 60 if kind == "write" else 20, 1)
