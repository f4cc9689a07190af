"""`labels.json` of a store: labels that a data set has given to committed clips since.

Labels belong to the data set, not to tokens, so nothing of a clip is rewritten: one file, replaced
atomically, says split, action, group, tags, phases and frame labels of the clips that have others
now than when they were committed.  Where it has nothing on a clip, the clip's own count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.canonical import canonical_json, open_seal, parse_json, seal
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import again_if_stale, file_inside, sync_directory, write_whole
from tokenreel.cache.format.clip import ClipRecord, labels_hash

LABELS = "labels.json"
RENEWED = ("split", "action", "group", "tags", "phases")  # fields of a record


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A clip with the labels that the data set has now.

    Attributes:
        own: the record in the clip's directory.
        record: with the fields RENEWED as they are now.
        labels: int16 (T,), -1 unlabelled.
    """

    own: ClipRecord
    record: ClipRecord
    labels: Array


def relabel(own: ClipRecord, fields: Mapping[str, Any], labels: Array) -> Relabelled:
    """A clip with other labels.

    Args:
        own: the record in the clip's directory.
        fields: RENEWED -> value.
        labels: int16 (T,).
    """
    values = {name: fields[name] for name in RENEWED}
    values |= {name: tuple(values[name]) for name in ("tags", "phases")}
    digest = labels_hash(values["phases"], labels)
    return Relabelled(own, replace(own, **values, labels_sha256=digest), labels)


def load_relabelled(path: Path, records: Mapping[str, ClipRecord]) -> dict[str, Relabelled]:
    """The clips with other labels than their own, by clip_id.

    An entry is of one committed clip: where that was extracted again since, it is ignored.

    Args:
        path: the store.
        records: own records of its clips, by clip_id.

    Raises:
        Damaged: altered, torn, or not of this form.
    """
    file = file_inside(path, LABELS)
    try:
        data = again_if_stale(file.read_bytes)
    except FileNotFoundError:
        return {}
    try:
        entries = open_seal(parse_json(data, where=file), where=file)["clips"]
        found = {}
        for own in records.values():
            entry = entries.get(own.key)
            if entry is None or entry["of"] != record_sum(own):
                continue
            runs = [(int(phase), int(count)) for phase, count in entry["labels"]]
            labels = np.repeat(*np.array(runs, np.int64).reshape(-1, 2).T).astype(np.int16)
            if len(labels) != own.num_frames:
                raise ValueError(f"{len(labels)} labels for {own.num_frames} rows of {own.clip_id}")
            found[own.clip_id] = relabel(own, entry, labels)
        return found
    except (Damaged, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(
            f"{file}: damaged ({error}): type `store relabel` to renew the labels, or delete it to "
            "have those of the extraction"
        ) from error


def write_relabelled(path: Path, clips: Mapping[str, Relabelled]) -> None:
    """Give the clips of a store other labels, all of them at once; those not named have their own.

    Args:
        path: the store.
        clips: by clip_id.
    """
    if not clips:
        (path / LABELS).unlink(missing_ok=True)
        sync_directory(path)
        return
    entries = {
        clip.own.key: {
            "of": record_sum(clip.own),
            **{name: getattr(clip.record, name) for name in RENEWED},
            "labels": _runs(clip.labels),
        }
        for clip in clips.values()
    }
    write_whole(path / LABELS, canonical_json(seal({"clips": entries})))


def record_sum(record: ClipRecord) -> int:
    """crc32c of the canonical JSON of a record, all fields of format 2 in it."""
    return int(crc32c.crc32c(canonical_json(record.to_dict(format_version=2))))


def _runs(labels: Array) -> list[list[int]]:
    """Labels as [phase, how often] of each stretch of equal ones.

    >>> _runs(np.array([-1, -1, 0], np.int16))
    [[-1, 2], [0, 1]]
    """
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    counts = np.diff(np.append(starts, len(labels)))
    return [[int(labels[start]), int(count)] for start, count in zip(starts, counts, strict=True)]
