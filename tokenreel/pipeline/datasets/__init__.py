"""Data sets: functions that read annotation files and list the clips.

`DATASETS` names them all: ours, one file and one line each, and those of plugins.  A data set takes
the folder of its videos and options as text.  It returns a Survey, which is a manifest and, where
it is known, how many clips there should be; or the manifest alone.  Its notes say what is partial.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.manifest import Manifest
from tokenreel.cache.plugins import Table
from tokenreel.pipeline.datasets.check import Check, check_survey
from tokenreel.pipeline.datasets.survey import Survey
from tokenreel.pipeline.defaults import SAMPLE

__all__ = ["DATASETS", "check_dataset", "load_dataset"]

log = logging.getLogger(__name__)

DATASETS = Table(
    "data set",
    "tokenreel.datasets",
    {
        "captioned": "tokenreel.pipeline.datasets.captioned:captioned",
        "finegym": "tokenreel.pipeline.datasets.finegym:finegym",
        "folder": "tokenreel.pipeline.datasets.folder:folder",
        "hmdb51": "tokenreel.pipeline.datasets.hmdb51:hmdb51",
        "kinetics400": "tokenreel.pipeline.datasets.kinetics:kinetics400",
        "kinetics600": "tokenreel.pipeline.datasets.kinetics:kinetics600",
        "kinetics710": "tokenreel.pipeline.datasets.kinetics710:kinetics710",
        "lvu": "tokenreel.pipeline.datasets.lvu:lvu",
        "mmx": "tokenreel.pipeline.datasets.mmx:mmx",
        "penn_action": "tokenreel.pipeline.datasets.penn_action:penn_action",
        "pouring": "tokenreel.pipeline.datasets.pouring:pouring",
        "sample": "tokenreel.pipeline.datasets.sample:sample",
        "trailers": "tokenreel.pipeline.datasets.trailers:trailers",
        "ssv2": "tokenreel.pipeline.datasets.ssv2:ssv2",
        "ucf101": "tokenreel.pipeline.datasets.ucf101:ucf101",
        SAMPLE: "tokenreel.pipeline.datasets.sample:sample",  # as its stores call it
    },
)
FOLLOWING = (
    "finegym",
    "hmdb51",
    "kinetics400",
    "kinetics600",
    "kinetics710",
    "lvu",
    "mmx",
    "penn_action",
    "pouring",
    "ssv2",
    "ucf101",
)  # links, without the option
PACKED = ("penn_action", "pouring")  # they write videos of their frames; a check does not


def load_dataset(name: str, root: Path, options: Mapping[str, str]) -> Manifest:
    """The manifest of a data set; what was found partial or odd is logged.

    Args:
        name: of DATASETS.
        root: folder of the videos.
        options: what the data set takes, as text.

    Raises:
        UsageError: an unknown data set, with the nearest name; a root that is not as expected.
    """
    manifest = _survey(name, root, options).manifest
    for note in manifest.notes:
        log.warning("%s: %s", name, note)
    return manifest


def check_dataset(name: str, root: Path, options: Mapping[str, str]) -> Check:
    """What a data set should hold and what is there; opens no video and packs no frames.

    Raises:
        UsageError: as load_dataset.
    """
    extra = {"pack": "no"} if name in PACKED else {}
    return check_survey(_survey(name, root, {**options, **extra}))


def _survey(name: str, root: Path, options: Mapping[str, str]) -> Survey:
    if name in FOLLOWING:
        options = {key: value for key, value in options.items() if key != "follow_links"}
    found: Survey | Manifest = DATASETS.load(name)(store_path(root), options)
    return Survey(found) if isinstance(found, Manifest) else found
