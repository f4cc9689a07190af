"""Interface of the engines: what is extracted, where, and what came of it."""

import platform
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.manifest import Manifest, path_below
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.defaults import code_version, root_of
from tokenreel.pipeline.phases.extraction import check_limit, make_store, read_words

if TYPE_CHECKING:  # torch
    from tokenreel.extract.flow.changes import WhenChanged

SEEN_SECONDS = 10.0  # in which a node has to see what another one made: names may come late
PACKAGES = ("torch", "timm", "transformers", "av", "decord", "numpy", "zarr")  # that make tokens


@dataclass(frozen=True)
class Extraction:
    """What is extracted: the words of `extract run`.

    Attributes:
        dataset: name of the data set.
        words: `key=value` for the extraction, `data.key=value` for the data set.
        root: folder of the videos; data/<dataset> when None.
        out: the store; when None the one of this extraction in stores/.
        shard: "i/n", the part of the clips.
        limit: only the first clips of each split; None: all.
        changed: what is done with committed clips whose video or range is another one now.
    """

    dataset: str
    words: tuple[str, ...] = ()
    root: Path | None = None
    out: Path | None = None
    shard: str = "0/1"
    limit: int | None = None
    changed: "WhenChanged" = "refuse"


@dataclass(frozen=True)
class Placement:
    """Where an extraction runs; None is the engine's default.

    Attributes:
        gpus: of this machine, or of each node: "all", a count, or numbers such as 0,1.
        nodes: machines; without gpus, workers on processors.
        cpus: cores of each worker.
        address: of a running Ray cluster: "auto" or HOST:PORT.
        time: of a job, as SLURM writes it: 4:00:00.
        partition: of the cluster.
        array_parallelism: jobs of the array that run at once.
        sbatch: other options of sbatch, KEY=VALUE.
        dry_run: whether the job is only shown.
    """

    gpus: str | None = None
    nodes: int | None = None
    cpus: int | None = None
    address: str | None = None
    time: str | None = None
    partition: str | None = None
    array_parallelism: int | None = None
    sbatch: tuple[str, ...] = ()
    dry_run: bool = False

    def require_only(self, engine: str, names: Sequence[str]) -> None:
        """Refuse options that an engine does not take.

        Raises:
            UsageError: another one was given.
        """
        default = Placement()
        for field in fields(self):
            name = field.name
            if name not in names and getattr(self, name) != getattr(default, name):
                options = ", ".join(_option(name) for name in names) or "none"
                raise UsageError(
                    f"{_option(name)} is not an option of --engine {engine}, which takes {options}"
                )


def _option(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Launched:
    """What an engine did.

    Attributes:
        report: of the extraction; None where its jobs are queued, or were only shown.
        store: the store; None where the jobs were only shown.
        lines: for the user.
    """

    report: ExtractReport | None
    store: Path | None
    lines: tuple[str, ...] = ()


def ready(extraction: Extraction) -> tuple[Extraction, Manifest, ExtractConfig]:
    """Read the words, and make the store once, before any worker runs.

    Returns:
        The extraction with the paths of its videos and of its store, absolute; the clips; and the
        configuration.

    Raises:
        UsageError: a wrong word, key or value.
        WrongIdentity: there is a store at the path, of other settings.
    """
    check_limit(extraction.limit)
    manifest, config = read_words(extraction.dataset, extraction.words, root=extraction.root)
    out = None if extraction.out is None else store_path(extraction.out)
    store = make_store(manifest, config, out)
    root = store_path(extraction.root or root_of(extraction.dataset)).absolute()
    return replace(extraction, root=root, out=store.absolute()), manifest, config


def first_video(manifest: Manifest) -> Path | None:
    """The first video of a data set that this machine sees; None for one on a bucket."""
    if not isinstance(manifest.root, Path):
        return None
    paths = (path_below(manifest.root, clip.video) for clip in manifest.clips)
    return next((path.absolute() for path in paths if path.exists()), None)


def require_seen(folder: str, store: Path, video: Path | None) -> None:
    """Refuse to work on a node that lacks a disk: it would make a store there, or fail every clip.

    Args:
        folder: the current one of the command.
        store: its directory.
        video: that the command saw; None for none.

    Raises:
        UsageError: this machine does not see one of them.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    for path in (Path(folder), store / "recipe.json", *([] if video is None else [video])):
        is_last = False
        while not path.exists():
            if is_last:
                raise UsageError(
                    f"{socket.gethostname()} does not see {path}: the store, the videos and the "
                    "folder of the command have to be on a disk that all nodes share; nothing was "
                    "written"
                )
            with suppress(OSError):  # so that a client of NFS looks at the folder anew
                list(path.parent.iterdir())
            is_last = time.monotonic() > deadline  # a look comes after it, however late this is
            if not is_last:
                time.sleep(0.5)


def versions_here() -> dict[str, str]:
    """What decides the tokens that this process computes, beside the weights: code and packages."""
    found = {"tokenreel": code_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def require_versions(wanted: Mapping[str, str]) -> None:
    """Refuse to work with other versions than those of the process that made the workers.

    Raises:
        WrongIdentity: a version differs; every one that does is listed.
    """
    here = versions_here()
    rows = [
        f"  {name}: {here.get(name, 'absent')}, wanted {value}"
        for name, value in wanted.items()
        if here.get(name, "absent") != value
    ]
    if rows:
        raise WrongIdentity(
            f"the worker on {socket.gethostname()} has other versions than the command that "
            "started it:\n" + "\n".join(rows) + "\nnothing was written: install the same versions "
            "everywhere, or start the command from the environment of the workers"
        )


def require_package(name: str, extra: str) -> None:
    """Refuse an engine whose package is not installed.

    Raises:
        UsageError: with the line that installs it.
    """
    try:
        version(name)
    except PackageNotFoundError as error:
        raise UsageError(
            f"--engine {extra} needs {name}, which is not installed: "
            f"pip install 'tokenreel[{extra}]'"
        ) from error


def import_package(name: str, extra: str) -> Any:
    """Import the package of an engine.

    Raises:
        UsageError: it cannot be imported, with the reason.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"--engine {extra} needs {name}, which cannot be imported ({error}): "
            f"pip install --force-reinstall 'tokenreel[{extra}]'"
        ) from error
