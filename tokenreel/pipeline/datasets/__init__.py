"""Data sets: functions that read annotation files and list the clips.

`DATASETS` names them all.  Each returns a Survey: a manifest, and where it is known how many clips
there should be.  What is partial is in the manifest's notes.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Manifest
from tokenreel.cache.plugins import nearest
from tokenreel.pipeline.datasets.check import Check, check_survey
from tokenreel.pipeline.datasets.finegym import finegym
from tokenreel.pipeline.datasets.folder import folder
from tokenreel.pipeline.datasets.kinetics import kinetics400
from tokenreel.pipeline.datasets.penn_action import penn_action
from tokenreel.pipeline.datasets.pouring import pouring
from tokenreel.pipeline.datasets.sample import sample
from tokenreel.pipeline.datasets.survey import Survey

__all__ = ["DATASETS", "check_dataset", "load_dataset"]

log = logging.getLogger(__name__)

DATASETS: dict[str, Callable[[Path, Mapping[str, str]], Survey]] = {
    "finegym": finegym,
    "folder": folder,
    "kinetics400": kinetics400,
    "penn_action": penn_action,
    "pouring": pouring,
    "sample": sample,
}
PACKED = ("penn_action", "pouring")  # they write videos of their frames; a check does not


def load_dataset(name: str, root: Path, options: Mapping[str, str]) -> Manifest:
    """The manifest of a data set; what was found partial or odd is logged.

    Args:
        name: a key of DATASETS.
        root: folder of the videos.
        options: what the data set takes, as text.

    Raises:
        UsageError: an unknown data set, with the nearest name; a root that is not as expected.
    """
    manifest = DATASETS[_known(name)](root, options).manifest
    for note in manifest.notes:
        log.warning("%s: %s", name, note)
    return manifest


def check_dataset(name: str, root: Path, options: Mapping[str, str]) -> Check:
    """What a data set should hold and what is there; opens no video and packs no frames.

    Raises:
        UsageError: as load_dataset.
    """
    extra = {"pack": "no"} if name in PACKED else {}
    return check_survey(DATASETS[_known(name)](root, {**options, **extra}))


def _known(name: str) -> str:
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise UsageError(f"no data set {name!r}{nearest(name, DATASETS)} (there is: {known})")
    return name
