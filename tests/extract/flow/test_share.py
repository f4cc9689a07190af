"""Writers that share the clips of a store: each takes its own first, and then helps."""

import pytest

from tests.extract.extraction import CONFIG, write_video
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.claims import take_claim
from tokenreel.extract.flow.clip_queue import MOST_MISSES, HelpOrder, batches_of
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


def helped(order, free):
    """The clips that a helper takes, and how many it looks at in vain."""
    found, misses = [], 0
    for number in order:
        if number in free:
            found.append(number)
            order.took()
        else:
            misses += 1
            order.missed()
    return found, misses


def test_a_helper_takes_what_is_free_from_a_place_of_its_own_on():
    found, misses = helped(HelpOrder(12, (1, 4)), set(range(12)))
    assert (found, misses) == ([*range(3, 12), 0, 1, 2], 0)


def test_helpers_do_not_walk_over_clips_that_others_have_taken():
    order = HelpOrder(1000, (0, 2))
    found, misses = helped(order, set())
    assert (found, misses) == ([], MOST_MISSES)
    assert len(order.left) == 1000 - MOST_MISSES
    order = HelpOrder(1000, (0, 2))
    found, misses = helped(order, {*range(500, 1000)})
    assert found, "half of them are free: found from the second place that is drawn"
    assert misses < 500


def test_batches_of_claims_shrink_towards_the_end():
    sizes = [len(batch) for batch in batches_of(range(40))]
    assert sizes == [8, 8, 6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert [*batches_of([])] == []


def test_few_clips_are_all_looked_at():
    order = HelpOrder(5, (0, 2))
    assert helped(order, {4}) == ([4], 4)
    assert order.left == []


def test_clips_that_a_helper_does_not_reach_count_as_the_others(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("tokenreel.extract.flow.clip_queue.MOST_MISSES", 0)
    monkeypatch.setattr("tokenreel.extract.flow.clip_queue.MOST_LOOKS", 0)
    store = tmp_path / "store"
    extract(manifest, store, part=())
    take_claim(store / "claims", clip_key("c"), owner="another", expiry_seconds=300)
    report = extract(manifest, store, share=(1, 2))
    assert (report.committed, sorted(report.skipped)) == (["b", "d"], ["a", "c"])
    assert report.num_missing == 0
