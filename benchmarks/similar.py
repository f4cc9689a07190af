"""Similarity of a patch with 200,000 frame-blocks of 64 tokens x 384 int8 in memory (4.9 GB).

    python benchmarks/similar.py [--quick]

`search`: PatchIndex with its chunks in memory, top 100 and the best of each clip, equal to float64
on decoded tokens; at most 1 s on 2 cores wanted.  `first answer`: what PatchIndex.refine gives
first, at most 0.3 s wanted.  `search without Numba`: casts of tiles in place of compiled loops.
Baseline: each chunk is decoded to float32 and multiplied by the query, by as many threads; ratios
are shares of its seconds.  `lengths`: once, when chunks are read.  The script fails where the best
100 are not those of float64 on decoded tokens.

`streamed`: GB of codes a second of a store that is read by each search, from the page cache; the
first search of it, which measures lengths too, and later ones; ratios are those to the search of
the same codes in memory.
"""

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from harness import Row, Timing, make_row, measure, quick_flag, write_rows
from store_fixture import BLOCKS, make_store

from tokenreel.cache.codec import Codec, Encoded, codec_from_identity, codec_identity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.search import loops
from tokenreel.cache.search.chunks import Chunk, Span, plan_chunks
from tokenreel.cache.search.query import Click, query_direction
from tokenreel.cache.search.scores import cosines
from tokenreel.cache.search.search import PatchIndex, num_processors

TOKENS, DIM, BLOCK = 64, 384, 11
CLIP_FRAMES = 100
BASELINE = "float32 of decoded chunks"
OWN = "search"


