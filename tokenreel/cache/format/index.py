"""Which clips a store holds: its directories are the truth, the writers' logs an index of them."""

import os
from collections.abc import Iterator
from pathlib import Path

from tokenreel.cache.canonical import open_seal, parse_json
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import file_inside
from tokenreel.cache.format.clip import ClipRecord, folder_of, load_clip

__all__ = ["committed_keys", "load_records", "logged_lines", "logged_records"]


def committed_keys(path: Path) -> set[str]:
    """Keys of the committed clips: names of the directories below clips/<hh>/."""
    keys = set()
    clips = file_inside(path, "clips")
    for folder in _entries(clips) if clips.is_dir() else []:
        if folder.is_symlink():
            raise Damaged(f"{folder.path} is a symbolic link; refused")
        if folder.is_dir():
            for entry in _entries(folder.path):
                if entry.name.startswith(".tmp-"):
                    continue
                if (
                    entry.is_symlink()
                    or folder_of(entry.name) != f"clips/{folder.name}/{entry.name}"
                ):
                    raise Damaged(f"{entry.path}: not a clip of this store; refused")
                keys.add(entry.name)
    return keys


def logged_records(path: Path) -> tuple[dict[str, ClipRecord], list[str]]:
    """Records of the logs by key, and what is wrong in them.  A torn last line is not."""
    records, problems = {}, []
    for _, lines, wrong in logged_lines(path):
        problems += wrong
        records.update({record.key: record for record in lines.values()})
    return records, problems


def logged_lines(path: Path) -> Iterator[tuple[Path, dict[bytes, ClipRecord], list[str]]]:
    """Each writer's log: its good lines with their records, and what is wrong with the others."""
    for file in sorted(file_inside(path, "manifest").glob("*.jsonl")):
        good, problems = {}, []
        lines = file_inside(path, f"manifest/{file.name}").read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                values = open_seal(parse_json(line, where=file), where=f"{file}:{number}")
                good[line] = ClipRecord.from_dict(values["record"])
            except (Damaged, KeyError, TypeError, ValueError) as error:
                problems.append(f"{file}:{number}: {error}")
        yield file, good, problems


def load_records(path: Path) -> dict[str, ClipRecord]:
    """The committed clips, by clip_id, sorted.  What no log tells is read from the clips.

    Raises:
        Damaged: a clip whose group cannot be read, or a path that leaves the store.
    """
    logged, _ = logged_records(path)
    found = {}
    for key in committed_keys(path):
        record = logged.get(key) or load_clip(file_inside(path, folder_of(key)), key)[0]
        found[record.clip_id] = record
    return dict(sorted(found.items()))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)
