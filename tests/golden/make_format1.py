"""Makes tests/golden/format1: what commit 225475a wrote, which later versions must open.

`python tests/golden/make_format1.py DIRECTORY`, run once in a checkout of that commit.
"""

import functools
import os
import sys
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuse.kills import fork
from tokenreel.pipeline.cli.extract import app as extract
from tokenreel.pipeline.cli.fuse import app as fuse

LENGTHS = {"a": 14, "b": 17, "c": 12, "v": 15, "w": 13}  # frames of each video
EXTRACT = [
    "backbone=test_vit",
    "weights=random:0",
    "image_size=32",
    "blocks=1,5",
    "batch_frames=8",
    "device=cpu",
    "workers=1",
]
FUSE = [
    "data.num_frames=6",
    "data.batch_clips=1",
    "pooling.channels=8",
    "temporal.hidden=8",
    "temporal.heads=2",
    "temporal.fc_width=8",
    "temporal.feed_forward=8",
    "temporal.layers=1",
    "temporal.embedding=4",
    "optim.epochs=3",
    "optim.checkpoint_epochs=1",
    "optim.checkpoint_minutes=0",
    "optim.warmup_epochs=0",
]


def main(out: Path) -> None:
    out.mkdir()
    os.chdir(out)
    _write_videos(Path("videos"))
    stores = {
        "int8": ["codec=int8"],
        "int4": ["codec=int4", "--shard", "0/3"],
        "pca": ["codec=pca:8+int4", "--shard", "0/3"],
        "views": ["codec=int8", "views=1", "transform=mvformer-train", "--shard", "0/3"],
    }
    for name, words in stores.items():
        folders = ["--root", "videos", "--out", f"stores/{name}"]
        _run(extract, "run", "folder", *folders, *EXTRACT, *words)
    train = functools.partial(_run, fuse, "train", "folder", "--store", "stores/int8")
    runs = {
        "finished": [],
        "mean": ["pooling.kind=mean", "pooling.num_entities=3"],
        "frozen": ["model=frozen", "pooling.kind=max"],
    }
    for name, words in runs.items():
        train("--out", f"runs/{name}", *FUSE, *words)
    killed = functools.partial(train, "--out", "runs/killed", *FUSE)
    assert os.WIFSIGNALED(fork(killed, folder="runs/killed", moment=MOMENT))
    Path("runs/killed/lock.json").unlink()  # of a process of that machine


def _run(app, *words: str) -> None:
    app(list(words), standalone_mode=False)


def _write_videos(folder: Path) -> None:
    folder.mkdir()
    labels, clips = ["video,start_seconds,stop_seconds,phase"], ["video,split,action,group"]
    for number, (name, frames) in enumerate(LENGTHS.items()):
        _write_video(folder / f"{name}.mp4", frames, seed=number)
        clips.append(f"{name}.mp4,{'val' if name in 'vw' else 'train'},act,{name}")
        middle, end = (count / 25 for count in (frames // 2, frames))
        labels += [f"{name}.mp4,0,{middle},begin", f"{name}.mp4,{middle},{end},end"]
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "phases.csv").write_text("action,phase\nact,begin\nact,end\n")
    (folder / "clips.csv").write_text("\n".join(clips) + "\n")


def _write_video(path: Path, num_frames: int, *, seed: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((32, 48, 3), (number * 11 + 40 * seed) % 256, np.uint8)
            pixels[8:24, (number * 3) % 40 : (number * 3) % 40 + 8] = (200, 30 * seed, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


MOMENT = 26  # a change of a file after the second step of the second epoch

if __name__ == "__main__":
    main(Path(sys.argv[1]))