def main() -> None:
    """Measure and write the rows."""
    frames, repeats = (2_000, 2) if quick_flag() else (200_000, 5)
    lengths = [CLIP_FRAMES] * (frames // CLIP_FRAMES)
    plan = plan_chunks(lengths, TOKENS * DIM)
    rng = np.random.default_rng(0)
    calibration = {
        f"mean/{BLOCK}": rng.standard_normal(DIM).astype(np.float32),
        f"sd/{BLOCK}": rng.uniform(0.5, 2, DIM).astype(np.float32),
    }
    codec = codec_from_identity(codec_identity("int8", calibration), calibration)
    chunks = {id(spans): make_chunk(spans, rng) for spans in plan}
    names = [f"clip-{number:05}" for number in range(len(lengths))]
    index = PatchIndex(
        codec, BLOCK, names, plan, lambda spans: chunks[id(spans)], memory_bytes=2**40
    )
    lengths_timing = measure({"lengths": index.load}, repeats=1, warmups=0)["lengths"]
    encoded = next(iter(chunks.values())).encoded
    token = codec.decode(Encoded(encoded.codes[:1], encoded.scales[:1]), block=BLOCK)[0, 0]
    unit = token.astype(np.float64) / np.linalg.norm(token.astype(np.float64))

    def decoded() -> object:
        with ThreadPoolExecutor(num_processors()) as pool:
            return list(pool.map(partial(cosines_of, codec, unit), chunks.values()))

    def search(*, compiled: bool) -> object:
        kept, loops._compiled[:] = list(loops._compiled), machine_code if compiled else []
        try:
            return index.search(unit)
        finally:
            loops._compiled[:] = kept

    def first() -> object:
        return next(index.refine(unit))

    loops.compile_loops()
    machine_code = list(loops._compiled)
    subjects = {
        BASELINE: decoded,
        OWN: partial(search, compiled=True),
        "search without Numba": partial(search, compiled=False),
        "first answer": first,
    }
    timings = measure(subjects, repeats=repeats)
    shape = f"{frames}x{TOKENS}x{DIM}"
    rows = [
        make_row(
            "similar",
            name,
            timing,
            shape=shape,
            baseline=BASELINE,
            ratio=timing.median / timings[BASELINE].median,
        )
        for name, timing in {**timings, "lengths": lengths_timing}.items()
    ]
    require_exact(index, codec, unit, chunks)
    write_rows([*rows, *measure_streamed(repeats)])


def require_exact(
    index: PatchIndex, codec: Codec, unit: np.ndarray, chunks: Mapping[int, Chunk]
) -> None:
    """Compare the best 100 with float64 on decoded tokens of all frames."""

    def best_of(chunk: Chunk) -> list[tuple[float, int, int, int]]:
        found: list[tuple[float, int, int, int]] = []
        for start in range(0, len(chunk.frames), 8):
            part = slice(start, start + 8)
            encoded = Encoded(chunk.encoded.codes[part], chunk.encoded.scales[part])
            scores = cosines(codec.decode(encoded, block=BLOCK).astype(np.float64), unit)
            for place in np.argsort(-scores, axis=None, kind="stable")[:100].tolist():
                row, patch = divmod(place, TOKENS)
                clip, frame = int(chunk.clips[part][row]), int(chunk.frames[part][row])
                found.append((-float(scores[row, patch]), clip, frame, patch))
        return sorted(found)[:100]

    with ThreadPoolExecutor(num_processors()) as pool:
        every = sorted(row for rows in pool.map(best_of, chunks.values()) for row in rows)
    wanted = [
        (f"clip-{clip:05}", frame, patch, -score) for score, clip, frame, patch in every[:100]
    ]
    found = [(p.clip_id, p.frame, p.patch, p.score) for p in index.search(unit).patches]
    if found != wanted:
        raise RuntimeError("the best 100 are not those of float64 on decoded tokens")


def measure_streamed(repeats: int) -> list[Row]:
    """Rows of a store on disk, of which memory takes nothing but lengths."""
    clips, frames = (4, 64) if quick_flag() else (50, 128)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = open_store(make_store(Path(folder) / "s", grid=(8, 8), clips=clips, frames=frames))
        num_bytes = store.num_bytes // len(BLOCKS)
        unit = query_direction(store, [Click("c0", 0, 0)], block=BLOCK)
        of_lengths = 8 * 12 * clips * frames * 64  # an eighth of it takes them
        new = partial(PatchIndex.of_store, store, block=BLOCK)
        later, whole = new(memory_bytes=of_lengths), new(memory_bytes=2**40)
        whole.load()
        subjects = {
            "streamed, first search": lambda: new().search(unit),
            "streamed, later searches": lambda: later.search(unit),
            "in memory": lambda: whole.search(unit),
        }
        timings = measure(subjects, repeats=repeats)
    memory = timings.pop("in memory")
    return [
        make_row(
            "similar",
            name,
            Timing(tuple(num_bytes / 1e9 / seconds for seconds in timing.seconds)),
            shape=f"{clips * frames}x64x768",
            baseline="search of the same codes in memory",
            ratio=memory.median / timing.median,
            unit="GB/s",
        )
        for name, timing in timings.items()
    ]


def make_chunk(spans: list[Span], rng: np.random.Generator) -> Chunk:
    """Random codes with the scales of int8."""
    count = sum(span.stop - span.start for span in spans)
    codes = rng.integers(-127, 128, (count, TOKENS, DIM), np.int8)
    scales = rng.uniform(0.02, 0.04, (count, TOKENS)).astype(np.float32)
    return Chunk.of(Encoded(codes, scales), spans, {})


def cosines_of(codec, unit, chunk: Chunk) -> object:  # type: ignore[no-untyped-def]
    """Cosines of a chunk by floats, as many frames at a time as fit into a core's cache."""
    direction = unit.astype(np.float32)
    found = []
    for start in range(0, len(chunk.frames), 8):
        part = slice(start, start + 8)
        encoded = Encoded(chunk.encoded.codes[part], chunk.encoded.scales[part])
        tokens = codec.decode(encoded, block=BLOCK)
        found.append(tokens @ direction / np.linalg.norm(tokens, axis=-1))
    return np.partition(np.concatenate(found).reshape(-1), -100)[-100:]


if __name__ == "__main__":
    main()
