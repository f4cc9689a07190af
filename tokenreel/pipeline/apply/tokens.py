"""Tokens of new videos as those of a run were made: the empty stores, and what fills them."""

import logging
import queue
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreel.cache.errors import ClipFailed, UsageError
from tokenreel.cache.files import files_below
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_twin, load_identity
from tokenreel.cache.manifest import Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.signals import Stopping, interruption
from tokenreel.fuse.runs.provenance import read_provenance, stores_of
from tokenreel.fuse.runs.run_folder import TOKENS, twin_of_store
from tokenreel.pipeline.defaults import require_store_of_run, store_of_run
from tokenreel.pipeline.phases.extraction import config_of

if TYPE_CHECKING:  # torch
    from tokenreel.extract.report import ExtractReport

log = logging.getLogger(__name__)

CLEAN = ({"name": "clean"},)  # stored augmentations are for training
ANY_VIDEO = ("all", "fps", "uniform")  # policies of frames that need no list of a data set

AHEAD_VIDEOS = 16  # whose tokens may wait to be embedded: extraction then pauses
AHEAD_BYTES = 4 * 10**9  # of these tokens: it pauses earlier where they are large
LOOK_SECONDS = 0.2  # between two looks at whether a paused extraction is to end


def source_of(run: Path, store: Path | None, *, name: str = TOKENS) -> Path:
    """The store, or the empty twin of it, that says what the tokens of a run are.

    Raises:
        UsageError: it is not found.
    """
    if store is not None:
        return store
    provenance = read_provenance(run)
    several = stores_of(provenance)
    kept = twin_of_store(run, name, several or (name,))
    if (kept / "recipe.json").exists():
        return kept
    if not several:
        return require_store_of_run(run, provenance)
    found = store_of_run(run, several[name])
    if found is None:
        raise UsageError(
            f"{run} reads the stores {', '.join(several)}, and {name} is not found by its name "
            f"({several[name].get('store_name')}): add --store {name}=PATH"
        )
    return found


def listed_in(store: Path) -> Path | None:
    """The folder of the list of a store of scenes; None for a store of other frames."""
    identity, attributes = load_identity(store)
    if identity.frames.get("policy") != "scenes":
        return None
    return Path(str(attributes["made_with"].get("frames", "scenes:")).partition(":")[2] or "scenes")


def find_scenes(known: Path, manifest: Manifest, out: Path, *, progress: bool) -> list[ClipFailed]:
    """Find the scenes of new videos as those of a list were found; videos without.

    Args:
        known: folder of the list.
        manifest: of the new videos.
        out: folder of the new list; one of other videos is replaced.
        progress: show a bar.

    Raises:
        UsageError: the list does not say how it was made, or was made by other rules.
    """
    from tokenreel.extract.scene_list import DESCRIPTION, read_description
    from tokenreel.extract.scenes.config import ScenesConfig
    from tokenreel.extract.scenes.run import describe_method, extract_scenes

    path = known / DESCRIPTION
    if not path.is_file():
        raise UsageError(
            f"{path} is not there, and says how the scenes of the run's store were found: add "
            "--scenes FOLDER, that of its `extract scenes`"
        )
    held = read_description(path)
    given = {"threshold", "window", "min_frames"} & {*held["parameters"]}
    config = ScenesConfig.model_validate(
        {"method": held["method"], **{key: held["parameters"][key] for key in given}}
    )
    made = describe_method(config)
    rows = [key for key in ("method", "parameters", "rules") if made[key] != held[key]]
    if rows:
        raise UsageError(f"{path}: this version finds scenes in another way: {', '.join(rows)}")
    if out.exists():
        shutil.rmtree(out)
    report = extract_scenes(manifest, config, out, progress=progress)
    if report.signal:
        raise interruption(report.signal)
    return report.failed


def prepare_tokens(
    run: Path,
    tokens: Path,
    source: Path,
    *,
    scenes: Path | None = None,
    weights: str | None,
    device: str,
) -> ExtractConfig:
    """Make the empty store that takes the tokens of a store of the run; how they are extracted.

    Args:
        run: its folder, for messages.
        tokens: the store to make.
        source: of source_of.
        scenes: folder of the scenes of the new videos, for a store of scenes.
        weights: file of the backbone's weights, where they have moved.
        device: as in apply_run.

    Raises:
        UsageError: the run's frames are a list.
        WrongIdentity: a store of other tokens lies there.
    """
    from tokenreel.extract.frame_policy import frames_identity

    identity, attributes = load_identity(source)
    require_any_video(run, identity, has_scenes=scenes is not None)
    changes: dict[str, Any] = {"device": device}
    if weights is not None:
        changes["weights"] = weights
    if scenes is not None:
        changes["frames"] = f"scenes:{scenes}"
    config = config_of(identity.model_copy(update={"views": CLEAN}), attributes["made_with"])
    config = config.model_copy(update=changes)
    held: StoreIdentity = identity.model_copy(update={"views": CLEAN})
    if scenes is not None:
        held = held.model_copy(update={"frames": frames_identity(config)})
        if tokens.exists() and load_identity(tokens)[0].frames != held.frames:
            log.info("%s has tokens of the scenes of other videos: made anew", tokens)
            shutil.rmtree(tokens)
    create_twin(tokens, source, identity=held)
    return config


