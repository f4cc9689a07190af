"""Extraction ahead of a slow embedder: it pauses, resumes, and ends where the embedder does."""

import threading
import time
from pathlib import Path

import pytest

from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.manifest import Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow import runner
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import Stopping
from tokenreel.pipeline.apply import tokens

NAMES = [f"{number}.mp4" for number in range(12)]


class Extractor:
    """In the place of extract_clips: commits clips of some bytes, and sees how far it is ahead."""

    def __init__(self, num_bytes):
        self.num_bytes, self.taken, self.most = num_bytes, [], 0
        self.is_paused = threading.Event()

    def __call__(self, manifest, config, store, *, stopping, tick, **options):
        self.options = options
        report = ExtractReport(skipped=["old.mp4"])
        for name in ["old.mp4", *NAMES]:
            folder = store / folder_of(clip_key(name)) / "tokens"
            folder.mkdir(parents=True)
            (folder / "codes").write_bytes(bytes(self.num_bytes))
            if name in NAMES:
                report.committed.append(name)
            self.most = max(self.most, 1 + len(report.committed) - len(self.taken))
            tick(report)
            if stopping.event.is_set():
                break
        report.signal = stopping.signal
        return report


@pytest.fixture
def extract(tmp_path, monkeypatch):
    """Start an extraction of clips of so many bytes."""

    def start(num_bytes=1):
        extractor, stopping = Extractor(num_bytes), Stopping()
        monkeypatch.setattr(runner, "extract_clips", extractor)
        manifest = Manifest("new", tmp_path, (), {})
        config = ExtractConfig(backbone="vit_tiny_patch16_224", weights="random:0")
        made = tokens.Extraction(manifest, config, tmp_path, stopping=stopping, progress=False)
        return extractor, stopping, made

    return start


@pytest.mark.parametrize(
    ("videos", "most_bytes", "num_bytes", "most"),
    [(3, 10**9, 1, 3), (100, 500, 100, 5), (100, 499, 100, 5), (100, 1, 100, 1)],
)
def test_no_more_wait_than_the_bounds_allow(
    extract, monkeypatch, videos, most_bytes, num_bytes, most
):
    monkeypatch.setattr(tokens, "AHEAD_VIDEOS", videos)
    monkeypatch.setattr(tokens, "AHEAD_BYTES", most_bytes)
    extractor, _, extraction = extract(num_bytes)
    with extraction:
        for name in extraction:
            until = time.monotonic() + 60
            while extractor.most < most and time.monotonic() < until:  # it runs ahead as it may
                time.sleep(0.001)
            extractor.taken.append(name)
    assert extractor.taken == ["old.mp4", *NAMES]  # what an earlier call left comes first
    assert extractor.most == most
    # a video that failed before is tried again, one of a store of former rules is taken by ours
    assert extractor.options == {"progress": False, "retries": True, "changed": "replace"}


@pytest.mark.parametrize("end", ["dies", "leaves", "signal"])
def test_a_paused_extraction_ends_with_what_takes_its_videos(extract, monkeypatch, end):
    monkeypatch.setattr(tokens, "AHEAD_VIDEOS", 2)
    extractor, stopping, extraction = extract()

    def take_one():
        with extraction:
            for _ in extraction:
                while extractor.most < 2:
                    time.sleep(0.001)
                if end == "dies":
                    raise MemoryError
                if end == "leaves":
                    break
                stopping.stop(2)

    begun = time.monotonic()
    wanted = {"dies": MemoryError, "signal": KeyboardInterrupt}.get(end)
    if wanted is None:
        take_one()
    else:
        with pytest.raises(wanted):
            take_one()
    assert time.monotonic() - begun < 60  # it looks five times a second
    assert extractor.most < len(NAMES)  # it was stopped before its end


def test_the_page_has_the_bounds():
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    bounds = f"while {tokens.AHEAD_VIDEOS} videos, or {tokens.AHEAD_BYTES // 10**9} GB of tokens"
    assert bounds in page
    assert f"several stores {tokens.AHEAD_VIDEOS} videos are taken at a time" in page
