"""`fuse export`: a run as one folder that whoever has torch can use.

program.pt2               pooling and fusion as a program of torch.export, its length dynamic
weights.safetensors       the tensors of the model by name
config.json               what was trained
identity.json             what a token is: backbone, weights, transform, frames, codec
calibration.safetensors   arrays of the codec, where it has any
probe.safetensors         a linear classifier of phases for each action, where clips have labels
README.md                 the card: what it is, what it takes and gives
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.codec import needs_calibration
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.files import make_directory, sync_directory, temporary_name, write_synced
from tokenreel.cache.format.identity import StoreIdentity, wrong_fields
from tokenreel.cache.format.store_files import load_arrays
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.runs.provenance import (
    describe_stores,
    read_config,
    read_provenance,
    require_same_tokens,
    stores_of,
)
from tokenreel.fuse.runs.run_folder import TOKENS, twin_of_store
from tokenreel.fuse.systems.base import require_portable
from tokenreel.pipeline.apply.explanation import stores_of_run
from tokenreel.pipeline.apply.probes import Probe, fit_probes
from tokenreel.pipeline.defaults import EMBEDDINGS
from tokenreel.pipeline.phases.training import Stores, joined

if TYPE_CHECKING:
    from tokenreel.fuse.embed.export import ExportedModel

CARD = """# {title}

A model that TokenReel (commit {version}) trained: `{system}` on the data set `{dataset}`,
seed {seed}.

```python
import torch

model = torch.export.load("program.pt2").module()
embeddings = model({call})
```

Inputs, float32, of T frames, 1 to {longest}:

{inputs}
Output: embeddings, float32 (T, C). {says}

`identity.json` says what a token is: backbone {backbone}, the SHA-256 of its weights
({weights}), the transform and the frames. Tokens that are made in any other way give embeddings
without meaning.{calibration}
{probe}"""

PROBE = """
`probe.safetensors` has a linear classifier of phases for each action, fitted on the training clips.
The phase of a frame is `classes[argmax(embedding @ weight.T + bias)]` of `ACTION/weight`,
`ACTION/bias` and `ACTION/classes`, where ACTION is:

