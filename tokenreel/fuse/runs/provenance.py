"""Provenance of a run: run.json, and whether the model of a run can read a store."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenreel.cache.canonical import canonical_json, field_differences, read_json
from tokenreel.cache.embeddings import with_current_names
from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity, limit_behind
from tokenreel.cache.provenance import (
    STORE_PATH,
    describe_fingerprints,
    names_same_store,
    store_changes,
)
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.base import as_typed
from tokenreel.fuse.config.registry import DEFAULT, config_class, parse_config
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.requirements import actions_of, labelled_clips, training_clips

log = logging.getLogger(__name__)

BACKBONE = ("architecture", "weights_sha256")  # of a store's identity: what tokens mean
PREPROCESSING = ("image_size", "transform", "frames", "unit", "rows_per_window")
FRAMES = {"unit": "frame", "frames_per_window": 1, "rows_per_window": 1}  # of runs before format 2


def describe_run(
    config: SystemConfig, stores: StoreSet, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What run.json says of a run."""
    is_trained = config.is_trained
    described = {
        **provenance,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "model": config.system if is_trained or config.first_runs else "untrained",
        **describe_stores(stores),
        **config.describe(stores),
    }
    if not is_trained:
        described["augmentation"] = _inherited(config)
    store = stores.first
    if config.data.label_share < 1 and is_trained:
        drawn, every = (labelled_clips(config, store, x) for x in (config.data.label_share, 1.0))
        described["labelled_clips"] = f"{len(drawn)} of {len(every)}, drawn with seed {config.seed}"
    if config.uses_labels and is_trained:
        described["labels_sha256"] = _labels_digest(store)
    if config.uses_tags:
        described["class_names"] = sorted({t for r in store.records.values() for t in r.tags})
        if is_trained:
            described["labels_sha256"] = _tags_digest(store)
    if config.uses_actions:
        described["class_names"] = list(actions_of(store))
        if is_trained:
            described["labels_sha256"] = _actions_digest(store)
    drawn_clips = (config.data.num_train_clips, config.data.clips_per_action)
    if drawn_clips != (None, None) and is_trained:
        described["training_clips"] = [r.clip_id for r in training_clips(config, store)]
    if config.init is not None:
        described["init_sha256"] = checkpoint_digest(Path(config.init))
    return described


def _inherited(config: SystemConfig) -> str:
    """The augmentation of the run whose weights are taken as they are; none without one."""
    if config.init is None or not (Path(config.init) / "run.json").exists():
        return "none"
    return str(read_provenance(Path(config.init)).get("augmentation", "none"))


def describe_stores(stores: StoreSet) -> dict[str, Any]:
    """The part of a run's provenance that tells of its stores; of each by name where several."""
    provenance = describe_store(stores.first)
    if len(stores) > 1:
        provenance["stores"] = {
            name: {
                key.removeprefix("store_"): value for key, value in describe_store(store).items()
            }
            for name, store in stores.items()
        }
    return provenance


def describe_store(store: Store) -> dict[str, Any]:
    """The part of a run's provenance that tells of its store."""
    return {
        **describe_fingerprints(store.fingerprint, store.facts.former_fingerprints),
        "store_clips_sha256": store.clips_sha256,
        "store_labels_sha256": store.labels_sha256,
        "store_name": store.path.name,
        "dataset": store.made_with.get("dataset", ""),
        "weights": store.made_with.get("weights", ""),
        "backbone": store.identity.architecture,
        "store_identity": store.identity.model_dump(mode="json"),
    }


def _labels_digest(store: Store) -> str:
    """What the training clips are labelled as."""
    digest = hashlib.sha256()
    for record in store.select(split="train"):
        digest.update(canonical_json([record.clip_id, record.phases]))
        digest.update(store.labels(record.clip_id).tobytes())
    return digest.hexdigest()


def _tags_digest(store: Store) -> str:
    """What the training clips are tagged as."""
    tags = [[record.clip_id, record.tags] for record in store.select(split="train")]
    return hashlib.sha256(canonical_json(tags)).hexdigest()


def _actions_digest(store: Store) -> str:
    """The actions of the training clips."""
    actions = [[record.clip_id, record.action] for record in store.select(split="train")]
    return hashlib.sha256(canonical_json(actions)).hexdigest()


