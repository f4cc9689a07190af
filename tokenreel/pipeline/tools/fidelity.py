"""`tokenreel fidelity`: what each codec costs on real clips, in bytes, errors and metrics.

The metrics are those of frozen frame embeddings made of each codec's tokens.
"""

import dataclasses
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.codec import (
    Codec,
    calibrate,
    codec_from_identity,
    codec_identity,
    require_fits,
)
from tokenreel.cache.codec.base import Array
from tokenreel.cache.codec.int4 import GROUP
from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.progress import Progress
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.tools.codec_error import (
    CodecError,
    bytes_per_frame,
    measure_codec,
    pool_tokens,
)
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.methods.nearest import nearest_in_other_clips
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.pipeline.phases.extraction import read_words
from tokenreel.pipeline.text import format_table

log = logging.getLogger(__name__)

T = TypeVar("T")

CLIP_FRAMES = 8  # of a clip at most, for calibration and errors
SAMPLE_FRAMES = 128  # of all clips, for each of the two
NEGLIGIBLE = 0.02  # pooled error, and fall of a metric, of a codec that is as good as none
COMPACT = 0.13  # of fp16's bytes
TASKS = {"classification": "probe", "tau": "tau", "ap@5": "ap@5"}  # task -> heading
STEP_FRAMES = 16  # frames of a clip in memory at once
NEIGHBOURS = 5  # nearest frames in other clips
WIDTH = 128  # of a block's pooled entities in a frame's embedding


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
        neighbours: share of the 5 nearest frames in other clips that the codec leaves among the 5
            nearest, by those embeddings, mean over frames; it needs no labels.  NaN where there is
            one clip.
    """

    codec: str
    bytes_per_frame: float
    share: float
    error: CodecError
    metrics: Mapping[str, float]
    neighbours: float = math.nan


@dataclass(frozen=True)
class FidelityReport:
    """What the codecs cost.

    Attributes:
        rows: the codecs, fp16 first.
        num_clips, num_frames: of the metrics.
        source: what the tokens are of.
        weights: of the backbone.
        notes: what could not be measured, and why; one sentence each.
        num_left_out: clips that could not be read or extracted; notes name them.
    """

    rows: tuple[FidelityRow, ...]
    num_clips: int
    num_frames: int
    source: str
    weights: str
    notes: tuple[str, ...] = ()
    num_left_out: int = 0

    @property
    def exit_status(self) -> int:
        """0, or 3 where clips were left out."""
        return 3 if self.num_left_out else 0

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

        By the largest fall of a metric where that is more than next to nothing, then by the pooled
        error: a metric that stays, or rises, does not tell codecs apart.
        """
        small = [row for row in self.rows if row.share <= COMPACT]

        def cost(row: FidelityRow) -> tuple[float, float]:
            falls = [-self.change(row, task) for task in TASKS]
            known = [round(fall, 3) for fall in falls if not math.isnan(fall)]
            return max([NEGLIGIBLE, *known]), row.error.pooled

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
        clips: most that are measured, spread over each split.
        codecs: names; default_codecs when empty.
        progress: show bars.

    Raises:
        UsageError: neither a store nor a data set; a store whose codec has lost tokens.
    """
    for codec in codecs:
        codec_identity(codec)
    if (store_path(name) / "recipe.json").is_file():
        if words or root:
            raise UsageError(f"{name} is a store: words and --root are for a data set")
        return measure_store(store_path(name), clips=clips, codecs=codecs, progress=progress)
    manifest, config = read_words(name, words, root=root)
    from tokenreel.extract.backbone.families import backbone_shape  # torch: every word is right
    from tokenreel.extract.flow.runner import extract_clips

    chosen = spread(manifest.clips, clips, key=lambda clip: clip.split)
    part = dataclasses.replace(manifest, clips=tuple(chosen))
    config = config.model_copy(update={"codec": "fp16"})
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    for codec in codecs:
        num_tokens = shape.grid[0] * shape.grid[1]
        require_fits(codec, num_tokens=num_tokens, dim=shape.dim, grid=shape.grid)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / name
        extracted = extract_clips(part, config, store, progress=progress)
        extracted.require_reached()
        report = measure_store(store, clips=clips, codecs=codecs, progress=progress)
    left_out = [f"left out: {clip}" for clip in extracted.failed]
    return dataclasses.replace(
        report,
        notes=(*report.notes, *left_out),
        num_left_out=report.num_left_out + len(left_out),
    )


def measure_store(
    path: Path, *, clips: int, codecs: Sequence[str] = (), progress: bool = True
) -> FidelityReport:
    """As fidelity_of, of a store; its own codec's tokens are taken for the truth."""
    store = open_store(path)
    store.require_tokens()
    if store.codec.name not in ("fp16", "int8"):
        raise UsageError(
            f"{path} holds {store.codec.name}, which has lost too much to judge other codecs by: "
            "name a store of fp16 or int8, or a data set"
        )
    shape = store.identity
    for codec in codecs:
        require_fits(codec, num_tokens=shape.num_tokens, dim=shape.dim, grid=shape.grid)
    records = spread(list(store.records.values()), clips, key=lambda record: record.split)
    if not records:
        raise UsageError(f"{path} holds no clips")
    records, left_out = _sound(store, records)
    if not records:
        raise Damaged(f"{path}: every clip is damaged; run verify, then repair")
    fitted = sample_of(store, records[::2])
    tested = sample_of(store, records[1::2] or records)
    names = dict.fromkeys(["fp16", *(codecs or default_codecs(store.identity.dim))])
    made = {}
    for name in names:
        calibration = calibrate(name, fitted, grid=store.identity.grid)
        made[name] = codec_from_identity(codec_identity(name, calibration), calibration)
    embedded = embed_clips(store, records, made, fitted, progress=progress)
    metrics, notes = measure_metrics(store, records, embedded)
    neighbours = kept_neighbours(embedded)
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
            neighbours[name],
        )
        for name, codec in made.items()
    ]
    frames = sum(record.num_frames for record in records)
    source = f"{store.made_with.get('dataset', path.name)}, {store.identity.architecture}"
    weights = str(store.made_with.get("weights", "unknown"))
    return FidelityReport(
        tuple(rows),
        len(records),
        frames,
        f"{source} ({store.codec.name})",
        weights,
        (*notes, *left_out),
        len(left_out),
    )


