"""Several runs at once: one stream over the store feeds all that draw the same batches.

Runs are grouped by store and sampling, whatever their seeds; memory decides how many of a group
train together.  What stays in memory is read once, for all groups that read the same of a store.
Each run has its own folder, checkpoint and random numbers, so it ends with the bytes of the same
run trained alone, and resumes where it was killed.
"""

import logging
import platform
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.placement import available_memory_bytes
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.distributed.join import find_device, world_from_torchrun
from tokenreel.fuse.distributed.world import (
    World,
    behind_first,
    from_first,
    require_alike,
    together,
)
from tokenreel.fuse.embed.embed import Embedder, embed_together
from tokenreel.fuse.runs.provenance import describe_run
from tokenreel.fuse.runs.run_folder import RunFolder, heartbeat
from tokenreel.fuse.systems.base import (
    make_source,
    require_stores,
    sampling_of,
    system_of,
    wanted_of,
)
from tokenreel.fuse.train.lockstep import fit
from tokenreel.fuse.train.memory import most_frames, run_bytes, split_by_memory
from tokenreel.fuse.train.run import Run

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.5  # of what is left, for what every run holds; other activations are one run's


@dataclass(frozen=True)
class Job:
    """A run to train.

    Attributes:
        config: the run.
        store: its token store, or several by name.
        out: its folder.
        provenance: recipe, commit and the like, copied into the embedding file.
    """

    config: SystemConfig
    store: Path | Mapping[str, Path]
    out: Path
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def first_store(self) -> Path:
        """The store that gives splits, actions and labels."""
        return self.stores[0][1]

    @property
    def stores(self) -> "_Stores":
        """Its stores by name."""
        named = self.store if isinstance(self.store, Mapping) else {"tokens": self.store}
        return tuple(named.items())


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        path: its folder.
        embeddings: its embedding file.
        was_done: whether it had been finished before.
        error: why it failed, None where it did not.
    """

    path: Path
    embeddings: Path
    was_done: bool
    error: TokenReelError | None = None


def train(
    config: SystemConfig,
    *,
    store: Path | Mapping[str, Path],
    out: Path,
    device: str = "auto",
    placement: str = "auto",
    memory_bytes: int | None = None,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> RunResult:
    """Train or resume one run, then write the embeddings of every split: lock-step training of one.

    Args:
        config: the run.
        store: its token store, or several by name.
        out: folder of the run.
        device: as in :func:`train_together`, like all further ones.
        placement: as there.
        memory_bytes: as there.
        progress: as there.
        provenance: recipe, commit and the like, copied into the embedding file.

    Raises:
        UsageError: a store without training clips or without what the config needs.
        WrongIdentity: the folder holds another run.
        RunLocked: another process works in it.
        TokenReelError: a loss that is not finite.
    """
    job = Job(config, store, out, provenance or {})
    [result] = train_together(
        [job], device=device, placement=placement, memory_bytes=memory_bytes, progress=progress
    )
    if result.error is not None:
        raise result.error
    return result


def train_together(
    jobs: Sequence[Job],
    *,
    device: str = "auto",
    placement: str = "auto",
    memory_bytes: int | None = None,
    progress: bool = True,
) -> list[RunResult]:
    """Train or resume runs in lock-step, and write the embeddings of every split.

    Args:
        jobs: the runs, each in its own folder.
        device: "auto", "cpu" or "cuda".
        placement: where codes stay: "disk", "ram", "gpu" or "auto".
        memory_bytes: most that codes may take in memory, those that stay and the batches on their
            way; None for half of what is available.
        progress: show bars.

    Returns:
        One result for each job, in order.  A run that fails has its error, and the others continue:
        a store without training clips or without what its config needs, a folder that holds
        another run or that another process works in, a loss that is not finite.

    Raises:
        StoreNotFound: there is no store at a path.
    """
    if len({job.out.resolve() for job in jobs}) < len(jobs):
        raise ValueError("two runs in one folder: give each its own")
    where = find_device(device)
    errors: dict[Path, TokenReelError] = {}
    with ExitStack() as stack:
        world = stack.enter_context(world_from_torchrun(where))
        with together(world):
            stores = {key: StoreSet(dict(key)) for key in dict.fromkeys(job.stores for job in jobs)}
            jobs = [replace(job, config=job.config.for_stores(stores[job.stores])) for job in jobs]
            folders = [_folder(job, stores[job.stores]) for job in jobs]
        require_alike(_what_must_be_alike(folders), world)
        prepared = [
            _prepare(job, folder, stores[job.stores], stack, world, errors)
            for job, folder in zip(jobs, folders, strict=True)
        ]
        if world.is_first:
            locked = [run.folder for run in prepared if run.job.out not in errors]
            stack.enter_context(heartbeat(locked))
        done = [run.folder.embeddings for run in prepared if run.is_done]
        left = [run for run in prepared if not run.is_done and run.job.out not in errors]
        for (key, _, frames), groups in _with_same_tokens(_groups(left), stores, world).items():
            configs = [run.job.config for group in groups for run in group]
            make = cache(
                partial(
                    make_source,
                    stores[key],
                    configs,
                    where,
                    placement=placement,
                    memory_bytes=memory_bytes,
                    frames_at_once=frames,
                )
            )
            for group in groups:
                errors |= _train_group(group, make, world, progress=progress)
    return [
        RunResult(
            run.job.out,
            run.folder.embeddings,
            run.folder.embeddings in done,
            errors.get(run.job.out),
        )
        for run in prepared
    ]


def _folder(job: Job, stores: StoreSet) -> RunFolder:
    """The folder of a run, not locked."""
    paths = {name: store.path for name, store in stores.items()}
    return RunFolder(job.out, describe_run(job.config, stores, job.provenance), paths)


def _what_must_be_alike(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """What decides the numbers of runs: versions and provenances, without the names of stores."""
    runs = {folder.path.name: _without_names(folder.provenance) for folder in folders}
    return {
        "tokenreel": version("tokenreel"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "run": runs,
    }


def _without_names(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without the names of its stores, which a node may have elsewhere."""
    others = {
        name: {key: value for key, value in store.items() if key != "name"}
        for name, store in provenance.get("stores", {}).items()
    }
    found = {key: value for key, value in provenance.items() if key != "store_name"}
    return found | ({"stores": others} if others else {})