{rows}
"""


@dataclass(frozen=True, eq=False)
class _Tokens:
    """What the tokens of a run are.

    Attributes:
        identities: of its stores, by name.
        calibration: arrays of the codec of the first.
        stores: themselves, where they are at hand.
    """

    identities: Mapping[str, StoreIdentity]
    calibration: Mapping[str, NDArray[Any]]
    stores: StoreSet | None = None

    @property
    def first(self) -> StoreIdentity:
        """That of the first store."""
        return next(iter(self.identities.values()))


def export_run(run: Path, out: Path, *, store: Stores | None = None) -> Path:
    """Write a run as a folder.

    Args:
        run: its folder.
        out: the new folder; it appears whole.
        store: the store or stores that the run was trained on, or others of the same backbone; when
            None, what the run's folder keeps of them, so that they may be gone.

    Raises:
        UsageError: `out` is there, a run that is not finished, a system without a program, or a run
            of an earlier version that lacks something of its store.
        WrongIdentity: a store of another backbone or weights.
    """
    if out.exists():
        raise UsageError(f"{out} is there: name a new folder with --out")
    provenance = read_provenance(run)
    if not (run / EMBEDDINGS).exists():
        raise UsageError(f"{run} has no {EMBEDDINGS}: type its `fuse train` again to finish it")
    config = read_config(run, provenance)
    require_portable(run, config)
    if store is None and config.uses_labels and not (run / "checkpoint.pt").exists():
        store = stores_of_run(run)  # whose phases are counted for the head of a loss
    tokens = _tokens_of(run, provenance, store)
    probes = fit_probes(read_embeddings(run / EMBEDDINGS).clips)
    from tokenreel.fuse.embed.export import export_model

    model = export_model(run, tokens.identities, stores=tokens.stores)
    identity, calibration = tokens.first, tokens.calibration
    files = {
        "program.pt2": model.program,
        "weights.safetensors": model.weights,
        "config.json": canonical_json(provenance["config"]),
        "identity.json": canonical_json(identity.model_dump(mode="json")),
        "README.md": _card(run, provenance, identity, model, probes, calibration).encode(),
    }
    if calibration:
        files["calibration.safetensors"] = _safetensors(calibration)
    if probes:
        files["probe.safetensors"] = _probe_file(probes)
    _write_folder(out, files)
    return out


def _tokens_of(run: Path, provenance: dict[str, Any], store: Stores | None) -> _Tokens:
    """What the tokens of a run are: of a given store, else as the run's folder keeps it.

    A run of a version that kept no empty store has the identity in its run.json, and takes the
    arrays of its codec, where it has any, from its store.
    """
    names = tuple(stores_of(provenance)) or (TOKENS,)
    kept = {name: twin_of_store(run, name, names) for name in names}
    if store is None and not all((twin / "recipe.json").exists() for twin in kept.values()):
        held = require_same_tokens(run, provenance)
        identities = {
            name: _recorded_identity(run, described)
            for name, described in (stores_of(held) or {TOKENS: held}).items()
        }
        codec = str(identities[names[0]].codec["name"])
        if not needs_calibration(codec):
            return _Tokens(identities, {})
        try:
            store = stores_of_run(run)
        except UsageError as error:
            raise UsageError(
                f"the version that trained {run} did not keep the arrays of its codec ({codec}); "
                f"{error}"
            ) from error
    stores = joined(store or kept)
    require_same_tokens(run, describe_stores(stores), of_new_clips=store is None)
    identities = {name: each.identity for name, each in stores.items()}
    calibration = load_arrays(stores.first.path / "calibration")
    return _Tokens(identities, calibration, None if store is None else stores)


def _recorded_identity(run: Path, described: Mapping[str, Any]) -> StoreIdentity:
    """The identity of a store as the run.json of a run has it.

    Raises:
        Damaged: it is none; the fields that are wrong.
    """
    try:
        return StoreIdentity.model_validate(described["store_identity"])
    except ValidationError as error:
        raise Damaged(
            f"{run / 'run.json'}: no identity of a store: {wrong_fields(error)}"
        ) from error


def _card(
    run: Path,
    provenance: Mapping[str, Any],
    identity: StoreIdentity,
    model: "ExportedModel",
    probes: Mapping[str, Probe],
    calibration: Mapping[str, Any],
) -> str:
    """The text of README.md; names from others stand in it as code."""
    sizes = {name: ", ".join(["T", *map(str, size)]) for name, size in model.inputs.items()}
    codec = (
        "\n`calibration.safetensors` has the arrays of its codec, "
        f"{_code(str(identity.codec.get('name')))}."
        if calibration
        else ""
    )
    probe = ""
    if probes:
        rows = "\n".join(
            f"- {_code(action)}: {', '.join(map(_code, own.phases)) or 'phases without names'}"
            for action, own in probes.items()
        )
        probe = PROBE.format(rows=rows)
    return CARD.format(
        title=_code(run.resolve().name),
        version=provenance.get("commit", "not recorded"),
        system=provenance["config"].get("system", "mvformer"),
        dataset=str(provenance.get("dataset", "")).replace("`", ""),
        seed=provenance.get("seed", 0),
        call=", ".join(f"{name}={name}" for name in sizes),
        longest=model.longest,
        inputs="".join(f"- `{name}` ({size})\n" for name, size in sizes.items()),
        says=model.says,
        backbone=_code(identity.architecture),
        weights=identity.weights_sha256,
        calibration=codec,
        probe=probe,
    )


def _code(text: str) -> str:
    """A text as Markdown's code, on one line."""
    return f"`{' '.join(text.replace('`', '').split())}`"


def _probe_file(probes: Mapping[str, Probe]) -> bytes:
    arrays: dict[str, NDArray[Any]] = {}
    for action, probe in probes.items():
        arrays[f"{action}/weight"] = probe.fit.weight
        arrays[f"{action}/bias"] = probe.fit.bias
        arrays[f"{action}/classes"] = probe.fit.classes
    return _safetensors(arrays)


def _safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def _write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder that appears with all of them."""
    make_directory(out.parent)
    beside = temporary_name(out)
    try:
        make_directory(beside)
        for name, data in files.items():
            write_synced(beside / name, data)
        os.rename(beside, out)  # noqa: PTH104  fails where another made it first
        sync_directory(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
