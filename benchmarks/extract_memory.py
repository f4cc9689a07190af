"""Memory of an extraction does not grow with the length of a clip.

    python benchmarks/extract_memory.py [--quick]

Peak memory of the process and of its decode process, for a clip of 5,000 frames over one of 200,
each measured in a process of its own.  The claim is at most 1.2.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from extract_fixture import render
from harness import Timing, make_row, quick_flag, write_rows

BODY = """
import json, sys
from pathlib import Path
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import extract_clips
config = ExtractConfig(backbone="vit_tiny_patch16_224", weights="random:0", image_size=64,
                       blocks=(3, 7, 11), device="cpu", batch_frames=16)
root = Path(sys.argv[1])
manifest = Manifest("bench", root, (Clip("c", sys.argv[2]),))
report = extract_clips(manifest, config, Path(sys.argv[3]), progress=False)
print(json.dumps([report.peak_bytes, report.num_frames]))
"""


def peak_bytes(root: Path, video: str, store: Path, num_frames: int) -> float:
    """Peak memory of an extraction in a process of its own."""
    command = [sys.executable, "-c", BODY, str(root), video, str(store)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, count = json.loads(run.stdout.splitlines()[-1])
    assert count == num_frames
    return float(peak)


def main() -> None:
    """Interleaved repeats; one row."""
    quick = quick_flag()
    short, long, repeats = (40, 200, 1) if quick else (200, 5000, 2)
    peaks: dict[int, list[float]] = {short: [], long: []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for frames in peaks:
            render(root / f"{frames}.mp4", num_frames=frames, width=320, height=240)
        for number in range(repeats):
            for frames, found in peaks.items():
                store = root / f"s{frames}-{number}"
                found.append(peak_bytes(root, f"{frames}.mp4", store, frames) / 1e6)
    one, other = Timing(tuple(peaks[short])), Timing(tuple(peaks[long]))
    row = make_row(
        "extract_memory",
        f"peak memory of a clip of {long} frames over one of {short}",
        other,
        shape="320x240, ViT-tiny at 64, int8 x 3 blocks, both processes",
        unit="MB",
        baseline=f"{short} frames, {one.median:.0f} MB",
        ratio=other.median / one.median,
    )
    write_rows([row])


if __name__ == "__main__":
    main()
