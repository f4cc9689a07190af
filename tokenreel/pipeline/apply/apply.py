"""`fuse apply`: a trained run on new videos.

For each video a folder below --out, written whole:

predictions.csv   a line for each frame: time_seconds, phase, probability, and those of every phase
embeddings.h5     the embedding file
nearest.csv       the training clips whose frames lie nearest
phases.mp4        the video as the backbone sees it, with the phase of each frame
(of a run that scores whole clips predictions.csv has a line for each tag or class, the highest
score first, and there is no movie)
applied.json      written last: which run and which video; the same command passes over it

Frames are decoded, transformed and encoded as those of the run's store were; their tokens lie in a
store in --out until all is done.
"""

import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from csv import writer
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import ClipFailed, Damaged, TokenReelError, UsageError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_twin, load_identity
from tokenreel.cache.manifest import Clip, Manifest, path_below, text_of_name
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.source_state import source_state
from tokenreel.evaluate.escape import for_spreadsheet
from tokenreel.evaluate.report.pictures.movie import playback_rate, write_movie
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.video.sniff import find_videos
from tokenreel.extract.video.types import VideoError
from tokenreel.fuse.runs.provenance import read_provenance, stores_of
from tokenreel.fuse.runs.run_folder import TOKENS
from tokenreel.pipeline.apply.captions import caption
from tokenreel.pipeline.apply.probes import Probe, fit_probes
from tokenreel.pipeline.defaults import EMBEDDINGS, require_store_of_run, store_of_run
from tokenreel.pipeline.phases.attention import file_name
from tokenreel.pipeline.phases.extraction import config_of

log = logging.getLogger(__name__)

DONE = "applied.json"
SCENES_OF_VIDEOS = "scenes"  # of a run whose stores are of scenes, beside the tokens
NUM_NEAREST = 10
POLL_SECONDS = 5.0  # between two looks at a watched folder
CLEAN = ({"name": "clean"},)  # stored augmentations are for training
ANY_VIDEO = ("all", "fps", "uniform")  # policies of frames that need no list of a data set


@dataclass(frozen=True)
class Applied:
    """What was written for a video.

    Attributes:
        name: of the video, below the folder that all have in common.
        folder: of its files.
        was_done: whether it was there before.
        unseen_reason: why there is no movie, "" where there is one.
    """

    name: str
    folder: Path
    was_done: bool = False
    unseen_reason: str = ""


@dataclass(frozen=True, eq=False)
class Trained:
    """What is taken from a trained run.

    Attributes:
        path: its folder.
        sha256: of its embedding file, by which a video that is done is known.
        clips: embeddings of its training clips.
        probe: of the phases of the action; None for a run that scores whole clips.
        action: whose phases are named.
        class_names: tags or classes of a run that scores whole clips.
        stores: names of the stores that it reads.
    """

    path: Path
    sha256: str
    clips: tuple[EmbeddedClip, ...]
    probe: Probe | None
    action: str
    class_names: tuple[str, ...] = ()
    stores: tuple[str, ...] = (TOKENS,)


