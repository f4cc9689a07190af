"""Writers that share the clips of a store: each takes its own first, and then helps."""

import pytest

from tests.extract.extraction import CONFIG, write_video
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.claims import take_claim
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.signals import Stopping
from tokenreel.extract.video.source import SourceFiles

NAMES = ("a", "b", "c", "d")  # the largest first


@pytest.fixture
def manifest(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "video.mp4", 6)
    data = (root / "video.mp4").read_bytes()
    for number, name in enumerate(NAMES):
        (root / f"{name}.mp4").write_bytes(data + bytes(9000 - 1000 * number))
    clips = tuple(Clip(name, f"{name}.mp4", split="train") for name in NAMES)
    return Manifest("toy", root, clips)


def extract(manifest, store, **options):
    config = CONFIG.model_copy(update={"workers": 1})
    return extract_clips(manifest, config, store, progress=False, **options)


def test_a_writer_takes_its_share_first_and_then_those_of_the_others(manifest, tmp_path):
    report = extract(manifest, tmp_path / "store", share=(1, 2))
    assert report.committed[:2] == ["b", "d"]
    assert sorted(report.committed[2:]) == ["a", "c"]


def test_the_video_of_a_clip_that_another_writer_has_is_not_read(manifest, tmp_path, monkeypatch):
    store, read = tmp_path / "store", []
    extract(manifest, store, part=manifest.clips[:1])
    take_claim(store / "claims", clip_key("c"), owner="another", expiry_seconds=300)
    examine = SourceFiles.examine_settled

    def note(self, video, *words, **options):
        read.append(video)
        return examine(self, video, *words, **options)

    monkeypatch.setattr(SourceFiles, "examine_settled", note)
    report = extract(manifest, store, share=(1, 2))
    assert (report.committed, sorted(report.skipped)) == (["b", "d"], ["a", "c"])
    assert read == ["b.mp4", "d.mp4"]
    assert report.exit_status == 0


def test_a_run_is_stopped_by_its_caller_in_the_place_of_a_signal(manifest, tmp_path):
    stopping = Stopping()
    stopping.stop(10)
    report = extract(manifest, tmp_path / "store", stopping=stopping)
    assert (report.committed, report.exit_status, report.num_missing) == ([], 143, 4)
