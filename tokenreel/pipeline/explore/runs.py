"""A trained run beside its store: distances of embeddings, phases, alignment and attention."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings
from tokenreel.cache.errors import ClipFailed, ClipNotFound, UsageError
from tokenreel.cache.read.store_reader import Store
from tokenreel.evaluate.methods.alignment import align_pair
from tokenreel.evaluate.methods.nearest import squared_distances
from tokenreel.fuse.runs.provenance import (
    describe_store,
    read_config,
    read_provenance,
    require_same_tokens,
    stores_of,
)
from tokenreel.pipeline.apply.probes import Probe, fit_probes
from tokenreel.pipeline.defaults import EMBEDDINGS

if TYPE_CHECKING:  # torch: imported when attention is first shown
    from tokenreel.fuse.embed.attend import ClipAttention

Values = dict[str, Any]

SHOWN_CLIPS = 12  # of which the nearest frame is shown
BRIGHTEST = 99.5  # percentile of an entity's weights over the clip that is drawn brightest
MOST_ATTENTIONS = 8  # clips whose attention is kept


class ExploredRun:
    """A run whose tokens are those of a store.

    Args:
        path: its folder.
        store: the store that is shown.

    Raises:
        WrongIdentity: a run of another backbone, or of other weights; the fields that differ.
        UsageError: a run that reads several stores, is not finished, or embeds whole clips.
        EmbeddingFileError: its file cannot be read.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path, self._store = path, store
        if several := stores_of(read_provenance(path)):
            raise UsageError(
                f"{path} reads the stores {', '.join(several)}, one is shown here: leave out this "
                "--run"
            )
        config = read_config(path, require_same_tokens(path, describe_store(store)))
        self.attends = bool(getattr(getattr(config, "pooling", None), "attends", False))
        file_path = path / EMBEDDINGS
        if not file_path.exists():
            raise UsageError(
                f"{path} has no {EMBEDDINGS}: type its `fuse train` again to finish it"
            )
        file = read_embeddings(file_path)
        if file.unit == "clip":
            raise UsageError(
                f"{path} gives scores of whole clips, no embeddings of frames: there is nothing to "
                "show beside frames; leave out this --run"
            )
        self._clips = {clip.clip_id: clip for clip in file.clips}
        self._stacked = np.concatenate([clip.embeddings for clip in file.clips])
        self._starts = np.cumsum([0, *(clip.num_frames for clip in file.clips)])
        self._names = [clip.clip_id for clip in file.clips]
        self._probes: dict[str, Probe] | None = None
        self._attention: dict[str, ClipAttention] = {}
        self._lock = threading.Lock()

    def near(self, clip_id: str, frame: int) -> Values:
        """Distances of a frame's embedding to every frame of its clip and to other clips.

        Returns:
            "distances": Euclidean, of each frame of the clip; "nearest": the nearest frame of each
            of the nearest other clips.
        """
        clip = self._clip(clip_id)
        if not 0 <= frame < clip.num_frames:
            raise UsageError(f"{clip_id} has frames 0 to {clip.num_frames - 1}, not {frame}")
        squares = squared_distances(clip.embeddings[frame][None], self._stacked)[0]
        distances = np.sqrt(np.maximum(squares, 0))
        least = np.minimum.reduceat(distances, self._starts[:-1])
        nearest = []
        for place in np.argsort(least, kind="stable").tolist():
            name = self._names[place]
            if name == clip_id or name not in self._store.records:
                continue
            own = distances[self._starts[place] : self._starts[place + 1]]
            other = self._clips[name]
            found = int(own.argmin())
            nearest.append(
                {
                    "clip": name,
                    "frame": found,
                    "distance": round(float(own[found]), 6),
                    "seconds": round(float(other.times_seconds[found]), 6),
                }
            )
            if len(nearest) == SHOWN_CLIPS:
                break
        place = self._names.index(clip_id)
        own = distances[self._starts[place] : self._starts[place + 1]]
        return {"distances": own.round(6).tolist(), "nearest": nearest}

    def phases(self, clip_id: str) -> Values:
        """Predicted phases beside labels, by the probe fitted on the run's training clips.

        Returns:
            "predicted" and "labels": numbers of phases of each frame; "probability" of the
            predicted one; "right": share of labelled frames, null where none is; "reason" in the
            place of all where there is no probe.
        """
        clip = self._clip(clip_id)
        with self._lock:
            if self._probes is None:
                self._probes = fit_probes(list(self._clips.values()))
        probe = self._probes.get(clip.action)
        if probe is None:
            action = clip.action or "(no name)"
            return {"reason": f"no training clip of {action} has two labelled phases or more"}
        shares = probe.probabilities(clip.embeddings)
        predicted = probe.fit.classes[shares.argmax(axis=1)]
        known = clip.labels >= 0
        right = float((predicted == clip.labels)[known].mean()) if known.any() else None
        return {
            "predicted": predicted.astype(int).tolist(),
            "labels": clip.labels.astype(int).tolist(),
            "probability": shares.max(axis=1).round(4).tolist(),
            "right": right,
        }

    def align(self, clip_id: str, other: str) -> Values:
        """The frame of another clip beside each frame of a clip, by dynamic time warping."""
        pair = align_pair(self._clip(clip_id), self._clip(other))
        agreement, tau = pair.phase_agreement, pair.tau
        return {
            "matches": pair.matches.tolist(),
            "tau": None if np.isnan(tau) else round(float(tau), 4),
            "agreement": None if np.isnan(agreement) else round(agreement, 4),
        }

    def attention(self, clip_id: str, frame: int) -> Values:
        """Where each entity looks in a frame.

        Returns:
            "entities": rows of columns of shares of the weight that is drawn brightest, the same
            over the clip.

        Raises:
            UsageError: a run without attention.
        """
        found = self._attended(clip_id)
        if not 0 <= frame < len(found.weights):
            raise UsageError(f"{clip_id} has frames 0 to {len(found.weights) - 1}, not {frame}")
        brightest = np.percentile(found.weights, BRIGHTEST, axis=(0, 2, 3), keepdims=True)
        shares = np.clip(found.weights[frame] / np.maximum(brightest[0], 1e-12), 0, 1)
        return {"entities": shares.round(4).tolist()}

    def _attended(self, clip_id: str) -> "ClipAttention":
        self._store.record(clip_id)
        with self._lock:  # torch's threads are one clip's at a time
            found = self._attention.get(clip_id)
            if found is None:
                from tokenreel.fuse.distributed.join import find_device
                from tokenreel.fuse.embed.attend import attend

                [made] = attend(self.path, self._store, [clip_id], device=find_device("auto"))
                if isinstance(made, ClipFailed):
                    raise made
                found = self._attention[clip_id] = made
                while len(self._attention) > MOST_ATTENTIONS:
                    del self._attention[next(iter(self._attention))]
        return found

    def _clip(self, clip_id: str) -> EmbeddedClip:
        clip, record = self._clips.get(clip_id), self._store.record(clip_id)
        if clip is None:
            raise ClipNotFound(f"{self.path} has no embedding of {clip_id}, which came later")
        if clip.num_frames != record.num_frames:
            raise UsageError(
                f"{self.path} embedded {clip.num_frames} frames of {clip_id}, the store has "
                f"{record.num_frames}: its video has changed since, so train the run again"
            )
        return clip
