"""TokenDataset and training on a store on a bucket give what they give on a disk."""

import importlib.util
from pathlib import Path

import torch

from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.fuse.data.token_dataset import TokenDataset

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def test_token_dataset_gives_the_batches_of_the_store_on_disk(upload, tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 40)
    url = upload(path)
    here, there = (TokenDataset(one, window=8, windows=2, cls=True) for one in (path, url))
    for epoch in range(2):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        ours, theirs = (one.collate([one[0], one[1]]) for one in (here, there))
        assert torch.equal(ours.tokens(), theirs.tokens())
        assert torch.equal(ours.cls(), theirs.cls())
        assert torch.equal(ours.labels, theirs.labels)
