"""The store of an extraction: found by its recipe, or made and named by its fingerprint.

What a codec is calibrated to is part of the fingerprint, so the name of a new store is known only
once it is calibrated: it is made under a temporary name and renamed, by one process at a time.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import make_directory, sweep_temporary, sync_directory, temporary_name
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.manifest import Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import build_identity, prepare_store, store_name

__all__ = ["named_store"]

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 86400  # a store in the making that nobody touched for so long


def named_store(folder: Path, manifest: Manifest, config: ExtractConfig) -> Path:
    """The one store of an extraction in a folder; made, calibrated and named when there is none.

    Several processes, shards of one extraction say, get the same one: the first makes it.

    Args:
        folder: of the stores.
        manifest: the clips; some are decoded to calibrate a new store.
        config: the extraction.

    Raises:
        UsageError: several stores there hold this extraction, each calibrated on other frames.
        Damaged: a store there that could be the one cannot be read.
    """
    planned = build_identity(config)
    start = store_name(manifest.dataset, config)
    make_directory(folder)
    with _alone(folder):
        sweep_temporary(folder, older_than_seconds=ABANDONED_SECONDS)
        named = sorted(path.parent for path in folder.glob(f"{escape(start)}*/recipe.json"))
        found = [path for path in named if load_identity(path)[0].before_calibration == planned]
        if len(found) > 1:
            names = ", ".join(f"--out {path}" for path in found)
            raise UsageError(f"{len(found)} stores hold this extraction, name one: {names}")
        if found:
            return found[0]
        beside = temporary_name(folder / start.rstrip("-"))
        _, recipe, _, _ = prepare_store(manifest, config, beside)
        path = folder / store_name(manifest.dataset, config, recipe)
        beside.rename(path)
        sync_directory(folder)
    log.info("new store: %s", path)
    return path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time in; a dead one lets the next in."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process makes a store here; waiting", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            log.warning(
                "%s: this file system has no locks (%s): let one process make the store before "
                "others start, or give all of them one --out",
                folder,
                error.strerror,
            )
        yield
    finally:
        os.close(handle)