def _sound(store: Store, records: Sequence[ClipRecord]) -> tuple[list[ClipRecord], list[str]]:
    """The clips whose tokens can be read, and a sentence for each of the others."""
    sound: list[ClipRecord] = []
    left_out: list[str] = []
    for record in records:
        try:
            for start in range(0, record.num_frames, STEP_FRAMES):
                store.read(record.clip_id, slice(start, start + STEP_FRAMES))
        except Damaged as error:
            left_out.append(f"left out: {record.clip_id}: {error}")
        else:
            sound.append(record)
    return sound, left_out


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


def size_of(codec: Codec, store: Store) -> float:
    """Bytes of a frame, all blocks."""
    recipe = store.identity
    tokens = np.zeros((1, recipe.num_tokens, recipe.dim), np.float32)
    block = recipe.blocks[0]
    return bytes_per_frame(codec.encode(tokens, block=block, grid=recipe.grid)) * len(recipe.blocks)


def embed_clips(
    store: Store,
    records: Sequence[ClipRecord],
    codecs: Mapping[str, Codec],
    fitted: Mapping[int, Array],
    *,
    progress: bool,
) -> dict[str, list[EmbeddedClip]]:
    """The frame embeddings of each clip, made of each codec's tokens.

    Args:
        store: of the clips.
        records: the clips.
        codecs: name -> calibrated codec.
        fitted: block -> tokens that give the channels' means and deviations.
        progress: show a bar.

    Returns:
        codec -> a clip for each record.
    """
    clips: dict[str, list[EmbeddedClip]] = {name: [] for name in codecs}
    for record in Progress(records, desc="fidelity", unit="clip", enabled=progress):
        for name, embeddings in embed_clip(store, record, codecs, fitted).items():
            clips[name].append(
                EmbeddedClip(
                    record.clip_id,
                    record.split,
                    record.action,
                    record.group,
                    embeddings,
                    store.labels(record.clip_id),
                    store.times_seconds(record.clip_id),
                    record.phases,
                )
            )
    return clips


def kept_neighbours(embedded: Mapping[str, Sequence[EmbeddedClip]]) -> dict[str, float]:
    """How many of the nearest frames in other clips stay the nearest, by codec.

    Args:
        embedded: codec -> clips; the first codec's neighbours are the truth.

    Returns:
        codec -> mean over frames of the share, 0 to 1; NaN where there is one clip, or where tokens
        are not finite.
    """
    shares = dict.fromkeys(embedded, math.nan)
    found = {
        name: nearest_in_other_clips([clip.embeddings for clip in clips], NEIGHBOURS)
        for name, clips in embedded.items()
        if all(np.isfinite(clip.embeddings).all() for clip in clips)
    }
    first = next(iter(embedded))
    if first not in found:
        return shares
    true = found[first]
    count = (true >= 0).sum(axis=1)  # fewer where the other clips have fewer frames
    if not count.all():
        return shares
    for name, near in found.items():
        same = (true[:, :, None] == near[:, None, :]) & (true >= 0)[:, :, None]
        shares[name] = float((same.any(axis=2).sum(axis=1) / count).mean())
    return shares


