"""Videos on a bucket into a store on a bucket, and a run trained on it: the numbers of a disk."""

from pathlib import Path

import numpy as np
import pytest

import tokenreel
from tests.fuse.tiny import TINY_SETTINGS
from tokenreel.cache.bucket.path import bucket_path, store_path

VIDEOS = Path(__file__).parents[1] / "golden" / "format1" / "videos"
SETTINGS = {
    "backbone": "test_vit",
    "weights": "random:0",
    "image_size": 32,
    "blocks": (1,),
    "device": "cpu",
    "workers": 1,
}


@pytest.mark.slow
def test_an_extraction_and_a_run_on_a_bucket_are_those_on_a_disk(s3, upload, tmp_path):
    videos, url = upload(VIDEOS, "videos"), f"{s3}/store"
    for source, out in ((VIDEOS, tmp_path / "store"), (videos, url)):
        report = tokenreel.extract_videos(source, out, settings=SETTINGS)
        assert [len(report.committed), report.failed] == [5, []]
    again = tokenreel.extract_videos(videos, url, settings=SETTINGS)
    assert [len(again.committed), len(again.skipped), again.changed] == [0, 5, {}]
    here, there = tokenreel.open_store(tmp_path / "store"), tokenreel.open_store(url)
    assert here.fingerprint == there.fingerprint
    for clip_id, record in here.records.items():
        assert np.array_equal(here.read(clip_id).codes[1], there.read(clip_id).codes[1])
        assert np.array_equal(here.units(clip_id), there.units(clip_id))
        assert there.record(clip_id).source["num_bytes"] == record.source["num_bytes"]
    left = [path.parts[3] for path, _ in bucket_path(store_path(url)).objects()]
    assert not {"claims", "failed", "workers"} & set(left)
    found = []
    for store, name in ((tmp_path / "store", "one"), (url, "two")):
        result = tokenreel.train_model(
            store, tmp_path / name, settings=TINY_SETTINGS, device="cpu", progress=False
        )
        assert result.error is None
        found.append(tokenreel.read_embeddings(result.embeddings))
    for one, two in zip(found[0].clips, found[1].clips, strict=True):
        assert np.array_equal(one.embeddings, two.embeddings)