def checkpoint_digest(run: Path) -> str:
    """SHA-256 of the checkpoint of a run, "" without one."""
    path = run / "checkpoint.pt"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def read_provenance(run: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UsageError: it is not there.
        Damaged: it is torn, or something else.
    """
    path = run / "run.json"
    if not path.exists():
        raise UsageError(f"{run} is no run, it has no run.json: name a run's folder")
    try:
        provenance = read_json(path.read_bytes())
    except (OSError, ValueError) as error:
        if limit := limit_behind(error):
            raise limit from error
        raise Damaged(f"{path}: torn ({error}); delete the run and train again") from error
    if not isinstance(provenance, dict):
        raise Damaged(f"{path}: no description of a run, but {provenance!r}")
    provenance.pop(STORE_PATH, None)  # of this machine: see pipeline.defaults.store_of_run
    return with_current_names(provenance, where=path)


def require_same_tokens(
    run: Path, there: Mapping[str, Any], *, of_new_clips: bool = False
) -> dict[str, Any]:
    """What run.json says of a run, if its model can read the tokens of a store.

    A file name says little of weights: their hash is compared.

    Args:
        run: its folder.
        there: what :func:`describe_store` says of the store.
        of_new_clips: the store was made for clips that the run does not know; otherwise what has
            changed in the run's own store is logged.

    Raises:
        WrongIdentity: tokens of another backbone, or of other weights; the fields that differ.
        Damaged: a run of a version that did not record what its tokens were.
    """
    provenance = read_provenance(run)
    lacks = {"config", "blocks", "store_identity", "store_fingerprint"} - provenance.keys()
    if lacks:
        raise Damaged(
            f"{run / 'run.json'}: no {', '.join(sorted(lacks))}; use the version that trained it "
            f"(commit {provenance.get('commit', 'not recorded')}), or train it again"
        )
    held, asked = stores_of(provenance), stores_of(there)
    if held.keys() != asked.keys():
        raise UsageError(
            f"{run} reads {_named(held)}, given {_named(asked)}: give "
            + (" ".join(f"--store {name}=PATH" for name in held) or "one --store PATH")
        )
    _require_same_tokens(run, provenance, there)
    if not of_new_clips:
        _warn_of_changes(run, provenance, there)
    for name, store in held.items():
        _require_same_tokens(run, store, asked[name])
    return provenance


def stores_of(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a provenance says of each of several stores, as :func:`describe_store` says it."""
    return {
        name: store | {f"store_{key}": value for key, value in store.items()}
        for name, store in provenance.get("stores", {}).items()
    }


def _named(stores: Mapping[str, Any]) -> str:
    return f"the stores {', '.join(stores)}" if stores else "one store"


def _require_same_tokens(
    run: Path, provenance: Mapping[str, Any], there: Mapping[str, Any]
) -> None:
    """Of one store of a run, and one that it is to read."""
    held, asked = (
        {key: of["store_identity"][key] for key in BACKBONE} for of in (provenance, there)
    )
    rows = field_differences(held, asked)
    if rows:
        held, asked = ({"weights": of.get("weights", "")} for of in (provenance, there))
        table = "\n".join(
            f"  {name}: run has {here!r}, store has {other!r}"
            for name, here, other in [*rows, *field_differences(held, asked)]
        )
        raise WrongIdentity(
            f"{run} was trained on other tokens than {there['store_name']} holds:\n{table}\n"
            "name a store of the same backbone and weights"
        )
    changed = [
        name
        for name, _, _ in field_differences(
            FRAMES | provenance["store_identity"], FRAMES | there["store_identity"]
        )
        if name.startswith(PREPROCESSING)
    ]
    if changed:
        log.warning(
            "%s was trained on frames prepared in another way than those of %s: %s",
            run,
            there["store_name"],
            ", ".join(changed),
        )


def _warn_of_changes(run: Path, provenance: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Say what changed in the store of a run since: its clips, or their labels."""
    if not names_same_store(provenance, there):
        return
    for what in store_changes(provenance, there):
        log.warning("%s: since it was trained, %s has %s", run, there["store_name"], what)


def require_init(provenance: Mapping[str, Any]) -> None:
    """Refuse, before there is a folder, to begin from what has no weights or read other tokens."""
    config = parse_config(provenance["config"])
    for run in map(Path, config.first_runs):
        if not (run / "checkpoint.pt").is_file():
            raise UsageError(
                f"init={run}: no {run / 'checkpoint.pt'}; name the folder of a trained run"
            )
        config.require_init(require_same_tokens(run, provenance), provenance)


def read_config(run: Path, provenance: Mapping[str, Any]) -> SystemConfig:
    """The config that a run was trained with, as its run.json has it.

    Args:
        run: its folder.
        provenance: what its run.json says.

    Raises:
        UsageError: it trained nothing; the command that made of its frozen features what it did.
        Damaged: a config of another version, or none; the fields that are wrong, and what to do.
    """
    config = provenance.get("config")
    if isinstance(config, dict) and config.get("model") == "frozen":
        raise UsageError(
            f"{run} is of model=frozen, which trains nothing: type `evaluate frozen STORE`; the "
            f"embeddings that it has are evaluated as before, `evaluate all {run}`"
        )
    try:
        return parse_config(_as_fields(config))
    except ValidationError as error:
        kind = config_class(str(_as_fields(config).get("system", DEFAULT)))
        rows = "\n".join(
            f"  {'.'.join(['config', *as_typed(kind, item['loc'])])}: {item['msg']}"
            for item in error.errors()
        )
        raise Damaged(
            f"{run / 'run.json'}: this version does not know the config of the run:\n{rows}\n"
            f"use the version that trained it (commit {provenance.get('commit', 'not recorded')}), "
            "or train it again with another --out"
        ) from error


def _as_fields(config: Any) -> dict[str, Any]:
    """What is no group of fields at all as a field that no config has."""
    return config if isinstance(config, dict) else {"config": config}


def with_later_fields(config: Any) -> Any:
    """A config as this version would write it: the default of a new field is what was before it.

    A config that this version does not know stays as it is, and differs from all others.
    """
    try:
        return parse_config(_as_fields(config)).model_dump(mode="json")
    except (ValidationError, UsageError):
        return config
