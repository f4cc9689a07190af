"""Data sets: functions that read annotation files and return a manifest of clips.

`DATASETS` names them all.  A data set opens no video; what it finds partial it says in the
manifest's notes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Manifest
from tokenreel.pipeline.datasets.folder import folder
from tokenreel.pipeline.datasets.sample import sample
from tokenreel.pipeline.override import nearest

__all__ = ["DATASETS", "load_dataset"]

DATASETS: dict[str, Callable[[Path, Mapping[str, str]], Manifest]] = {
    "folder": folder,
    "sample": sample,
}


def load_dataset(name: str, root: Path, options: Mapping[str, str]) -> Manifest:
    """The manifest of a data set.

    Args:
        name: a key of DATASETS.
        root: folder of the videos.
        options: what the data set takes, as text.

    Raises:
        UsageError: an unknown data set, with the nearest name; a root that is not as expected.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise UsageError(f"no data set {name!r}{nearest(name, DATASETS)} (there is: {known})")
    return DATASETS[name](root, options)
