"""`fuse apply`: a trained run on new videos.

For each video a folder below --out, written whole:

predictions.csv   a line for each frame: time_seconds, phase, probability, and those of every phase
embeddings.h5     the embedding file
nearest.csv       the training clips whose frames lie nearest
phases.mp4        the video as the backbone sees it, with the phase of each frame
(of a run that scores whole clips predictions.csv has a line for each tag, class or number, the
highest score first, and there is no movie; of one that names nothing there is neither)
applied.json      written last: which run and which video; the same command passes over it

Frames are decoded, transformed and encoded as those of the run's store were.  Each video is
embedded while later ones are extracted; its tokens lie in a store in --out until that is done.
Extraction pauses while AHEAD_VIDEOS videos, or AHEAD_BYTES of tokens, wait to be embedded; of a run
of several stores AHEAD_VIDEOS are taken at a time, as each store is filled by its own backbone.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.errors import ClipFailed, ClipNotFound, Damaged, UsageError
from tokenreel.cache.files import make_directory
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.signals import Stopping, interruption, stop_on_signals
from tokenreel.fuse.runs.run_folder import twin_of_store
from tokenreel.pipeline.apply.results import Applied, Target, write_results
from tokenreel.pipeline.apply.tokens import (
    AHEAD_VIDEOS,
    Extraction,
    drop_empty,
    drop_tokens,
    find_scenes,
    listed_in,
    prepare_tokens,
    require_any_video,
    source_of,
)
from tokenreel.pipeline.apply.trained import Trained, read_trained
from tokenreel.pipeline.apply.videos import Videos, list_videos

if TYPE_CHECKING:  # torch
    from tokenreel.fuse.embed.embed import ClipEmbedder

log = logging.getLogger(__name__)

SCENES_OF_VIDEOS = "scenes"  # of a run whose stores are of scenes, beside the tokens


@dataclass(frozen=True)
class ApplyOptions:
    """How a run is applied.

    Attributes:
        out: folder of the results.
        store: the run's store, for a run of a version that did not keep what its tokens are; those
            of a run that reads several by name, where they are not found.
        weights: file of the backbone's weights, where they have moved; compared by their hash.
        scenes: folder of `extract scenes` that a run's store of scenes was made with, where it has
            moved; the scenes of new videos are found in the same way.
        picture_fps: pictures a second of folders of numbered pictures, 25 when None.
        movies: write phases.mp4.
        keep_tokens: leave the store of tokens in OUT/tokens.
        device: "auto", "cpu" or "cuda".
        progress: show bars.
        stopping: ends it early, in the place of signals.
    """

    out: Path
    store: Path | Mapping[str, Path] | None = None
    weights: str | None = None
    scenes: Path | None = None
    picture_fps: float | None = None
    movies: bool = True
    keep_tokens: bool = False
    device: str = "auto"
    progress: bool = True
    stopping: Stopping | None = None


def require_applicable(run: Path, *, action: str | None = None, **options: object) -> None:
    """Raise, before there is a video, what apply_run raises of a run and its options."""
    _sources_of(read_trained(run, action), ApplyOptions(**options))  # type: ignore[arg-type]


def apply_run(
    run: Path,
    videos: Sequence[Path],
    *,
    action: str | None = None,
    root: Path | None = None,
    **options: object,
) -> Iterator[Applied | ClipFailed]:
    """Apply a run to videos; for a video that cannot be read, the reason.

    Args:
        run: its folder.
        videos: files, folders of which every video is taken, and folders of numbered pictures.
        action: whose phases are named; needed where the run has learned those of several.
        root: the folder that the names of videos begin at; the one that they have in common when
            None.
        options: of ApplyOptions.

    Raises:
        UsageError: no video; a run whose frames are a list; several actions and none is named;
            weights of a run that reads several stores.
        WrongIdentity: weights that are not those of the run's tokens.
    """
    given = ApplyOptions(**options)  # type: ignore[arg-type]
    trained = read_trained(run, action)
    listed = list_videos(videos, out=given.out, root=root)
    yield from listed.unreadable
    pending: dict[str, Target] = {}
    for found in _targets(listed, trained, given):
        if not isinstance(found, Target):
            yield found
        elif held := _held_in(found):
            yield held
        else:
            pending[found.name] = found
    if pending:
        yield from _Application(trained, listed.root, pending, given).run()


def _held_in(target: Target) -> Applied | ClipFailed | None:
    """What the folder of a video has: its results, or those of another video, which stay."""
    if target.is_done():
        return Applied(target.name, target.folder, was_done=True)
    if other := target.other_video():
        reason = f"{target.folder} has the results of {other}: use another --out"
        return ClipFailed(target.name, stage="write", reason=reason)
    return None


def _sources_of(trained: Trained, options: ApplyOptions) -> dict[str, Path]:
    """What says how the tokens of each store of a run are made, by name of the store."""
    run, names = trained.path, trained.stores
    if options.weights is not None and len(names) > 1:
        raise UsageError(
            f"--weights: {run} reads several stores, each of its own weights; put the files "
            "where the stores say they were"
        )
    named = options.store if isinstance(options.store, Mapping) else {names[0]: options.store}
    sources = {name: source_of(run, named.get(name), name=name) for name in names}
    for source in sources.values():
        is_of_scenes = listed_in(source) is not None
        require_any_video(run, load_identity(source)[0], has_scenes=is_of_scenes)
    return sources


def _targets(
    listed: Videos, trained: Trained, options: ApplyOptions
) -> Iterator[Target | ClipFailed]:
    for name in listed.names:
        try:
            yield Target.of(
                name, listed.root, options.out, trained, picture_fps=options.picture_fps
            )
        except OSError as error:
            yield ClipFailed(name, stage="open", reason=error.strerror or str(error))


@dataclass(eq=False)
class _Application:
    """A run on some videos that are not done yet.

    Attributes:
        trained: the run.
        root: folder of the videos.
        pending: the videos by name.
        options: how.
    """

    trained: Trained
    root: Path
    pending: dict[str, Target]
    options: ApplyOptions
    _sources: dict[str, Path] = field(init=False)
    _stores: dict[str, Path] = field(init=False)
    _failed: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        names = self.trained.stores
        self._sources = _sources_of(self.trained, self.options)
        self._stores = {name: twin_of_store(self.options.out, name, names) for name in names}

    def run(self) -> Iterator[Applied | ClipFailed]:
        """Extract, embed and write; what is extracted stays for the next call until it is done."""
        out, given = self.options.out, self.options.stopping
        make_directory(out)
        waiting = "another `fuse apply` writes here; waiting"
        with (
            lock_folder(out, waiting=waiting),
            nullcontext(given) if given is not None else stop_on_signals() as stopping,
        ):
            try:
                yield from self._made_meanwhile()
                if self.pending:
                    yield from self._apply(stopping)
            finally:
                if not self.options.keep_tokens:
                    drop_empty(out, self._stores)
                    shutil.rmtree(out / SCENES_OF_VIDEOS, ignore_errors=True)

    def _made_meanwhile(self) -> Iterator[Applied | ClipFailed]:
        """Videos that another process has written while this one waited for it."""
        for name, target in list(self.pending.items()):
            if held := _held_in(target):
                del self.pending[name]
                yield held

    def _apply(self, stopping: Stopping) -> Iterator[Applied | ClipFailed]:
        configs: dict[str, ExtractConfig] = {}
        yield from self._prepare(configs)
        names = [name for name in self.pending if name not in self._failed]
        is_of_one = len(self._stores) == 1  # whose extraction is bounded by itself
        size = max(len(names), 1) if is_of_one else AHEAD_VIDEOS
        for start in range(0, len(names), size):
            yield from self._apply_to(names[start : start + size], configs, stopping)

    def _prepare(self, configs: dict[str, ExtractConfig]) -> Iterator[ClipFailed]:
        """Make the empty stores, and how each is extracted; videos without scenes, listed."""
        lists: dict[Path, Path] = {}  # of the run's scenes, and of those of the new videos
        for name, store in self._stores.items():
            known = listed_in(self._sources[name])
            known = known and (self.options.scenes or known)
            if known is not None and known not in lists:
                lists[known] = self.options.out / SCENES_OF_VIDEOS / name
                manifest = self._manifest(self.pending)
                yield from self._new_failures(
                    find_scenes(known, manifest, lists[known], progress=self.options.progress)
                )
                if self._failed >= self.pending.keys():
                    return
            configs[name] = prepare_tokens(
                self.trained.path,
                store,
                self._sources[name],
                scenes=None if known is None else lists[known],
                weights=self.options.weights,
                device=self.options.device,
            )

    def _apply_to(
        self,
        names: Sequence[str],
        configs: Mapping[str, ExtractConfig],
        stopping: Stopping,
    ) -> Iterator[Applied | ClipFailed]:
        """Extract some videos, and embed each once the last store has it."""
        *before, last = self._stores
        for name in before:
            with self._extraction(names, configs, name, stopping) as extraction:
                yield from self._new_failures(extraction)
        with self._extraction(names, configs, last, stopping) as extraction:
            embedder = self._embedder
            for item in extraction:
                if isinstance(item, ClipFailed):
                    yield from self._new_failures([item])
                elif not stopping.event.is_set():
                    yield self._write(embedder, self.pending.pop(item))
        for name in names:  # that the extraction did not name
            if name in self.pending and name not in self._failed:
                if stopping.event.is_set():
                    raise interruption(stopping.signal)
                yield self._write(embedder, self.pending.pop(name))
        if not self.options.keep_tokens:  # what one of several stores could not take
            for name in self._failed.intersection(names):
                self._drop_tokens(name)

    def _manifest(self, names: Iterable[str]) -> Manifest:
        """Those of some videos that have not failed."""
        clips = tuple(
            Clip(
                name,
                name,
                split="test",
                action=self.trained.action,
                picture_fps=self.options.picture_fps if self.pending[name].video.is_dir() else None,
            )
            for name in names
            if name not in self._failed
        )
        probe = self.trained.probe
        phases = {self.trained.action: probe.phases} if probe else {}
        return Manifest("applied", self.root, clips, phases)

    def _extraction(
        self,
        names: Iterable[str],
        configs: Mapping[str, ExtractConfig],
        name: str,
        stopping: Stopping,
    ) -> Extraction:
        manifest, progress = self._manifest(names), self.options.progress
        return Extraction(
            manifest, configs[name], self._stores[name], stopping=stopping, progress=progress
        )

    def _new_failures(self, items: "Sequence[ClipFailed] | Extraction") -> Iterator[ClipFailed]:
        """The failures among items, each video once."""
        for item in items:
            if isinstance(item, ClipFailed) and item.clip_id not in self._failed:
                self._failed.add(item.clip_id)
                yield item

    @cached_property
    def _embedder(self) -> "ClipEmbedder":
        from tokenreel.fuse.distributed.join import find_device
        from tokenreel.fuse.embed.embed import ClipEmbedder

        opened = {name: open_store(store) for name, store in self._stores.items()}
        return ClipEmbedder(self.trained.path, opened, device=find_device(self.options.device))

    def _write(self, embedder: "ClipEmbedder", target: Target) -> Applied | ClipFailed:
        """The results of a video whose tokens are there; they are then dropped."""
        try:
            embedder.open(target.name)
        except ClipNotFound as error:  # another writer has it
            return ClipFailed(target.name, stage="read", reason=str(error))
        except UsageError as error:  # other units in each store
            if not self.options.keep_tokens:
                self._drop_tokens(target.name)
            return ClipFailed(target.name, stage="read", reason=str(error))
        except Damaged as error:
            return self._damaged(target, error)
        embedder.load()  # a run that cannot be read is the fault of no video
        try:
            clip, provenance = embedder.embed(target.name)
        except Damaged as error:
            return self._damaged(target, error)
        probe = self.trained.probe  # tokens of an earlier call may be of another action
        phases = clip.phases if probe is None else probe.phases
        clip = replace(clip, action=self.trained.action, phases=phases)
        first = embedder.stores[self.trained.stores[0]]
        applied = write_results(
            target, clip, provenance, self.trained, first, movies=self.options.movies
        )
        if not self.options.keep_tokens:
            self._drop_tokens(target.name)
        return applied

    def _damaged(self, target: Target, error: Damaged) -> ClipFailed:
        """The failure of a video whose tokens are dropped: the same command extracts it again."""
        self._drop_tokens(target.name)
        reason = f"{error}; its tokens are removed: rerun the same command to extract it again"
        return ClipFailed(target.name, stage="read", reason=reason)

    def _drop_tokens(self, name: str) -> None:
        for store in self._stores.values():
            drop_tokens(store, name)