def measure_metrics(
    store: Store, records: Sequence[ClipRecord], embedded: Mapping[str, Sequence[EmbeddedClip]]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Probe accuracy, tau and AP@5 of the clips that have labels.

    Args:
        store: of the clips.
        records: the clips.
        embedded: codec -> their embeddings, as of :func:`embed_clips`.

    Returns:
        codec -> task -> value, finite; and why what is not there is not.
    """
    labelled = {r.clip_id for r in records if (store.labels(r.clip_id) >= 0).any()}
    if not labelled:
        return {}, ["no phase labels: no probe accuracy, tau or AP@5"]
    clips = {
        name: [clip for clip in own if clip.clip_id in labelled] for name, own in embedded.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [
            write_embeddings(Path(folder) / f"{number}.h5", own, provenance={"run": name})
            for number, (name, own) in enumerate(clips.items())
        ]
        report = evaluate_files(
            files,
            config=EvaluateConfig(),
            out=Path(folder) / "tables",
            progress=False,
            clock=False,
        )
    found: dict[str, dict[str, float]] = {name: {} for name in embedded}
    for score in report.scores:
        wanted = score.action == "mean" and score.task in TASKS and score.fraction == 1.0
        if wanted and np.isfinite(score.value):
            found[score.run][score.task] = score.value
    notes = list(dict.fromkeys(report.problems))
    for task in TASKS:
        absent = [name for name in embedded if task not in found[name]]
        if absent:
            notes.append(f"{task} could not be computed for {', '.join(absent)}")
    if len(labelled) < len(records):
        notes.append(f"{len(records) - len(labelled)} clips without labels are in no metric")
    return found, notes


def embed_clip(
    store: Store, record: ClipRecord, codecs: Mapping[str, Codec], fitted: Mapping[int, Array]
) -> dict[str, NDArray[np.float32]]:
    """The frame embeddings of a clip by each codec, (T, C)."""
    channels = {
        block: (tokens.mean(axis=(0, 1)), tokens.std(axis=(0, 1)) + 1e-6)
        for block, tokens in fitted.items()
    }
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in codecs}
    for start in range(0, record.num_frames, STEP_FRAMES):
        read = store.read(record.clip_id, slice(start, start + STEP_FRAMES))
        tokens = {block: read.decode(block) for block in store.identity.blocks}
        for name, codec in codecs.items():
            decoded = {
                block: codec.decode(
                    codec.encode(values, block=block, grid=store.identity.grid), block=block
                )
                for block, values in tokens.items()
            }
            parts[name].append(embed_frames(decoded, channels))
    return {name: np.concatenate(some) for name, some in parts.items()}


def embed_frames(
    tokens: Mapping[int, Array], channels: Mapping[int, tuple[Array, Array]]
) -> NDArray[np.float32]:
    """Frozen embeddings of frames: each block's mean token, and its pooled entities projected.

    The mean alone would not see what a codec does to a single token.

    Args:
        tokens: block -> (t, n, D).
        channels: block -> mean and deviation, (D,).
    """
    parts = []
    for block, values in tokens.items():
        mean, deviation = channels[block]
        standard = (values - mean) / deviation
        pooled = pool_tokens(standard, seed=block).reshape(len(values), -1)
        random = np.random.default_rng(block).standard_normal((pooled.shape[1], WIDTH))
        parts += [standard.mean(axis=1), pooled @ random / np.sqrt(pooled.shape[1])]
    return np.concatenate(parts, axis=1).astype(np.float32)


def fidelity_table(report: FidelityReport) -> str:
    """The report for people: the table, what it is of, the recommendation."""
    tasks = [task for task in TASKS if any(task in row.metrics for row in report.rows)]
    header = [
        "codec",
        "bytes/frame",
        "of fp16",
        "rel error",
        "cos median",
        "cos worst 1%",
        "pooled error",
        "neighbours",
        *(word for task in tasks for word in (TASKS[task], "+/-")),
    ]
    rows = [
        [
            row.codec,
            round(row.bytes_per_frame),
            *(f"{value:.4f}" for value in (row.share, *dataclasses.astuple(row.error))),
            "absent" if math.isnan(row.neighbours) else f"{row.neighbours:.3f}",
            *_metrics(report, row, tasks),
        ]
        for row in report.rows
    ]
    lines = [format_table(header, rows), ""]
    lines.append(
        f"{report.num_clips} clips, {report.num_frames} frames of {report.source}; weights "
        f"{report.weights}"
    )
    lines += [f"note: {note}" for note in report.notes]
    if report.weights.startswith("random:"):
        lines.append("note: these weights are random: the numbers tell codecs apart, no more")
    lines.append(f"recommended: {report.default.codec}, {_cost(report, report.default, tasks)}")
    if compact := report.compact:
        lines.append(f"compact: {compact.codec}, {_cost(report, compact, tasks)}")
    else:
        lines.append(f"compact: none of these has at most {COMPACT} of fp16's bytes")
    return "\n".join(lines)


def _cost(report: FidelityReport, row: FidelityRow, tasks: list[str]) -> str:
    changes = [
        f"{TASKS[task]} {report.change(row, task):+.3f}"
        for task in tasks
        if task in row.metrics and task in report.rows[0].metrics
    ]
    parts = [f"{row.share:.3f} of fp16's bytes", f"pooled error {row.error.pooled:.4f}", *changes]
    return ", ".join(parts)


def _metrics(report: FidelityReport, row: FidelityRow, tasks: list[str]) -> list[str]:
    cells = []
    for task in tasks:
        value, change = row.metrics.get(task), report.change(row, task)
        cells += [
            "absent" if value is None else f"{value:.3f}",
            "absent" if math.isnan(change) else f"{change:+.3f}",
        ]
    return cells