def _prepare(
    job: Job,
    folder: RunFolder,
    stores: StoreSet,
    stack: ExitStack,
    world: World,
    errors: dict[Path, TokenReelError],
) -> "_Prepared":
    """Lock the folder of a run and see whether it is done; what is wrong goes to `errors`."""
    error: TokenReelError | None = None
    is_done = False
    if world.is_first:
        try:
            require_stores(job.config, stores)
            stack.enter_context(folder)
            is_done = folder.is_done()
        except TokenReelError as found:
            error = found
    error, is_done = from_first((error, is_done), world)
    if error is not None:
        errors[job.out] = error
    if is_done:
        log.info("%s is done already", job.out)
    return _Prepared(job, folder, is_done)


@dataclass(frozen=True, eq=False)
class _Prepared:
    job: Job
    folder: RunFolder
    is_done: bool


_Stores = tuple[tuple[str, Path], ...]
_Stream = tuple[_Stores, Hashable]


def _groups(prepared: Sequence[_Prepared]) -> dict[_Stream, list[_Prepared]]:
    """Runs that may share a stream; runs without training are one group of their store."""
    groups: dict[_Stream, list[_Prepared]] = {}
    for run in prepared:
        groups.setdefault(_stream_of(run.job), []).append(run)
    return groups


def _stream_of(job: Job) -> _Stream:
    """What decides the batches of a run."""
    stages = [stage.config for stage in system_of(job.config).stages(job.config)]
    drawn = tuple(sampling_of(stage) for stage in stages if stage.optim.epochs)
    return job.stores, (job.config.system, *drawn) if drawn else None


