"""A data set: a function that lists the clips of a folder, with labels by time."""

from collections.abc import Mapping
from pathlib import Path

from tokenreel.cache.manifest import Clip, LabelSpan, Manifest


def example_videos(root: Path, options: Mapping[str, str]) -> Manifest:
    """Every .mp4 of a folder; phase 0 until 0.24 s, then phase 1 until 0.44 s."""
    videos = sorted(path.name for path in root.glob("*.mp4"))
    spans = (LabelSpan(0.0, 0.24, 0), LabelSpan(0.24, 0.44, 1))
    clips = tuple(
        Clip(name, name, split="val" if number % 2 else "train", action="act", spans=spans)
        for number, name in enumerate(videos)
    )
    return Manifest("example-videos", root, clips, phases={"act": ("begin", "end")})
