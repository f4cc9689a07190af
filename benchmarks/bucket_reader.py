"""Reads of a store on a bucket: 5 ms until an answer begins, 100 MB/s for all answers together.

    python benchmarks/bucket_reader.py [--quick]

120 of 180 frames at random, of all blocks of each clip, in one read after another, as a training
step reads them; the server is a process of this machine (bucket_fixture.py).

- blocks of 64 x 384 against zarr-python, which reads the same frames chunk by chunk over the same
  client: at least 5 times its speed is wanted
- blocks of 784 x 768: useful bytes a second against the link: at least 0.6 of it is wanted
- a second epoch, from the local cache, against the same store on this disk: at least 0.9 of its
  speed is wanted
"""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bucket_fixture import serve
from harness import Timing, make_row, measure, quick_flag, write_rows
from store_fixture import BLOCKS, empty_store, make_codes, write_clip

from tokenreel.cache.bucket import local_cache, objects
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import Request, Store, open_store
from tokenreel.cache.write.store_writer import StoreWriter

LATENCY_SECONDS, BYTES_PER_SECOND = 0.005, 100e6
FRAMES, WINDOW, READ = 240, 180, 120
BUCKET = "s3://benchmark"
SMALL, LARGE = ((8, 8), 384), ((28, 28), 768)
SMALL_CLIPS = 2  # each takes zarr-python 5 s


def make_store(path: Path, grid: tuple[int, int], dim: int, clips: int) -> Path:
    """A store of random codes."""
    empty_store(path, grid=grid, dim=dim)
    codes = make_codes(grid, dim)
    with StoreWriter(path, writer_id="bench") as writer:
        for number in range(clips):
            write_clip(writer, f"c{number}", codes, FRAMES)
    return path


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """Serve a folder as a bucket, and let this process use it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    arguments = str(folder), LATENCY_SECONDS, BYTES_PER_SECOND, there
    process = context.Process(target=serve, args=arguments, daemon=True)
    process.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        local_cache.FOLDER: str(folder / "cache"),
    }
    try:
        yield
    finally:
        process.kill()
        process.join()


def draws(clips: int) -> dict[str, np.ndarray]:
    """The frames of each clip: 120 of a window of 180, sorted."""
    rng = np.random.default_rng(0)
    return {
        f"c{number}": np.sort(rng.permutation(WINDOW)[:READ] + rng.integers(FRAMES - WINDOW + 1))
        for number in range(clips)
    }


def read(store: Store, frames: dict[str, np.ndarray]) -> None:
    """Read them, clip after clip."""
    for name, rows in frames.items():
        store.read_many([Request(name, rows)])


def read_with_zarr(name: str, frames: dict[str, np.ndarray]) -> None:
    """Read them chunk by chunk with zarr-python, tokens alone."""
    import zarr
    from zarr.storage import ObjectStore

    _, client = objects._client_of("s3", "benchmark")
    held = ObjectStore(client, read_only=True)
    for clip, rows in frames.items():
        for block in BLOCKS:
            path = f"{name}/{folder_of(clip_key(clip))}/views/0/tokens/{block}"
            array = zarr.open_array(store=held, path=path, mode="r")
            for frame in rows.tolist():
                array[frame]


def uncached(name: str) -> Store:
    """The store on the bucket, opened anew, without a cache."""
    os.environ[local_cache.BYTES] = "0"
    return open_store(f"{BUCKET}/{name}")


def main() -> None:
    """Measure and write the rows."""
    is_quick = quick_flag()
    clips, repeats = (1, 1) if is_quick else (4, 5)
    large = ((14, 14), 768) if is_quick else LARGE
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place).absolute()
        make_store(folder / "small", *SMALL, min(clips, SMALL_CLIPS))
        make_store(folder / "large", *large, clips)
        frames = draws(clips)
        with served(folder):
            small = dict(list(frames.items())[:SMALL_CLIPS])
            shape = f"{clips} clips, {READ} of {WINDOW} frames, {len(BLOCKS)} blocks"
            found = measure(
                {
                    "ours": lambda: read(uncached("small"), small),
                    "zarr": lambda: read_with_zarr("small", small),
                },
                repeats=repeats,
                warmups=0,
            )
            for name, case in (("ours", "bucket reader"), ("zarr", "zarr-python, chunk by chunk")):
                ratio = found["zarr"].median / found[name].median
                rows.append(
                    make_row(
                        "bucket_reader",
                        f"{case}, blocks of 64 x 384",
                        found[name],
                        shape=shape.replace(f"{clips} clips", f"{len(small)} clips"),
                        baseline="zarr-python, chunk by chunk",
                        ratio=ratio,
                    )
                )
            tokens = large[0][0] * large[0][1]
            store = uncached("large")
            seconds = measure({"ours": lambda: read(store, frames)}, repeats=repeats, warmups=1)
            num_bytes = clips * READ * len(BLOCKS) * tokens * large[1]
            rates = Timing(tuple(num_bytes / s / 1e6 for s in seconds["ours"].seconds))
            rows.append(
                make_row(
                    "bucket_reader",
                    f"bucket reader, blocks of {tokens} x {large[1]}, useful bytes",
                    rates,
                    shape=shape,
                    baseline="link of 100 MB/s",
                    ratio=rates.median / (BYTES_PER_SECOND / 1e6),
                    unit="MB/s",
                )
            )
            os.environ[local_cache.BYTES] = "100G"
            far = open_store(f"{BUCKET}/large", placement="memory")
            near = open_store(folder / "large", placement="memory")
            epochs = measure(
                {
                    "from the cache": lambda: read(far, frames),
                    "from this disk": lambda: read(near, frames),
                },
                repeats=max(3, repeats),
                warmups=2,
            )
            for name, timing in epochs.items():
                rows.append(
                    make_row(
                        "bucket_reader",
                        f"second epoch, {name}, blocks of {tokens} x {large[1]}",
                        timing,
                        shape=shape,
                        baseline="from this disk",
                        ratio=epochs["from this disk"].median / timing.median,
                    )
                )
    write_rows(rows)


if __name__ == "__main__":
    main()
