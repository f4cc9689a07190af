"""Provenance of the numbers: runs, stores, weights, code, and the settings that differ."""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from tokenreel.evaluate.report.data.gather import RunPage
from tokenreel.evaluate.report.page.html import Html, join, scroll, tag

FIELDS = (
    "recipe",
    "seed",
    "model",
    "dataset",
    "backbone",
    "weights",
    "blocks",
    "augmentation",
    "store_name",
    "store_fingerprint",
    "commit",
)
LONGEST = 40


def provenance_section(runs: Sequence[RunPage]) -> Html:
    """A table of the runs, and of the settings in which they differ."""
    columns = [name for name in FIELDS if any(name in run.file.provenance for run in runs)]
    titles = ("run", *columns, "clips", "frames", "embeddings sha256")
    head = tag("tr", *(tag("th", name.replace("_", " "), scope="col") for name in titles))
    rows = [
        tag(
            "tr",
            tag("th", run.name, scope="row"),
            *(tag("td", _short(run.file.provenance.get(name, ""))) for name in columns),
            tag("td", len(run.file.clips), class_="num"),
            tag("td", sum(clip.num_frames for clip in run.file.clips), class_="num"),
            tag("td", tag("code", run.digest)),
        )
        for run in runs
    ]
    return join(
        scroll(tag("table", tag("thead", head), tag("tbody", *rows)), "Runs"),
        _differences(runs),
        tag("p", f"Made by TokenReel {metadata.version('tokenreel')}.", class_="made"),
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by their dotted names.

    >>> flatten({"a": {"b": 1}, "c": [3, 7]})
    {'a.b': '1', 'c': '[3, 7]'}
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value)
    return found


def _differences(runs: Sequence[RunPage]) -> Html | None:
    """The settings that are not the same in all runs; the seed is in the table above."""
    configs = [flatten(run.file.provenance.get("config", {})) for run in runs]
    names = sorted({name for config in configs for name in config} - {"seed"})
    differing = [name for name in names if len({config.get(name) for config in configs}) > 1]
    if not differing:
        return None
    head = tag(
        "tr", tag("th", "setting", scope="col"), *(tag("th", run.name, scope="col") for run in runs)
    )
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(tag("td", _short(config.get(name, ""))) for config in configs),
        )
        for name in differing
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag(
        "details",
        tag("summary", f"Settings that differ between runs ({len(differing)})"),
        scroll(table, "Differing settings"),
    )


def _short(value: object) -> Html:
    words = value if isinstance(value, str) else json.dumps(value)
    if len(words) <= LONGEST:
        return tag("span", words)
    return tag("span", words[:16] + "...", title=words)
