"""Training on a store on a bucket: the bytes of the same commands on the store on a disk."""

import importlib.util
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from tests.bucket.counts import requests_of
from tests.fuse.distributed.test_nodes import on_two_nodes, reads_of
from tests.fuse.tiny import TINY_SETTINGS, write_store
from tokenreel.cache.bucket.local_cache import local_cache
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import StoreError
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.fuse.data.token_dataset import TokenDataset
from tokenreel.pipeline.cli import evaluate, fuse

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

WORDS = [f"{key}={value}" for key, value in TINY_SETTINGS.items()]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    path = stores.make_store(tmp_path_factory.mktemp("local") / "s")
    with StoreWriter(path, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 40)
    return path


def test_token_dataset_gives_the_batches_of_the_store_on_disk(local, upload):
    here, there = (
        TokenDataset(one, window=8, windows=2, cls=True) for one in (local, upload(local))
    )
    for epoch in range(2):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        ours, theirs = (one.collate([one[0], one[1]]) for one in (here, there))
        assert torch.equal(ours.tokens(), theirs.tokens())
        assert torch.equal(ours.cls(), theirs.cls())
        assert torch.equal(ours.labels, theirs.labels)


def batches(dataset, **how) -> list[torch.Tensor]:
    return [batch.tokens() for batch in DataLoader(dataset, collate_fn=dataset.collate, **how)]


@pytest.mark.slow
def test_spawned_workers_give_the_batches_of_this_process(local, upload):
    dataset = TokenDataset(upload(local), window=8)
    here = batches(dataset)
    for spawned in (0, 2):
        how = {"multiprocessing_context": "spawn", "num_workers": spawned} if spawned else {}
        assert all(map(torch.equal, batches(dataset, **how), here))


def test_a_forked_worker_is_refused_by_a_sentence_and_does_not_hang(local, upload):
    dataset = TokenDataset(upload(local), window=8)
    fork = multiprocessing.get_context("fork")
    with pytest.raises(StoreError, match=r"spawn workers .*multiprocessing_context='spawn'"):
        batches(dataset, multiprocessing_context=fork, num_workers=1)


def call(module, *words, status: int = 0) -> str:
    done = CliRunner().invoke(module.app, [str(word) for word in words])
    assert done.exit_code == status, (done.output, done.exception)
    return done.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def both(upload, folder: Path) -> dict[str, Path | str]:
    store = write_store(folder / "s", val=3, train=4)
    return {"disk": store, "bucket": upload(store, "s")}


def test_a_run_on_a_bucket_has_the_bytes_of_one_on_a_disk(upload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, path in both(upload, tmp_path).items():
        call(fuse, "train", "sample", "--store", path, "--out", name, "--device", "cpu", *WORDS)
        call(fuse, "embed", name, "--store", path, "--out", f"{name}.h5")
    for file in ("checkpoint.pt", "metrics.jsonl"):
        assert Path("disk", file).read_bytes() == Path("bucket", file).read_bytes()
    for file in ("{}.h5", "{}/embeddings.h5"):
        one, two = (read_embeddings(Path(file.format(name))) for name in ("disk", "bucket"))
        assert [clip.embeddings.tobytes() for clip in one.clips] == [
            clip.embeddings.tobytes() for clip in two.clips
        ]


@pytest.mark.slow
def test_what_follows_training_gives_the_bytes_of_the_store_on_disk(upload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = {}
    for name, path in both(upload, tmp_path).items():
        run = f"{name}/run"  # of one name, which the files of both hold
        call(fuse, "train", "sample", "--store", path, "--out", run, "--device", "cpu", *WORDS)
        call(fuse, "export", run, "--out", f"{name}-results/exported")
        call(evaluate, "all", run, "--out", f"{name}-results/scores")
        call(evaluate, "frozen", path, "--out", f"{name}-results/frozen")
        seen[name] = files_of(Path(f"{name}-results"))
    assert seen["disk"].keys() == seen["bucket"].keys()
    for file, data in seen["disk"].items():
        if file.endswith((".csv", ".tex")):
            assert seen["bucket"][file] == data, file


@pytest.mark.slow
def test_a_table_on_a_bucket_is_that_of_the_store_on_disk(upload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = write_store(tmp_path / "s", val=3, train=4)
    for name, path in (("disk", store), ("bucket", upload(store, "s"))):
        words = ["--out", tmp_path / name, "--device", "cpu", *WORDS]
        call(fuse, "ablate", "sample", "--store", path, *words)
    one, two = (tmp_path / name / "ablation.csv" for name in ("disk", "bucket"))
    assert one.read_bytes() == two.read_bytes()


def test_a_second_epoch_and_a_second_run_fetch_no_tokens(upload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = upload(write_store(tmp_path / "s", train=3), "s")
    words = ["--store", url, "--device", "cpu", "--placement", "disk", *WORDS[:-1]]
    words.append("optim.epochs=3")
    seen = requests_of(monkeypatch)
    call(fuse, "train", "sample", "--out", tmp_path / "one", *words)
    tokens = [key for key, _ in seen if "/tokens/" in key and "/c/" in key]
    assert len(tokens) == len(set(tokens)) > 3  # each shard by one request
    seen.clear()
    call(fuse, "train", "sample", "--out", tmp_path / "two", *words)
    assert [key for key, _ in seen if "/tokens/" in key and "/c/" in key] == []
    assert local_cache().num_refetched == 0


@pytest.mark.slow
def test_two_nodes_train_on_a_bucket_and_one_that_is_lost_changes_nothing(upload, tmp_path):
    from tests.fuse.distributed.test_distributed import WORDS as MORE

    store = write_store(tmp_path / "s", train=9, more_frames=1)
    words = [*MORE, "optim.checkpoint_minutes=0"]
    ends = on_two_nodes(
        {"store": str(store), "folder": str(tmp_path / "disk"), "words": words},
        *(
            {"store": upload(store), "folder": str(tmp_path / "bucket"), "words": words, **lost}
            for lost in ({"node 1": {"dies at": [1, 1]}}, {})
        ),
    )
    assert (ends[0], ends[1][:2], ends[2]) == ([0] * 4, [6, 6], [0] * 4)
    for name in ("checkpoint.pt", "metrics.jsonl"):
        here, there = (tmp_path / side / "run" / name for side in ("disk", "bucket"))
        assert here.read_bytes() == there.read_bytes(), name
    reads = [read for read in reads_of(tmp_path / "bucket") if read[0] == 2]
    assert len(reads) == len({clip for _, _, clip in reads}) == 7