def require_any_video(run: Path, identity: StoreIdentity, *, has_scenes: bool) -> None:
    """Raise UsageError where the frames of a run's store are a list of a data set."""
    policy = str(identity.frames.get("policy"))
    if policy not in ANY_VIDEO and not has_scenes:
        raise UsageError(
            f"{run} was trained on frames of a list ({policy}), which new videos are not in: make "
            "a store of them with `extract run`, then `fuse embed`"
        )


class Backlog:
    """Extracted videos that wait to be embedded, oldest first; two threads share it.

    Only videos that are complete count: those that are being extracted may share a batch, which
    fills with frames of the next one, so to wait for them could take forever.
    """

    def __init__(self) -> None:
        self._bytes: deque[int] = deque()  # of the tokens of each
        self._changed = threading.Condition()

    def add(self, num_bytes: int) -> None:
        """Another video waits, with the bytes of its tokens."""
        with self._changed:
            self._bytes.append(num_bytes)

    def drop_oldest(self) -> None:
        """The oldest video has been embedded."""
        with self._changed:
            self._bytes.popleft()
            self._changed.notify()

    def wait_for_room(self, is_over: Callable[[], bool]) -> None:
        """Return once fewer than AHEAD_VIDEOS, and less than AHEAD_BYTES, wait, or `is_over`."""
        with self._changed:
            while self._is_full() and not is_over():
                self._changed.wait(LOOK_SECONDS)

    def _is_full(self) -> bool:
        return len(self._bytes) >= AHEAD_VIDEOS or sum(self._bytes) >= AHEAD_BYTES


class Extraction:
    """Extraction of videos in a thread of its own: they come as they are committed, or fail.

    Iterating gives names of committed clips and failures.  A clip counts as embedded once the next
    one is taken; while too many wait, extraction pauses.  Use as a context manager; leaving it
    before the end stops the extraction.

    Args:
        manifest: the videos.
        config: of prepare_tokens.
        store: that they are written to.
        stopping: ends it early.
        progress: show a bar.

    Raises:
        KeyboardInterrupt, SystemExit: from the iteration, where a signal ended it.
        As extract_clips: likewise.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: ExtractConfig,
        store: Path,
        *,
        stopping: Stopping,
        progress: bool,
    ) -> None:
        self._manifest, self._config, self._store = manifest, config, store
        self._stopping, self._progress = stopping, progress
        self._items: queue.SimpleQueue[str | ClipFailed | None] = queue.SimpleQueue()
        self._num_ready = self._num_skipped = self._num_failed = 0
        self._backlog = Backlog()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenreel-extract")

    def __enter__(self) -> "Extraction":
        self._report: Future[ExtractReport] = self._thread.submit(self._extract)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None or not self._report.done():
            self._stopping.stop(int(signal.SIGTERM))
        self._thread.shutdown()

    def __iter__(self) -> Iterator[str | ClipFailed]:
        while (item := self._items.get()) is not None:
            yield item
            if isinstance(item, str):
                self._backlog.drop_oldest()
        if number := self._report.result().signal:
            raise interruption(number)

    def _extract(self) -> "ExtractReport":
        from tokenreel.extract.flow.runner import extract_clips

        try:
            report = extract_clips(
                self._manifest,
                self._config,
                self._store,
                progress=self._progress,
                retries=True,
                changed="replace",
                stopping=self._stopping,
                tick=self._tell,
            )
            self._tell(report)
            return report
        finally:
            self._items.put(None)

    def _tell(self, report: "ExtractReport") -> None:
        """Pass on what has ended since, and wait while too much has."""
        for name in report.skipped[self._num_skipped :]:  # an earlier call extracted it
            self._num_skipped += 1
            self._pass_on(name)
        for name in report.committed[self._num_ready :]:
            self._num_ready += 1
            self._pass_on(name)
        for failure in report.failed[self._num_failed :]:
            self._items.put(failure)
            self._num_failed += 1
        self._backlog.wait_for_room(self._stopping.event.is_set)

    def _pass_on(self, name: str) -> None:
        folder = self._store / folder_of(clip_key(name))
        self._backlog.add(sum(file.lstat().st_size for file in files_below(folder)))
        self._items.put(name)


def drop_tokens(store: Path, clip_id: str) -> None:
    """Remove the tokens of a clip from a store of new videos."""
    folder = store / folder_of(clip_key(clip_id))
    if folder.exists():
        aside = folder.with_name(f".tmp-applied-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside)


def drop_empty(out: Path, stores: Mapping[str, Path]) -> None:
    """Remove the folder of tokens where no store in it has a clip, or a part of one."""
    if not any(list((store / "clips").glob("*/*")) for store in stores.values()):
        shutil.rmtree(out / TOKENS, ignore_errors=True)
