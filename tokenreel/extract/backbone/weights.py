"""Weights of a backbone: from timm, from a file, or random from a seed; and their hash."""

import difflib
import functools
import hashlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.weight_files import read_model_config, read_tensor_groups
from tokenreel.extract.backbone.weight_fit import Candidate, choose, default_group, require_config
from tokenreel.extract.backbone.weight_names import HEADS, NORM_EPS, wanted_shapes

log = logging.getLogger(__name__)

PATCH = "patch_embed.proj.weight"
EARLIER_PREFIXES = ("module.", "backbone.")


def weights_label(weights: str, key: str | None = None) -> str:
    """Name of the weights for people: the word itself, or the name of the file and the key in it.

    >>> weights_label("runs/checkpoint.pth", "student")
    'checkpoint.pth:student'
    """
    if _is_word(weights):
        return weights
    name = Path(weights).name or Path(weights).resolve().name
    return name if key is None else f"{name}:{key}"


def load_weights(backbone: str, weights: str, key: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a backbone by the names of timm's model, without those of its classifier.

    Args:
        backbone: timm name.
        weights: "pretrained", "random:SEED", or the path of a file or folder of weights in one of
            the forms of weight_names.
        key: which tensors of a file that holds several sets; see weight_fit.choose.

    Raises:
        UsageError: no such backbone, word, file or download, or none that fits; the message names
            what else there is.
    """
    _require_known(backbone)
    if key is not None and _is_word(weights):
        raise UsageError(f"weights_key={key!r} chooses within a file; weights={weights} is none")
    if weights == "pretrained":
        state = _pretrained(backbone)
    elif weights.startswith("random:"):
        seed = seed_of(weights)
        state = random_state(_architecture(backbone).state_dict(), seed)
    else:
        state = _from_file(backbone, Path(weights), key)
    return {name: value for name, value in sorted(state.items()) if not name.startswith(HEADS)}


def check_weights(backbone: str, weights: str, key: str | None = None) -> None:
    """Refuse weights that cannot be loaded, without a download.

    Raises:
        UsageError: as load_weights.
    """
    if weights == "pretrained" and key is None:
        _require_known(backbone)
    elif weights.startswith("random:") and key is None:
        _require_known(backbone)
        seed_of(weights)
    else:
        load_weights(backbone, weights, key)


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
        raise UsageError(
            f"backbone={backbone!r} is no model of timm; near names: {near}; packages add families "
            "by the entry point tokenreel.backbones, named FAMILY:NAME"
        )


def seed_of(weights: str) -> int:
    """The seed of "random:SEED"."""
    text = weights.removeprefix("random:")
    if not is_whole_number(text):
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


def random_state(shapes: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Weights that depend on the seed and the shapes only, not on the version of torch.

    Matrices are normal with variance 1 / fan_in, which keeps attention and the residual stream
    alive at any depth; embeddings 1, so that a token knows its place as a trained one does;
    scales 1; offsets 0.
    """
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


def _is_word(weights: str) -> bool:
    return weights == "pretrained" or weights.startswith("random:")


def _from_file(backbone: str, path: Path, key: str | None) -> dict[str, torch.Tensor]:
    groups = read_tensor_groups(path)
    model = _architecture(backbone)
    try:
        chosen, others = choose(groups, model, backbone, key=key)
    except UsageError as error:
        state = None if key is not None else _through_timm(backbone, groups)
        if state is None:
            raise UsageError(f"weights={str(path)!r}: {error}") from None
        _require_numbers(state, model, path)
        return state
    _require_numbers(chosen.renamed.state, model, path)
    _log_choice(path, chosen, others)
    # a mapped file may change later; clones are of the tensors that are kept only
    state = {name: value.clone() for name, value in chosen.renamed.state.items()}
    if chosen.renamed.form.name != "timm":
        config = read_model_config(path)
        require_config(config, model, backbone)
        state |= _norm_eps(config, model, path)
    return state


def _norm_eps(config: Mapping[str, Any], model: Any, path: Path) -> dict[str, torch.Tensor]:
    """The epsilon of layer norms that config.json tells, as a tensor; none where it is timm's.

    Hugging Face's ViT has 1e-12 where timm's has 1e-6.  It is hashed, as tokens depend on it.
    """
    given, own = config.get("layer_norm_eps"), getattr(getattr(model, "norm", None), "eps", None)
    if not isinstance(given, float) or not 0 < given < 1 or own is None or given == own:
        return {}
    _say_once(f"weights {path.name}: layer norms add {given:g} as config.json says, not {own:g}")
    return {NORM_EPS: torch.tensor(given, dtype=torch.float64)}


@functools.lru_cache(maxsize=8)
def _architecture(backbone: str) -> Any:
    """The model of timm without memory for its weights, to be read only."""
    import timm

    with torch.device("meta"):
        return timm.create_model(backbone, pretrained=False, num_classes=0)


def _require_numbers(state: Mapping[str, torch.Tensor], model: Any, path: Path) -> None:
    """Refuse what the backbone would compute with as other numbers than were trained.

    Codes of quantised weights are whole numbers without the scales that belong to them.
    """
    wanted = model.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            if name not in wanted or not wanted[name].is_floating_point():
                continue
            kind = str(value.dtype).removeprefix("torch.")
            raise UsageError(
                f"weights={str(path)!r}: {name} is {kind}, not floating point: quantised weights "
                "are not read; give those before quantisation"
            )
        if not bool(torch.isfinite(value.to(torch.float32)).all()):
            raise UsageError(
                f"weights={str(path)!r}: {name} holds NaN or infinity, or numbers beyond float32: "
                "damaged weights"
            )


def _log_choice(path: Path, chosen: Candidate, others: list[Candidate]) -> None:
    """One line of what was taken and what was not; none for a plain file of timm's names."""
    dropped = chosen.renamed.dropped
    words = [f"names of {chosen.renamed.form.name}" if chosen.renamed.form.name != "timm" else ""]
    words.append(f"from {chosen.path}" if chosen.path else "")
    if others:
        words.append(f"weights_key={others[0].path} takes the others that fit")
    if dropped:
        words.append(f"{len(dropped)} tensors not used ({', '.join(sorted(dropped)[:3])})")
    said = "; ".join(word for word in words if word)
    if said:
        _say_once(f"weights {path.name}: {said}")


@functools.cache
def _say_once(message: str) -> None:
    """Log a line once a process: weights are read for their hash, then for the model."""
    log.info(message)


def _through_timm(
    backbone: str, groups: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor] | None:
    """Tensors in a form that only timm's own filter of the model knows; None unless they fit.

    They keep the names of the file, for the filter runs again when the model is loaded.
    """
    state = _earlier_names(groups)
    model = _architecture(backbone)
    filtering = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    wanted = wanted_shapes(model)
    patches = wanted.get(PATCH)
    resized = any(
        value.ndim == 4 and tuple(value.shape) != patches
        for name, value in state.items()
        if name.endswith(PATCH)
    )  # the filter would interpolate them
    if filtering is None or not state or resized:
        return None
    try:
        found = filtering(dict(state), model)
    except Exception:  # of a form that it does not know: any kind
        return None
    shapes = {name: tuple(value.shape) for name, value in found.items() if name in wanted}
    return state if shapes == wanted and found.keys() <= wanted.keys() else None


def earlier_sha256(weights: str, key: str | None = None) -> str | None:
    """The hash that releases before names were unified gave a file; None for what they refused.

    They kept the names of the file and every tensor but a classifier's: a mask token counted.

    Args:
        weights: as load_weights.
        key: as load_weights; they had none.
    """
    if _is_word(weights) or key is not None or not Path(weights).is_file():
        return None
    state = _earlier_names(read_tensor_groups(Path(weights)))
    return weights_sha256(state) if state else None


def _earlier_names(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in groups.get(default_group(groups), {}).items():
        for prefix in EARLIER_PREFIXES:
            name = name.removeprefix(prefix)
        if not name.startswith(HEADS):
            state[name] = value
    return state