def lockstep_groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Runs in the groups that train_together feeds from one stream over a store, in their order."""
    stores = {key: StoreSet(dict(key)) for key in dict.fromkeys(job.stores for job in jobs)}
    groups: dict[_Stream, list[Job]] = {}
    for job in jobs:
        known = replace(job, config=job.config.for_stores(stores[job.stores]))
        groups.setdefault(_stream_of(known), []).append(job)
    return list(groups.values())


def _with_same_tokens(
    groups: dict[_Stream, list[_Prepared]], stores: dict[_Stores, StoreSet], world: World
) -> dict[tuple[_Stores, Hashable, int], list[list[_Prepared]]]:
    """Groups that read the same of a store, and as many frames at once: they decide what fits."""
    found: dict[tuple[_Stores, Hashable, int], list[list[_Prepared]]] = {}
    for (key, _), group in groups.items():
        joined, configs = stores[key], [run.job.config for run in group]
        frames = max(most_frames(config, joined.first, world=world.size) for config in configs)
        found.setdefault((key, wanted_of(configs, joined), frames), []).append(group)
    return found


def _train_group(
    group: Sequence[_Prepared],
    make: Callable[[], TokenSource],
    world: World,
    *,
    progress: bool,
) -> dict[Path, TokenReelError]:
    """Train and embed runs that share a stream; those that failed, each with its error."""
    errors: dict[Path, TokenReelError] = {}
    try:
        with together(world):
            source = make()
        for part in _parts(group, source, world):
            errors |= _train_and_embed(part, source, world, progress=progress)
    except TokenReelError as error:  # of the store or the memory: of every run that reads it
        log.error("%s", error)
        left = [run for run in group if not run.folder.embeddings.exists()]
        bare = error.with_traceback(None)  # its frames hold the source and all that it keeps
        errors = {run.job.out: bare for run in left} | errors
    return errors


def _parts(group: Sequence[_Prepared], source: TokenSource, world: World) -> list[list[_Prepared]]:
    """A group in parts that fit in memory together, alike everywhere."""
    if source.device.type == "cuda":
        free = torch.cuda.mem_get_info(source.device)[0]
    else:
        free = available_memory_bytes()
    room = max(0, free - source.unread_bytes) * MEMORY_SHARE
    sizes = [run_bytes(run.job.config, source) for run in group]
    parts = from_first(split_by_memory(sizes, room), world)
    if len(group) > 1:
        log.info(
            "%d runs in lock-step, %d at a time: they hold %.2f GB, %.2f GB free",
            len(group),
            max(map(len, parts)),
            sum(sizes) / 1e9,
            room / 1e9,
        )
    return [[group[number] for number in part] for part in parts]


def _train_and_embed(
    group: Sequence[_Prepared], source: TokenSource, world: World, *, progress: bool
) -> dict[Path, TokenReelError]:
    trained: dict[Path, Run] = {}
    failed: dict[Path, TokenReelError] = {}
    for run in group:
        out = run.job.out
        try:
            trained[out] = Run(run.job.config, source, out, world=world)
        except TokenReelError as error:  # a checkpoint that is torn or of another model
            failed[out] = error.with_traceback(None)
    try:
        found = fit(list(trained.values()), source, progress=progress, world=world)
        failed |= {run.out: error for run, error in found.items()}
    finally:
        for training in trained.values():
            training.close()
    embedders = [
        Embedder(
            trained[run.job.out].model,
            run.job.config,
            run.folder.embeddings,
            {"run": run.job.out.name, **run.folder.provenance},
        )
        for run in group
        if run.job.out not in failed
    ]
    with together(world), behind_first(str(group[0].job.out), world):
        if embedders and world.is_first:
            embed_together(source, embedders, progress=progress)
    return failed
