"""Videos on a bucket into a store on a bucket, and a run trained on it: the numbers of a disk."""

from pathlib import Path

import numpy as np
import pytest

import tokenreel
from tests.cache import stores
from tests.extract.extraction import CONFIG, write_video
from tests.fuse.tiny import TINY_SETTINGS
from tokenreel.cache.bucket.path import bucket_path, store_path
from tokenreel.cache.errors import MachineError
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.bucket_claims import claim_clip
from tokenreel.cache.write.claims import read_claim
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.video.source import SourceFiles
from tokenreel.pipeline.launch.attempts import Attempt, Attempts, release_claims

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


@pytest.mark.parametrize("parts", [1, 2])
def test_a_clip_of_another_writer_or_committed_meanwhile_is_left_before_its_video_is_read(
    memory, tmp_path, monkeypatch, parts
):
    """Of the clips the writer's own share is claimed in batches, the others one by one."""
    root, url, read = tmp_path / "videos", f"{memory}/store", []
    root.mkdir()
    write_video(root / "video.mp4", 3)
    data = (root / "video.mp4").read_bytes()
    for number, name in enumerate("abcd"):
        (root / f"{name}.mp4").write_bytes(data + bytes(9000 - 1000 * number))
    clips = tuple(Clip(name, f"{name}.mp4", split="train") for name in "abcd")
    manifest, config = Manifest("toy", root, clips), CONFIG.model_copy(update={"workers": 1})
    extract_clips(manifest, config, url, progress=False, part=clips[:1])
    other = claim_clip(store_path(url), clip_key("b"), owner="another")
    examine, seen = SourceFiles.examine_settled, StoreWriter._scan_bucket

    def note(self, video, *words, **options):
        read.append(video)
        return examine(self, video, *words, **options)

    monkeypatch.setattr(SourceFiles, "examine_settled", note)
    monkeypatch.setattr(StoreWriter, "_scan_bucket", lambda self: seen(self) - {clip_key("a")})
    report = extract_clips(manifest, config, url, progress=False, share=(parts - 1, parts))
    assert (sorted(report.committed), sorted(report.skipped)) == (["c", "d"], ["a", "b"])
    assert sorted(read) == ["c.mp4", "d.mp4"]
    other.release()
    assert list((store_path(url) / "claims").iterdir()) == []


def test_the_ledger_of_attempts_and_the_claims_of_a_dead_worker_are_on_the_bucket(upload, tmp_path):
    store = store_path(upload(stores.make_store(tmp_path / "store")))
    for key in ("a", "b", "a"):
        Attempts(store).note(key)
    assert Attempts(store).found == {"a": Attempt(2, 0), "b": Attempt(1, 0)}
    claim_clip(store, "c", owner="x")
    holder = read_claim(store / "claims/c.json")
    assert release_claims(store, holder.host, holder.pid, "another") == []
    assert release_claims(store, holder.host, holder.pid, holder.started) == ["c"]
    assert list((store / "claims").glob("*.json")) == []
    Attempts(store).forget({"a"})
    assert len(Attempts(store).found) == 2
    Attempts(store).forget({"a", "b"})
    assert Attempts(store).found == {}


@pytest.mark.slow
def test_credentials_that_expire_in_a_video_end_a_run_fail_no_clip_and_it_resumes(
    s3, upload, proxy, tmp_path, capfd
):
    videos, out, first = upload(VIDEOS, "videos"), tmp_path / "store", []

    def expire(number, method, path):
        if method == "GET" and path.endswith("/videos/c.mp4"):  # while a decode process reads it
            first.append(number)
        return "403" if first else ""

    proxy.fault = expire
    with pytest.raises(
        MachineError, match="credentials are refused, have expired, or lack"
    ) as caught:
        tokenreel.extract_videos(videos, out, settings=SETTINGS)
    assert caught.value.exit_status == 6
    assert not list(out.glob("failed/*"))
    proxy.fault = lambda *_: ""
    report = tokenreel.extract_videos(videos, out, settings=SETTINGS)
    assert [len(report.committed) + len(report.skipped), report.failed] == [5, []]
    printed = capfd.readouterr()
    written = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    for secret in ("AKIDOFTESTS", "secret-of-tests"):
        assert secret not in str(caught.value) + printed.out + printed.err
        assert secret.encode() not in written
    path = store_path(f"{videos}/a.mp4")
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # as large, and perhaps in the same second
    again = tokenreel.extract_videos(videos, out, settings=SETTINGS)
    assert list(again.changed) == ["a.mp4"]
    assert "(tag " in again.changed["a.mp4"]