def apply_run(
    run: Path,
    videos: Sequence[Path],
    *,
    out: Path,
    store: Path | Mapping[str, Path] | None = None,
    weights: str | None = None,
    scenes: Path | None = None,
    action: str | None = None,
    movies: bool = True,
    keep_tokens: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Iterator[Applied | ClipFailed]:
    """Apply a run to videos; for a video that cannot be read, the reason.

    Args:
        run: its folder.
        videos: files, and folders of which every video is taken.
        out: folder of the results.
        store: the run's store, for a run of a version that did not keep what its tokens are; those
            of a run that reads several by name, where they are not found by their names.
        weights: file of the backbone's weights, where they have moved; compared by their hash.
        scenes: folder of `extract scenes` that a run's store of scenes was made with, where it has
            moved; the scenes of new videos are found in the same way.
        action: whose phases are named; needed where the run has learned those of several.
        movies: write phases.mp4.
        keep_tokens: leave the store of tokens in OUT/tokens.
        device: "auto", "cpu" or "cuda".
        progress: show bars.

    Raises:
        UsageError: no video; a run without phases or classes, or whose frames are a list; several
            actions and none is named; weights of a run that reads several stores.
        WrongIdentity: weights that are not those of the run's tokens.
    """
    trained = read_trained(run, action)
    root, names = list_videos(videos)
    pending = []
    for name in names:
        folder = out / file_name(name)
        if _is_done(folder, trained, path_below(root, name)):
            yield Applied(name, folder, was_done=True)
        else:
            pending.append(name)
    if not pending:
        return
    if weights is not None and len(trained.stores) > 1:
        raise UsageError(
            f"--weights: {run} reads several stores, each of its own weights; put the files where "
            "the stores say they were"
        )
    named = store if isinstance(store, Mapping) else {trained.stores[0]: store}
    folders = {
        name: out / TOKENS if len(trained.stores) == 1 else out / TOKENS / name
        for name in trained.stores
    }
    clips = tuple(Clip(name, name, split="test", action=trained.action) for name in pending)
    phases = {trained.action: trained.probe.phases} if trained.probe else {}
    manifest = Manifest("applied", root, clips, phases)
    from tokenreel.extract.flow.runner import extract_clips
    from tokenreel.fuse.distributed.world import find_device
    from tokenreel.fuse.embed.embed import embed_clips

    failed: set[str] = set()
    configs = {}
    lists: dict[Path, Path] = {}  # of the run's scenes, and of those of the new videos
    for name, folder in folders.items():
        source = source_of(run, named.get(name), name=name)
        known = listed_in(source)
        known = known and (scenes or known)
        if known is not None and known not in lists:
            lists[known] = out / SCENES_OF_VIDEOS / name
            without = find_scenes(known, manifest, lists[known], progress=progress)
            yield from without
            failed |= {each.clip_id for each in without}
            manifest = replace(
                manifest, clips=tuple(clip for clip in clips if clip.clip_id not in failed)
            )
            if not manifest.clips:
                return
        configs[name] = prepare_tokens(
            run,
            folder,
            source,
            scenes=None if known is None else lists[known],
            weights=weights,
            device=device,
        )
    for name, folder in folders.items():
        report = extract_clips(
            manifest, configs[name], folder, progress=progress, retries=True, changed="replace"
        )
        yield from (each for each in report.failed if each.clip_id not in failed)
        failed |= {each.clip_id for each in report.failed}
        if report.signal:
            raise KeyboardInterrupt
    held = {name: open_store(folder) for name, folder in folders.items()}
    whole = set(pending).intersection(*(each.records for each in held.values()))
    for each in held.values():  # joined on the clips that all have
        each.records = {name: record for name, record in each.records.items() if name in whole}
    extracted = [name for name in pending if name in whole]
    for found in embed_clips(run, held, extracted, device=find_device(device)):
        if isinstance(found, ClipFailed):
            yield found
        elif trained.probe is None:
            yield _write_scores(*found, trained, root, out)
        else:
            first = held[trained.stores[0]]
            yield _write(*found, trained, trained.probe, first, root, out, movies=movies)
    if not keep_tokens:
        shutil.rmtree(out / TOKENS)
        shutil.rmtree(out / SCENES_OF_VIDEOS, ignore_errors=True)


def watch_folder(
    folder: Path, apply: Callable[[list[Path]], Iterator[Applied | ClipFailed]]
) -> Iterator[Applied | ClipFailed]:
    """Apply a run to the videos of a folder as they come, until it is interrupted.

    A file is taken when it is the same at two looks; one that failed, when it has changed.

    Args:
        folder: that is watched.
        apply: apply_run, given the videos.
    """
    before: dict[Path, object] = {}
    taken: dict[Path, object] = {}
    while True:
        now: dict[Path, object] = {}
        for path in _files_below(folder):
            try:
                state = source_state(path)
            except OSError:
                continue  # it has gone
            now[path] = (state.num_bytes, state.mtime_ns, state.inode)
        settled = [
            path for path, state in now.items() if before.get(path) == state != taken.get(path)
        ]
        if settled:
            taken.update({path: now[path] for path in settled})
            found = find_videos(folder, [_name_below(folder, path) for path in settled])
            videos = [path_below(folder, name) for name in found.videos]
            if videos:
                yield from (each for each in apply(videos) if not _was_done(each))
        before = now
        time.sleep(POLL_SECONDS)


def _was_done(found: Applied | ClipFailed) -> bool:
    return isinstance(found, Applied) and found.was_done


def read_trained(run: Path, action: str | None) -> Trained:
    """What a run has learned.

    Raises:
        UsageError: as apply_run.
    """
    stores = tuple(stores_of(read_provenance(run))) or (TOKENS,)
    path = run / EMBEDDINGS
    if not path.exists():
        raise UsageError(f"{run} has no {EMBEDDINGS}: type its `fuse train` again to finish it")
    file = read_embeddings(path)
    from tokenreel.evaluate.data.clips import file_sha256

    sha256 = file_sha256(path)
    clips = tuple(clip for clip in file.clips if clip.split == "train" and clip.num_frames)
    if file.unit == "clip":
        if not file.class_names:
            raise UsageError(
                f"{run} gives vectors of whole clips, no phases, tags or classes: make a store of "
                "the new videos with `extract run`, then `fuse embed`"
            )
        if action is not None:
            raise UsageError(f"--action {action}: {run} scores whole clips, and names no phases")
        return Trained(run, sha256, clips, None, "", tuple(file.class_names), stores)
    probes = fit_probes(file.clips)
    if not probes:
        raise UsageError(
            f"{run} was trained on clips without labelled phases: there is nothing to name in new "
            "videos; `extract run` and `fuse embed` give their embeddings"
        )
    if action is None and len(probes) > 1:
        raise UsageError(f"the run knows several actions: name one with --action: {_some(probes)}")
    chosen = next(iter(probes)) if action is None else action
    if chosen not in probes:
        raise UsageError(f"--action {chosen}: the run knows the phases of {_some(probes)}")
    return Trained(run, sha256, clips, probes[chosen], chosen, stores=stores)


def _some(names: Mapping[str, Any]) -> str:
    listed = [name or "(no name)" for name in names]
    return f"{', '.join(listed[:8])}{', ...' if len(listed) > 8 else ''}"


def list_videos(words: Sequence[Path]) -> tuple[Path, list[str]]:
    """The videos of some files and folders: the folder they have in common, and names below it.

    Raises:
        UsageError: a word that is not there, a folder without videos, or no word.
    """
    files: list[Path] = []
    for word in words:
        if word.is_dir():
            inside = list(_files_below(word))
            found = find_videos(word, [_name_below(word, path) for path in inside])
            if not found.videos:
                raise UsageError(f"{word}: no video in this folder")
            files += [path_below(word, name) for name in found.videos]
        elif word.exists():
            files.append(word)
        else:
            raise UsageError(f"{word} does not exist: name videos or folders of videos")
    if not files:
        raise UsageError("no video is named: name videos or folders of videos")
    whole = list(dict.fromkeys(Path(os.path.abspath(path)) for path in files))  # noqa: PTH100
    root = Path(os.path.commonpath([path.parent for path in whole]))
    return root, sorted(_name_below(root, path) for path in whole)


def _files_below(folder: Path) -> Iterator[Path]:
    for inner, _, names in os.walk(folder):
        yield from (Path(inner, name) for name in sorted(names) if not name.startswith("."))


def _name_below(root: Path, path: Path) -> str:
    return text_of_name(path.relative_to(root).as_posix())


def source_of(run: Path, store: Path | None, *, name: str = TOKENS) -> Path:
    """The store, or the empty twin of it, that says what the tokens of a run are.

    Raises:
        UsageError: it is not found.
    """
    kept, provenance = run / TOKENS, read_provenance(run)
    if (several := stores_of(provenance)) and store is None:
        store = store_of_run(run, several[name])
        if store is None:
            raise UsageError(
                f"{run} reads the stores {', '.join(several)}, and {name} is not found by its name "
                f"({several[name].get('store_name')}): add --store {name}=PATH"
            )
    return store or (
        kept if (kept / "recipe.json").exists() else require_store_of_run(run, provenance)
    )


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
        raise KeyboardInterrupt
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
    policy = str(identity.frames.get("policy"))
    if policy not in ANY_VIDEO and scenes is None:
        raise UsageError(
            f"{run} was trained on frames of a list ({policy}), which new videos are not in: make "
            "a store of them with `extract run`, then `fuse embed`"
        )
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


def _is_done(folder: Path, trained: Trained, video: Path) -> bool:
    try:
        return bool(read_json((folder / DONE).read_bytes()) == _mark(trained, video))
    except (OSError, ValueError):
        return False


def _mark(trained: Trained, video: Path) -> dict[str, Any]:
    """What applied.json says."""
    state = source_state(video)
    return {
        "run": trained.path.resolve().name,
        "embeddings_sha256": trained.sha256,
        "action": trained.action,
        "video_bytes": state.num_bytes,
        "video_mtime_ns": state.mtime_ns,
    }


def _write(
    clip: EmbeddedClip,
    provenance: Mapping[str, Any],
    trained: Trained,
    probe: Probe,
    store: Store,
    root: Path,
    out: Path,
    *,
    movies: bool,
) -> Applied | ClipFailed:
    """The files of a video, the mark last."""
    folder = out / file_name(clip.clip_id)
    make_directory(folder)
    shares = probe.probabilities(clip.embeddings)
    places = shares.argmax(axis=1)
    found = replace(clip, labels=probe.fit.classes[places].astype(np.int16), phases=probe.phases)
    write_whole(folder / "predictions.csv", _table(_predicted(found, shares, probe)))
    write_whole(folder / "nearest.csv", _table(_nearest(found, trained.clips)))
    unlabelled = replace(clip, labels=np.full(clip.num_frames, -1, np.int16))
    write_embeddings(
        folder / EMBEDDINGS, [unlabelled], provenance=dict(provenance), unit=store.identity.unit
    )
    reason = ""
    if movies:
        try:
            _write_movie(folder / "phases.mp4", found, shares.max(axis=1), store, root)
        except (VideoError, TokenReelError) as error:
            reason = str(error)
            log.warning("%s: no movie: %s", clip.clip_id, reason)
    return _mark_done(clip, trained, root, folder, reason)


def _write_scores(
    clip: EmbeddedClip, provenance: Mapping[str, Any], trained: Trained, root: Path, out: Path
) -> Applied | ClipFailed:
    """The files of a video whose tags or class a run scores, the mark last."""
    folder = out / file_name(clip.clip_id)
    make_directory(folder)
    scores = clip.embeddings[0]
    if len(scores) != len(trained.class_names):
        raise Damaged(
            f"{trained.path} gives {len(scores)} scores, its {EMBEDDINGS} names "
            f"{len(trained.class_names)}: type its `fuse train` again"
        )
    rows: list[list[object]] = [["name", "score"]]
    for place in np.argsort(-scores, kind="stable").tolist():
        rows.append([trained.class_names[place], round(float(scores[place]), 6)])
    write_whole(folder / "predictions.csv", _table(rows))
    write_whole(folder / "nearest.csv", _table(_nearest(clip, trained.clips)))
    write_embeddings(folder / EMBEDDINGS, [clip], provenance=dict(provenance), unit="clip")
    return _mark_done(clip, trained, root, folder, "")


def _mark_done(
    clip: EmbeddedClip, trained: Trained, root: Path, folder: Path, unseen_reason: str
) -> Applied | ClipFailed:
    try:
        mark = _mark(trained, path_below(root, clip.video))
    except OSError as error:
        return ClipFailed(clip.clip_id, stage="read", reason=error.strerror or str(error))
    write_whole(folder / DONE, canonical_json(mark))
    return Applied(clip.clip_id, folder, unseen_reason=unseen_reason)


def _table(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    lines = writer(text, lineterminator="\n")
    lines.writerows(for_spreadsheet(row) for row in rows)
    return text.getvalue().encode()


def _predicted(clip: EmbeddedClip, shares: NDArray[np.float64], probe: Probe) -> list[list[object]]:
    names = [probe.name(int(phase)) for phase in probe.fit.classes]
    rows: list[list[object]] = [["time_seconds", "phase", "probability", *names]]
    for moment, label, own in zip(clip.times_seconds, clip.labels, shares, strict=True):
        each = [round(float(share), 6) for share in own]
        rows.append([round(float(moment), 6), probe.name(int(label)), max(each), *each])
    return rows


def _nearest(clip: EmbeddedClip, others: Sequence[EmbeddedClip]) -> list[list[object]]:
    """Training clips by the mean distance of the video's frames to their nearest one."""
    own = clip.embeddings.astype(np.float64)
    squares = np.square(own).sum(axis=1)
    rows = []
    for other in others:
        theirs = other.embeddings.astype(np.float64)
        apart = squares[:, None] + np.square(theirs).sum(axis=1) - 2 * own @ theirs.T
        rows.append((float(np.sqrt(np.maximum(apart.min(axis=1), 0)).mean()), other))
    rows.sort(key=lambda row: (row[0], row[1].clip_id))
    head: list[list[object]] = [["clip", "action", "video", "distance"]]
    return head + [
        [other.clip_id, other.action, other.video, round(distance, 6)]
        for distance, other in rows[:NUM_NEAREST]
    ]


def _write_movie(
    path: Path, clip: EmbeddedClip, shares: NDArray[np.float64], store: Store, root: Path
) -> None:
    from tokenreel.extract.preview.show import frames_as_seen

    record = store.record(clip.clip_id)
    every = np.arange(clip.num_frames)
    images = frames_as_seen(store, record, every, path_below(root, clip.video))
    first = next(images)
    captions = (
        caption(image, clip, number, float(shares[number]))
        for number, image in enumerate(chain([first], images))
    )
    write_movie(path, captions, rate=playback_rate(clip))
