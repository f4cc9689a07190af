"""`ssv2`: Something-Something V2, 174 actions with any objects.

    ROOT/**/[something-something-v2-]labels.json        {"Holding something": "0", ...}
    ROOT/**/[something-something-v2-]train.json         [{"id": "78687", "template": "Holding
                                                        [something]", ...}, ...]
    ROOT/**/[something-something-v2-]validation.json    the same
    ROOT/**/[something-something-v2-]test.json          [{"id": "1420"}, ...] (may be absent)
    ROOT/**/test-answers.csv                            `1420;Holding something` (may be absent)
    ROOT/**/<id>.webm                                   the videos, anywhere below, any suffix

The action of a clip is its template without brackets, as labels.json has it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenreel.cache.canonical import read_json
from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest, path_below
from tokenreel.cache.plugins import nearest
from tokenreel.pipeline.datasets.survey import (
    FoundFiles,
    Survey,
    find_files,
    missing_by_class,
    refuse_unknown,
    require_same_classes,
    wrong_root,
)

PREFIX = "something-something-v2-"
FILES = {"train": "train.json", "val": "validation.json", "test": "test.json"}
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "Something-Something V2: for non-commercial research, see its licence"
PUBLISHED = {"train": 168_913, "val": 24_777, "test": 27_157}


def ssv2(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of Something-Something V2 that are there; it takes no options.

    Raises:
        UsageError: a root without lists, a wrong entry, named by file and id, or a template that is
            not in labels.json.
    """
    refuse_unknown("ssv2", options, [])
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    files = find_files(root)
    lists = {split: _find(files, name) for split, name in FILES.items()}
    if not (lists["train"] or lists["val"]):
        raise wrong_root(root, LAYOUT, f"no {PREFIX}train.json and no {PREFIX}validation.json")
    labels = _read_labels(root, _find(files, "labels.json"))
    answers = _read_answers(root, _find(files, "test-answers.csv"))
    videos = files.by_stem()
    where: dict[str, str] = {}
    clips, missing, every = [], [], []
    listed = {split: 0 for split, name in lists.items() if name}
    for split in listed:
        for video_id, action in _read(root, lists[split], labels, answers):
            if video_id in where:
                raise UsageError(f"{lists[split]}: id {video_id} is in {where[video_id]} too")
            where[video_id] = lists[split]
            every.append((split, action))
            listed[split] += 1
            if video_id not in videos:
                missing.append((split, action))
                continue
            clips.append(Clip(video_id, videos[video_id], split=split, action=action))
    require_same_classes("ssv2", every)
    clips.sort(key=lambda clip: clip.clip_id)
    phases: dict[str, tuple[str, ...]] = dict.fromkeys(labels, ())
    notes = tuple(missing_by_class(missing, listed))
    manifest = Manifest("ssv2", root, tuple(clips), phases, LICENCE, notes, files.unreadable)
    published = {split: count for split, count in PUBLISHED.items() if split in listed}
    return Survey(manifest, listed, published)


def _find(files: FoundFiles, name: str) -> str:
    ends = (f"/{PREFIX}{name}", f"/{name}")
    return next((found for found in files.names if f"/{found}".endswith(ends)), "")


def _load(root: Path, name: str) -> Any:
    try:
        return read_json(path_below(root, name).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


def _read_labels(root: Path, name: str) -> set[str]:
    """The actions; empty where there is no list of them."""
    found = _load(root, name) if name else {}
    if not isinstance(found, dict):
        raise UsageError(f"{name}: not an object of actions and numbers")
    return set(found)


def _read_answers(root: Path, name: str) -> dict[str, str]:
    """Id -> action of the clips of the test split; {} where they are not published."""
    answers = {}
    for number, line in enumerate(read_lines(path_below(root, name)) if name else (), start=1):
        video_id, semicolon, action = line.strip().partition(";")
        if line.strip() and not (semicolon and video_id.isdecimal()):
            raise UsageError(f"{name}:{number}: {line[:80]!r} is not `id;action`")
        answers[video_id] = action.strip()
    return answers


def _read(
    root: Path, name: str, labels: set[str], answers: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Id and action of each entry of a list; "" where none is known."""
    entries = _load(root, name)
    if not isinstance(entries, list):
        raise UsageError(f"{name}: not a list of entries")
    for place, entry in enumerate(entries):
        video_id = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(video_id, int) and not isinstance(video_id, bool):
            video_id = str(video_id)
        if not isinstance(video_id, str) or not video_id:
            raise UsageError(f"{name}: entry {place} has no id: {entry!r:.80}")
        template = entry.get("template", answers.get(video_id, ""))
        if not isinstance(template, str):
            raise UsageError(f"{name}: id {video_id}: its template is {template!r:.60}")
        action = template.replace("[", "").replace("]", "").strip()
        if action and labels and action not in labels:
            raise UsageError(
                f"{name}: id {video_id}: no action {action!r} in labels.json"
                f"{nearest(action, labels)}"
            )
        yield video_id, action
