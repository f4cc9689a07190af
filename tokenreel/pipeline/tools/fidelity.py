"""`tokenreel fidelity`: what each codec costs on real clips, in bytes, errors and metrics."""

import dataclasses
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from tokenreel.cache.codec import Codec, calibrate, codec_from_identity, codec_identity
from tokenreel.cache.codec.base import Array
from tokenreel.cache.codec.int4 import GROUP
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import ClipRecord, Store, open_store
from tokenreel.cache.tools.codec_error import CodecError, bytes_per_frame, measure_codec
from tokenreel.pipeline.phases.extraction import read_words
from tokenreel.pipeline.tools.codec_metrics import TASKS, measure_metrics

__all__ = ["FidelityReport", "FidelityRow", "default_codecs", "fidelity_of", "measure_store"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CLIP_FRAMES = 8  # of a clip at most, for calibration and errors
SAMPLE_FRAMES = 128  # of all clips, for each of the two
NEGLIGIBLE = 0.02  # pooled error, and fall of a metric, of a codec that is as good as none
COMPACT = 0.13  # of fp16's bytes


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """One codec.

    Attributes:
        codec: its name.
        bytes_per_frame: of codes and scales of every block.
        share: of fp16's bytes.
        error: see CodecError.
        metrics: probe accuracy ("classification"), "tau" and "ap@5" of frozen frame embeddings made
            of the decoded tokens; only those that could be computed.
    """

    codec: str
    bytes_per_frame: float
    share: float
    error: CodecError
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class FidelityReport:
    """What the codecs cost.

    Attributes:
        rows: the codecs, fp16 first.
        num_clips, num_frames: of the metrics.
        source: what the tokens are of.
        weights: of the backbone.
        notes: what could not be measured, and why; one sentence each.
    """

    rows: tuple[FidelityRow, ...]
    num_clips: int
    num_frames: int
    source: str
    weights: str
    notes: tuple[str, ...] = ()

    def change(self, row: FidelityRow, task: str) -> float:
        """Change of a metric against fp16's, NaN where either is absent."""
        nan = float("nan")
        return row.metrics.get(task, nan) - self.rows[0].metrics.get(task, nan)

    @property
    def default(self) -> FidelityRow:
        """The smallest codec that costs next to nothing."""
        good = [
            row
            for row in self.rows
            if row.error.pooled <= NEGLIGIBLE
            and not any(self.change(row, task) < -NEGLIGIBLE for task in TASKS)
        ]
        return min(good or self.rows[:1], key=lambda row: row.bytes_per_frame)

    @property
    def compact(self) -> FidelityRow | None:
        """Of the codecs of at most 0.13 of fp16's bytes the one that costs least.

        By the largest fall of a metric where there are any, by the pooled error otherwise.
        """
        small = [row for row in self.rows if row.share <= COMPACT]

        def cost(row: FidelityRow) -> tuple[float, float]:
            falls = [-self.change(row, task) for task in TASKS]
            known = [round(fall, 3) for fall in falls if not math.isnan(fall)]
            return max(known, default=0.0), row.error.pooled

        return min(small, key=cost, default=None)


def fidelity_of(
    name: str,
    words: Sequence[str] = (),
    *,
    root: Path | None = None,
    clips: int = 54,
    codecs: Sequence[str] = (),
    progress: bool = True,
) -> FidelityReport:
    """Measure the codecs on a store, or on some clips of a data set.

    Args:
        name: path of a store, or name of a data set.
        words: as for `extract run`, for a data set.
        root: folder of the videos, for a data set.
        clips: at most so many, spread over each split.
        codecs: names; default_codecs when empty.
        progress: show bars.

    Raises:
        UsageError: neither a store nor a data set; a store whose codec has lost tokens.
    """
    for codec in codecs:
        codec_identity(codec)
    if (Path(name) / "recipe.json").is_file():
        if words or root:
            raise UsageError(f"{name} is a store: words and --root are for a data set")
        return measure_store(Path(name), clips=clips, codecs=codecs, progress=progress)
    manifest, config = read_words(name, words, root=root)
    from tokenreel.extract.flow.runner import extract_clips  # torch: every word is right

    chosen = spread(manifest.clips, clips, key=lambda clip: clip.split)
    part = dataclasses.replace(manifest, clips=tuple(chosen))
    config = config.model_copy(update={"codec": "fp16"})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / name
        failed = extract_clips(part, config, store, progress=progress).failed
        report = measure_store(store, clips=clips, codecs=codecs, progress=progress)
    left_out = [f"left out: {clip}" for clip in failed]
    return dataclasses.replace(report, notes=(*report.notes, *left_out))


def measure_store(
    path: Path, *, clips: int, codecs: Sequence[str] = (), progress: bool = True
) -> FidelityReport:
    """As fidelity_of, of a store; its own codec's tokens are taken for the truth."""
    store = open_store(path)
    if store.codec.name not in ("fp16", "int8"):
        raise UsageError(
            f"{path} holds {store.codec.name}, which has lost too much to judge other codecs by: "
            "name a store of fp16 or int8, or a data set"
        )
    records = spread(list(store.records.values()), clips, key=lambda record: record.split)
    if not records:
        raise UsageError(f"{path} holds no clips")
    fitted = sample_of(store, records[::2])
    tested = sample_of(store, records[1::2] or records)
    names = dict.fromkeys(["fp16", *(codecs or default_codecs(store.identity.dim))])
    made = {name: make_codec(name, fitted, store) for name in names}
    metrics, notes = measure_metrics(store, records, made, fitted, progress=progress)
    if len(records) == 1:
        notes.append("one clip only: the codecs are calibrated on the frames they are measured on")
    sizes = {name: size_of(codec, store) for name, codec in made.items()}
    rows = [
        FidelityRow(
            name,
            sizes[name],
            sizes[name] / sizes["fp16"],
            measure_codec(codec, tested, grid=store.identity.grid),
            metrics.get(name, {}),
        )
        for name, codec in made.items()
    ]
    frames = sum(record.num_frames for record in records)
    source = f"{store.made_with.get('dataset', path.name)}, {store.identity.architecture}"
    weights = str(store.made_with.get("weights", "unknown"))
    return FidelityReport(
        tuple(rows), len(records), frames, f"{source} ({store.codec.name})", weights, tuple(notes)
    )


def default_codecs(dim: int) -> tuple[str, ...]:
    """The codecs to compare for tokens of `dim` channels; pca as wide as 0.13 of fp16 allows.

    >>> default_codecs(768)
    ('fp16', 'int8', 'int4', 'pool2+int8', 'pool2+int4', 'pca:192+int8', 'pca:344+int4')
    """
    most = COMPACT * 2 * dim  # bytes of a token, its float32 scales with it
    narrow = [width for width in range(8, dim, 8) if width + 4 <= most]
    wide = [width for width in range(8, dim, 8) if width / 2 + 4 * -(-width // GROUP) <= most]
    return (
        "fp16",
        "int8",
        "int4",
        "pool2+int8",
        "pool2+int4",
        *(f"pca:{width}+int8" for width in narrow[-1:]),
        *(f"pca:{width}+int4" for width in wide[-1:]),
    )


def spread(items: Sequence[T], count: int, *, key: Callable[[T], str]) -> list[T]:
    """At most about `count` items, of each key in proportion, evenly spread, in their order.

    >>> spread(["a1", "a2", "a3", "a4", "b1", "b2"], 3, key=lambda item: item[0])
    ['a1', 'a4', 'b1']
    """
    share = min(1.0, count / max(1, len(items)))
    chosen = []
    for name in sorted({key(item) for item in items}):
        own = [item for item in items if key(item) == name]
        kept = max(1, round(share * len(own)))
        chosen += [own[i] for i in np.linspace(0, len(own) - 1, kept).astype(int)]
    return chosen


def sample_of(store: Store, records: Sequence[ClipRecord]) -> dict[int, Array]:
    """A few frames of each clip: block -> float32 (F, N, D)."""
    parts: dict[int, list[Array]] = {block: [] for block in store.identity.blocks}
    for record in records[:: -(-len(records) // SAMPLE_FRAMES)]:
        count = min(CLIP_FRAMES, record.num_frames, max(1, SAMPLE_FRAMES // len(records)))
        rows = np.linspace(0, record.num_frames - 1, count).astype(int)
        tokens = store.read(record.clip_id, rows)
        for block in parts:
            parts[block].append(tokens.decode(block))
    return {block: np.concatenate(some) for block, some in parts.items()}


def make_codec(name: str, fitted: Mapping[int, Array], store: Store) -> Codec:
    """A codec calibrated on sample tokens."""
    calibration = calibrate(name, fitted, grid=store.identity.grid)
    return codec_from_identity(codec_identity(name, calibration), calibration)


def size_of(codec: Codec, store: Store) -> float:
    """Bytes of a frame, all blocks."""
    recipe = store.identity
    tokens = np.zeros((1, recipe.num_tokens, recipe.dim), np.float32)
    block = recipe.blocks[0]
    encoded = codec.encode(tokens, block=block, grid=recipe.grid)
    return bytes_per_frame(encoded) * len(recipe.blocks)
