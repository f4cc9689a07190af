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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import make_directory, sync_directory, temporary_name, write_synced
from tokenreel.cache.format.store_files import load_arrays
from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.pipeline.apply.probes import Probe, fit_probes
from tokenreel.pipeline.defaults import EMBEDDINGS, require_store_of_run
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

Inputs, float32, T rows, 1 to {longest}:

{inputs}
It gives embeddings, float32 (T, C). {says}

What a token is stands in `identity.json`: backbone {backbone}, the SHA-256 of its weights
({weights}), the transform and the frames. Tokens made in any other way give embeddings that mean
nothing.{calibration}
{probe}"""

PROBE = """
`probe.safetensors` has a linear classifier of phases for each action, fitted on the training clips.
The phase of a frame is `classes[argmax(embedding @ weight.T + bias)]` of `ACTION/weight`,
`ACTION/bias` and `ACTION/classes`, where ACTION is:

{rows}
"""


def export_run(run: Path, out: Path, *, store: Stores | None = None) -> Path:
    """Write a run as a folder.

    Args:
        run: its folder.
        out: the new folder; it appears whole.
        store: the store or stores that the run was trained on, where they were when None.

    Raises:
        UsageError: `out` is there, a run that is not finished, or a system without a program.
        WrongIdentity: a store of another backbone or weights.
    """
    if out.exists():
        raise UsageError(f"{out} is there: name a new folder with --out")
    provenance = read_provenance(run)
    stores = joined(require_store_of_run(run, provenance) if store is None else store)
    if not (run / EMBEDDINGS).exists():
        raise UsageError(f"{run} has no {EMBEDDINGS}: type its `fuse train` again to finish it")
    probes = fit_probes(read_embeddings(run / EMBEDDINGS).clips)
    from tokenreel.fuse.embed.export import export_model

    model = export_model(run, stores)
    calibration = load_arrays(stores.first.path / "calibration")
    files = {
        "program.pt2": model.program,
        "weights.safetensors": model.weights,
        "config.json": canonical_json(provenance["config"]),
        "identity.json": canonical_json(stores.first.identity.model_dump(mode="json")),
        "README.md": _card(run, provenance, stores.first, model, probes, calibration).encode(),
    }
    if calibration:
        files["calibration.safetensors"] = _safetensors(calibration)
    if probes:
        files["probe.safetensors"] = _probe_file(probes)
    _write_folder(out, files)
    return out


def _card(
    run: Path,
    provenance: Mapping[str, Any],
    store: Store,
    model: "ExportedModel",
    probes: Mapping[str, Probe],
    calibration: Mapping[str, Any],
) -> str:
    """The text of README.md; names from others stand in it as code."""
    identity = store.identity
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
