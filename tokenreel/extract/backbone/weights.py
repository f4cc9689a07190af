"""Weights of a backbone: from timm, from a file, or random from a seed; and their hash."""

import difflib
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.cache.errors import UsageError

__all__ = ["HEADS", "load_weights", "weights_label", "weights_sha256"]

log = logging.getLogger(__name__)

HEADS = ("head.", "fc.", "head_dist.", "fc_norm.", "classifier.")  # never run, so never hashed
WRAPPERS = ("teacher", "state_dict", "model")  # keys that hold the tensors in common checkpoints
PREFIXES = ("module.", "backbone.")


def weights_label(weights: str) -> str:
    """Name of the weights for people: the word itself, or the name of the file."""
    if weights == "pretrained" or weights.startswith("random:"):
        return weights
    return Path(weights).name


def load_weights(backbone: str, weights: str) -> dict[str, torch.Tensor]:
    """The tensors of a backbone by name, without those of its classifier.

    Args:
        backbone: timm name.
        weights: "pretrained", "random:SEED", or the path of a safetensors or torch file.

    Raises:
        UsageError: no such backbone, word, file or download; the message names what else there is.
    """
    _require_known(backbone)
    if weights == "pretrained":
        state = _pretrained(backbone)
    elif weights.startswith("random:"):
        state = _random(backbone, _seed(weights))
    else:
        state = _read_file(Path(weights))
    return {name: value for name, value in sorted(state.items()) if not name.startswith(HEADS)}


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of each tensor, in order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_known(backbone: str) -> None:
    import timm

    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=3, cutoff=0.5)
        raise UsageError(f"backbone={backbone!r} is no model of timm; near names: {near}")


def _seed(weights: str) -> int:
    text = weights.removeprefix("random:")
    if not text.isdecimal():
        raise UsageError(f"weights={weights!r}: write random:SEED with a whole number, random:0")
    return int(text)


def _pretrained(backbone: str) -> dict[str, torch.Tensor]:
    import timm

    log.info("pretrained weights of %s: timm downloads them the first time", backbone)
    hub = logging.getLogger("huggingface_hub")
    former = hub.level
    hub.setLevel(logging.ERROR)  # it logs each retry, twice; the error below says it once
    try:
        model = timm.create_model(backbone, pretrained=True, num_classes=0)
    except Exception as error:  # timm and the hub raise dozens of kinds for "no network"
        raise UsageError(
            f"weights=pretrained: timm could not load {backbone} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "without a network give weights=FILE (safetensors or torch), "
            "or weights=random:SEED for untrained weights"
        ) from error
    finally:
        hub.setLevel(former)
    return dict(model.state_dict())


def _random(backbone: str, seed: int) -> dict[str, torch.Tensor]:
    """Weights that depend on the seed and the shapes only, not on the version of torch.

    Matrices are normal with variance 1 / fan_in, which keeps attention and the residual stream
    alive at any depth; embeddings 1, so that a token knows its place as a trained one does;
    scales 1; offsets 0.
    """
    import timm

    with torch.device("meta"):
        shapes = timm.create_model(backbone, pretrained=False, num_classes=0).state_dict()
    generator = np.random.Generator(np.random.PCG64(seed))
    state = {}
    for name, like in sorted(shapes.items()):
        shape = tuple(like.shape)
        if not like.dtype.is_floating_point:
            state[name] = torch.zeros(shape, dtype=like.dtype)
        elif name.endswith(("_embed", "_token")):
            state[name] = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        elif len(shape) >= 2:
            scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
            values = generator.standard_normal(shape, dtype=np.float32) * scale
            state[name] = torch.from_numpy(values)
        else:
            ones = name.endswith(("weight", "gamma", "running_var"))
            state[name] = torch.full(shape, 1.0 if ones else 0.0)
    return state


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UsageError(
            f"weights={str(path)!r}: no such file; weights is a safetensors or torch file, "
            "pretrained, or random:SEED"
        )
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises KeyError, EOFError, UnpicklingError, RuntimeError
        first = str(error).split(". ")[0]  # torch goes on with advice to run what the file holds
        raise UsageError(f"weights={str(path)!r} is not a file of tensors: {first}") from error
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise UsageError(f"weights={str(path)!r} holds {type(loaded).__name__}, not named tensors")
    return {_bare(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
