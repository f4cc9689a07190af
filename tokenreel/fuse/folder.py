"""The folder of a run: what the run is, who works in it, and whether it is done.

run.json         config, store, provenance: what the run is
lock.json        while a process works in it
checkpoint.pt    weights, optimiser, position; written whole
metrics.jsonl    one line an epoch
tensorboard/     the same, as curves
embeddings.h5    written last: a run that has it is done
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenreel.cache.claims import ClaimHeld, take_claim
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, EmbeddingFileError, UsageError, WrongRecipe
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.reader import Store
from tokenreel.cache.recipe import canonical_json, field_differences
from tokenreel.fuse.checkpoint import with_later_fields
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.needs import labelled_clips

__all__ = ["RunFolder", "RunLocked", "describe_run", "read_about", "read_config"]

log = logging.getLogger(__name__)

IDENTITY = ("config", "store_fingerprint", "store_clips_sha256", "init_sha256")
BEAT_SECONDS = 30.0
STALE_SECONDS = 3600.0  # a lock of another host that nobody touched for so long is dead


class RunLocked(ClaimHeld):
    """Another process works in the folder of the run."""


def describe_run(config: FuseConfig, store: Store, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of a run."""
    is_trained = config.model == "mvformer" and config.optim.epochs > 0
    has_weights = is_trained or config.model == "frozen" or config.init is not None
    about = {
        **provenance,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "model": config.model if has_weights else "untrained",
        "augmentation": _augmentation(config, store) if is_trained else _inherited(config),
        **describe_store(store),
        "layers": list(config.pooling.blocks or store.recipe.blocks),
    }
    if config.data.label_share < 1 and is_trained:
        drawn, every = (labelled_clips(config, store, x) for x in (config.data.label_share, 1.0))
        about["labelled_clips"] = f"{len(drawn)} of {len(every)}, drawn with seed {config.seed}"
    if config.init is not None:
        about["init_sha256"] = _init_digest(Path(config.init))
    return about


def _augmentation(config: FuseConfig, store: Store) -> str:
    """What was changed in the frames that a run trained on, in a few words for the tables."""
    tokens = config.augment.describe()
    if config.data.views == "clean":
        return tokens
    stored = f"{store.recipe.num_views - 1} stored view(s)"
    stored += " and the clean one" if config.data.views == "all" else ""
    return stored if tokens == "none" else f"{stored}; {tokens}"


def _inherited(config: FuseConfig) -> str:
    """The augmentation of the run whose weights are taken as they are; none without one."""
    if config.init is None or not (Path(config.init) / "run.json").exists():
        return "none"
    return str(read_about(Path(config.init)).get("augmentation", "none"))


def describe_store(store: Store) -> dict[str, Any]:
    """The part of a run's provenance that tells of its store."""
    return {
        "store_fingerprint": store.fingerprint,
        "store_clips_sha256": _clips_digest(store),
        "store_name": store.path.name,
        "dataset": store.made_with.get("dataset", ""),
        "weights": store.made_with.get("weights", ""),
        "backbone": store.recipe.architecture,
    }


def _clips_digest(store: Store) -> str:
    """Which clips the store holds; its fingerprint says how they were made, not which they are."""
    rows = [
        [record.clip_id, record.split, record.action, record.num_frames, record.source["sha256"]]
        for record in store.records.values()
    ]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def _init_digest(run: Path) -> str:
    path = run / "checkpoint.pt"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def read_about(run: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UsageError: it is not there.
        Damaged: it is torn, or something else.
    """
    path = run / "run.json"
    if not path.exists():
        raise UsageError(f"{run} is no run, it has no run.json: name a run's folder")
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: torn ({error}); delete the run and train again") from error
    if not isinstance(about, dict):
        raise Damaged(f"{path}: no description of a run, but {about!r}")
    return about


def read_config(run: Path, about: Mapping[str, Any]) -> FuseConfig:
    """The config that a run was trained with, as its run.json has it.

    Args:
        run: its folder.
        about: what its run.json says.

    Raises:
        Damaged: a config of another version, or none; the fields that are wrong, and what to do.
    """
    try:
        return FuseConfig.model_validate(about.get("config"))
    except ValidationError as error:
        rows = "\n".join(
            f"  {'.'.join(['config', *map(str, item['loc'])])}: {item['msg']}"
            for item in error.errors()
        )
        raise Damaged(
            f"{run / 'run.json'}: this version does not know the config of the run:\n{rows}\n"
            f"use the version that trained it (commit {about.get('commit', 'not recorded')}), or "
            "train it again with another --out"
        ) from error


@dataclass
class RunFolder:
    """A run's folder, locked while it is used as a context.

    Attributes:
        path: the folder.
        about: what the run is.
    """

    path: Path
    about: dict[str, Any]

    def __enter__(self) -> "RunFolder":
        """Lock the folder; a lock whose process is gone is broken.

        Raises:
            UsageError: it is a file.
            RunLocked: another process works in it.
            WrongRecipe: it holds another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, a run is a folder: use another --out")
        make_directory(self.path)
        try:
            self._lock = take_claim(
                self.path, "lock", owner="a process", expiry_seconds=STALE_SECONDS
            )
        except ClaimHeld as error:
            raise RunLocked(
                f"{self.path} is in use ({error}): wait for it, or use another --out"
            ) from error
        self._beaten = time.monotonic()
        try:
            self._compare()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock."""
        self._lock.release()

    def beat(self) -> None:
        """Say that the process lives; cheap enough for every step."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._lock.beat()
            self._beaten = time.monotonic()

    @property
    def embeddings(self) -> Path:
        """The embedding file."""
        return self.path / "embeddings.h5"

    def is_done(self) -> bool:
        """Whether the embedding file is there, whole, and of this run.

        Raises:
            WrongRecipe: it belongs to another run.
        """
        if not self.embeddings.exists():
            return False
        try:
            found = read_embeddings(self.embeddings).provenance
        except EmbeddingFileError as error:
            log.warning("%s: embedding again", error)
            return False
        self._require(found, self.embeddings)
        return True

    def _compare(self) -> None:
        path = self.path / "run.json"
        if path.exists():
            self._require(read_about(self.path), self.path)
        else:
            write_whole(path, canonical_json(self.about))

    def _require(self, former: Mapping[str, Any], where: Path) -> None:
        held = {key: former.get(key) for key in IDENTITY}
        held["config"] = with_later_fields(held["config"])
        rows = field_differences(held, {key: self.about.get(key) for key in IDENTITY})
        if rows:
            table = "\n".join(
                f"  {name}: run has {here!r}, asked {there!r}" for name, here, there in rows
            )
            raise WrongRecipe(f"{where} holds another run:\n{table}\nuse another --out")
