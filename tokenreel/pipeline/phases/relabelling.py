"""`store relabel` as a call: the labels of a data set, or of a file -> a store, without a video."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.canonical import read_json
from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.plugins import nearest
from tokenreel.extract.flow.relabel import LabelTable, RelabelReport, relabel_store
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.defaults import videos_of_store
from tokenreel.pipeline.phases.extraction import data_options

Phase = Annotated[int, Field(ge=-1, lt=2**15)]


class ClipLabels(BaseModel):
    """Labels of one clip in a file; what is left out stays as the store has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_id: str
    split: Literal["train", "val", "test"] | None = None
    action: str | None = None
    group: str | None = None
    tags: tuple[str, ...] | None = None
    spans: tuple[tuple[float, float, Phase | str], ...] | None = Field(
        default=None, description="[start_seconds, stop_seconds, phase], in the time of the video"
    )
    frame_labels: tuple[Phase, ...] | None = Field(
        default=None, description="a phase for each frame, -1 where there is none"
    )


class LabelsFile(BaseModel):
    """Labels of clips of a store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phases: dict[str, tuple[str, ...]] = Field(default={}, description="action -> names")
    clips: tuple[ClipLabels, ...] = ()


def renew_labels(
    store: Path,
    words: Sequence[str] = (),
    *,
    root: Path | None = None,
    manifest: Path | None = None,
) -> RelabelReport:
    """Give the clips of a store the labels that their data set, or a file, has now.

    Args:
        store: the store.
        words: `data.key=value` of the data set.
        root: folder of the data set; where the videos were, or data/<dataset>, when None.
        manifest: a JSON file of the fields of LabelsFile in the place of the data set.

    Raises:
        UsageError: words or a file that mean nothing, or labels that do not fit a clip: nothing is
            changed.
    """
    store = store_path(store)
    options, rest = data_options(words)
    if rest:
        raise UsageError(f"{rest[0]!r}: relabel takes data.key=value of the data set only")
    made_with = load_identity(store)[1]["made_with"]
    if manifest is not None:
        if root is not None or options:
            raise UsageError("give --root or --manifest: a file says all by itself")
        return relabel_store(store, read_labels(store, manifest))
    dataset = str(made_with.get("dataset", ""))
    if made_with.get("made_by", "extract") == "import":
        raise UsageError(f"{store} was imported: name a file of labels by --manifest")
    return relabel_store(store, load_dataset(dataset, videos_of_store(store, root), options))


def read_labels(store: Path, path: Path) -> Manifest:
    """The clips that a JSON file names, with its labels, else with those of the store.

    Raises:
        UsageError: wrong JSON, fields or phases, or a clip that the store does not have or that is
            named twice; the clip is named.
    """
    try:
        given = LabelsFile.model_validate(read_json("\n".join(read_lines(path))))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path}: {where}: {first['msg']}; see docs/store.md") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}; see docs/store.md") from error
    table = LabelTable(store_path(store))
    phases = {table.record(name).action: table.record(name).phases for name in table.own}
    phases |= given.phases
    clips: dict[str, Clip] = {}
    for item in given.clips:
        if item.clip_id not in table.own:
            raise UsageError(
                f"{path}: {store} has no clip {item.clip_id!r}{nearest(item.clip_id, table.own)}"
            )
        if item.clip_id in clips:
            raise UsageError(f"{path}: clip {item.clip_id!r} is listed twice")
        clips[item.clip_id] = _clip(item, table.clip(item.clip_id), phases, path)
    rest = (table.clip(name) for name in table.own if name not in clips and given.phases)
    every = sorted([*clips.values(), *rest], key=lambda clip: clip.clip_id)
    return Manifest("", path.parent, tuple(every), phases)


def _clip(item: ClipLabels, held: Clip, phases: dict[str, tuple[str, ...]], path: Path) -> Clip:
    """A clip of the store with what a file says of it."""
    if item.spans is not None and item.frame_labels is not None:
        raise UsageError(f"{path}: {item.clip_id}: give spans or frame_labels, not both")
    names = ("split", "action", "group", "tags")
    values = {name: getattr(held, name) for name in names}
    values |= {name: getattr(item, name) for name in names if getattr(item, name) is not None}
    spans: list[LabelSpan] = []
    for start, stop, phase in item.spans or ():
        known = phases.get(values["action"], ())
        if isinstance(phase, str) and phase not in known:
            some = ", ".join(known) or "none: name them under phases"
            raise UsageError(f"{path}: {item.clip_id}: unknown phase {phase!r} (known: {some})")
        number = known.index(phase) if isinstance(phase, str) else phase
        overlaps = bool(spans) and start < spans[-1].stop_seconds
        if not start < stop or overlaps or number < 0:
            raise UsageError(
                f"{path}: {item.clip_id}: span [{start}, {stop}, {phase!r}]: spans are in order, "
                "do not overlap, end after their start, and are of phases from 0"
            )
        where = f"{path.name}, {item.clip_id}"
        spans.append(LabelSpan(start, stop, number, where))
    frames = item.frame_labels if item.spans is None else None
    if item.spans is None and frames is None:
        frames = held.frame_labels
    return Clip(
        held.clip_id,
        held.video,
        start_seconds=held.start_seconds,
        stop_seconds=held.stop_seconds,
        spans=tuple(spans),
        frame_labels=frames,
        picture_fps=held.picture_fps,
        **values,
    )
