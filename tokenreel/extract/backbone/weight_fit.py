"""Which tensors of a checkpoint are a backbone's: found by name and checked, or refused."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.weight_names import FORMS, Renamed, rename, wanted_shapes

log = logging.getLogger(__name__)

WRAPPERS = ("teacher", "state_dict", "model")  # dictionaries that are opened by themselves
SIZES = {
    192: ("tiny", "Ti"),
    256: ("xsmall", "XS"),
    384: ("small", "S"),
    768: ("base", "B"),
    1024: ("large", "L"),
    1152: ("so400m", "So400m"),
    1280: ("huge", "H"),
    1408: ("giant", "g"),
    1536: ("giant", "g"),
    1664: ("gigantic", "G"),
    4096: ("7b", "7B"),
}
FAMILIES = (  # timm's names of the backbones that checkpoints are of
    "vit_{size}_patch{patch}_224",
    "vit_{size}_patch{patch}_dinov2",
    "vit_{size}_patch{patch}_reg4_dinov2",
    "vit_{size}_patch{patch}_dinov3",
    "vit_{size}_patch{patch}_dinov3_qkvb",
    "vit_{size}_plus_patch{patch}_dinov3",
    "vit_{size}_patch{patch}_clip_224",
    "vit_{size}_patch{patch}_siglip_224",
    "deit_{size}_distilled_patch{patch}_224",
)
SHOWN = 3  # names of a list in a message
PATCH = "patch_embed.proj.weight"
ACTIVATIONS = {  # of a Hugging Face config: the class of timm
    "gelu": "GELU",
    "gelu_python": "GELU",
    "quick_gelu": "QuickGELU",
    "gelu_new": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "silu": "SiLU",
    "swish": "SiLU",
    "relu": "ReLU",
}
CLOSE = ("GELU", "GELUTanh")  # the second is an approximation of the first


@dataclass(frozen=True)
class Candidate:
    """Tensors of a checkpoint that may be a backbone's.

    Attributes:
        path: dotted path of dictionaries and prefixes above them, "" for the outermost.
        group: that of the dictionary alone.
        renamed: under timm's names.
        missing: names of the model that are not there.
        reshaped: (name, shape in the file, shape in the model) of those that differ.
    """

    path: str
    group: str
    renamed: Renamed
    missing: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def fits(self) -> bool:
        """Whether each tensor of the model is there, of its shape, and nothing is left over."""
        found = self.renamed
        return not (self.missing or self.reshaped or found.left or found.problems)

    @property
    def distance(self) -> int:
        """Number of tensors that do not fit."""
        return len(self.missing) + len(self.reshaped) + len(self.renamed.left)

    @property
    def segments(self) -> list[str]:
        """Parts of the path."""
        return self.path.split(".")


def choose(
    groups: Mapping[str, Mapping[str, Tensor]], model: Any, backbone: str, *, key: str | None
) -> tuple[Candidate, list[Candidate]]:
    """The tensors of a backbone among those of a file.

    Of several that fit, a teacher comes before its student, and the dictionaries "teacher",
    "state_dict" and "model" before others; weights_key chooses otherwise.

    Args:
        groups: tensors by dictionary and name, as weight_files reads them.
        model: of timm, on the device "meta".
        backbone: its name, for messages.
        key: of the config: a part of the path of the wanted tensors, "student" say; or None.

    Returns:
        The choice, and the others that fit.

    Raises:
        UsageError: none fits, or several fit equally well.
    """
    candidates = list(_candidates(groups, model))
    if key is not None:
        named = [c for c in candidates if c.path == key]
        named = named or [c for c in candidates if _contains(c.segments, key.split("."))]
        if not named:
            known = ", ".join(sorted({c.path or "(the outermost)" for c in candidates}))
            raise UsageError(
                f"weights_key={key!r} names no tensors of a backbone; there are {known}"
            )
        candidates = named
    fitting = [c for c in candidates if c.fits]
    if not fitting:
        raise UsageError(_explain(groups, candidates, model, backbone))
    default = default_group(groups)
    ranks = [(c.group != default, "teacher" not in c.segments) for c in fitting]
    best = [c for c, rank in zip(fitting, ranks, strict=True) if rank == min(ranks)]
    chosen = best[0]
    if any(not _same(chosen, other) for other in best[1:]):
        ways = " or ".join(f"weights_key={c.path}" for c in best)
        raise UsageError(f"{len(best)} sets of tensors fit {backbone}; choose one: {ways}")
    return chosen, [c for c in fitting if c is not chosen and not _same(chosen, c)]


def default_group(groups: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The dictionary that is opened without being named: the wrappers, each within the last."""
    path = ""
    for word in WRAPPERS:
        inner = f"{path}.{word}" if path else word
        if any(name == inner or name.startswith(f"{inner}.") for name in groups):
            path = inner
    return path


def require_config(config: Mapping[str, Any], model: Any, backbone: str) -> None:
    """Refuse weights whose config.json names numbers that tensors do not show, and are others.

    Args:
        config: of the vision model, as weight_files reads it.
        model: of timm.
        backbone: its name.

    Raises:
        UsageError: heads, activation or base of the rotary positions differ.
    """
    block = next(iter(getattr(model, "blocks", [])), None)
    heads = getattr(getattr(block, "attn", None), "num_heads", None)
    given = config.get("num_attention_heads")
    if isinstance(given, int) and heads is not None and heads != given:
        raise UsageError(
            f"config.json beside the weights says {given} heads of attention, {backbone} has "
            f"{heads}: choose the backbone that the weights were trained as"
        )
    _require_rotary_base(config, model, backbone)
    act = type(getattr(getattr(block, "mlp", None), "act", None)).__name__
    word = str(config.get("hidden_act") or "")
    wanted = ACTIVATIONS.get(word, word)
    if not word or act not in ACTIVATIONS.values() or wanted == act:
        return
    said = f"config.json beside the weights says hidden_act={word}"
    if act in CLOSE and wanted in CLOSE:
        log.warning("%s; %s computes %s, which differs by about 1e-3", said, backbone, act)
        return
    other = _other_activation(backbone) if "QuickGELU" in (act, wanted) else ""
    raise UsageError(f"{said}, {backbone} computes {act}{other}")


def _require_rotary_base(config: Mapping[str, Any], model: Any, backbone: str) -> None:
    """Refuse rotary positions of another base, which no tensor shows."""
    inner = config.get("rope_parameters")
    given = (inner if isinstance(inner, dict) else config).get("rope_theta")
    own = getattr(getattr(model, "rope", None), "temperature", None)
    if isinstance(given, int | float) and own is not None and float(given) != float(own):
        raise UsageError(
            f"config.json beside the weights says rope_theta={given:g}, the base of rotary "
            f"positions, {backbone} has {own:g}"
        )


def _other_activation(backbone: str) -> str:
    """Advice to take the backbone's twin with the other activation, where timm has one."""
    import timm

    plain = backbone.split(".")[0]
    quick = re.sub(r"_clip_", "_clip_quickgelu_", plain)
    other = plain.replace("_quickgelu", "") if "_quickgelu" in plain else quick
    return f"; try backbone={other}" if other != plain and timm.is_model(other) else ""


def _contains(segments: Sequence[str], part: Sequence[str]) -> bool:
    width = len(part)
    starts = range(len(segments) - width + 1)
    return any(list(segments[i : i + width]) == list(part) for i in starts)


def _candidates(groups: Mapping[str, Mapping[str, Tensor]], model: Any) -> Iterator[Candidate]:
    wanted = wanted_shapes(model)
    for group, tensors in groups.items():
        for form in FORMS:
            for prefix in form.prefixes(tensors):
                renamed = rename(tensors, form, prefix, model)
                state = renamed.state
                missing = tuple(
                    sorted(
                        name
                        for name in wanted.keys() - state.keys()
                        if not name.endswith("num_batches_tracked")
                    )
                )
                reshaped = tuple(
                    (name, tuple(value.shape), wanted[name])
                    for name, value in sorted(state.items())
                    if not _is_alike(name, tuple(value.shape), wanted[name])
                )
                path = ".".join(part for part in (group, prefix.rstrip(".")) if part)
                yield Candidate(path, group, renamed, missing, reshaped)


def _is_alike(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor can be loaded; positions are interpolated, flat patches unfolded."""
    if name == "pos_embed" and len(given) == len(wanted) == 3:
        return given[::2] == wanted[::2]
    if name == PATCH and len(given) == 2:
        return given[0] == wanted[0] and given[1] == torch.Size(wanted[1:]).numel()
    return given == wanted


def _same(one: Candidate, other: Candidate) -> bool:
    a, b = one.renamed.state, other.renamed.state
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def _explain(
    groups: Mapping[str, Mapping[str, Tensor]],
    candidates: Sequence[Candidate],
    model: Any,
    backbone: str,
) -> str:
    """One line: how the nearest candidate differs from the backbone, and what to try."""
    if not candidates:
        names = [name for tensors in groups.values() for name in tensors]
        held = f"{len(names)} tensors, {_first(names)}" if names else "no named tensors"
        forms = ", ".join(form.name for form in FORMS)
        return (
            f"the names are not those of a backbone ({held}); known are the names of {forms}, "
            "also below prefixes"
        )
    near = min(candidates, key=lambda c: c.distance)
    parts = []
    size = _size(near.renamed.state)
    if size is not None and hasattr(model, "blocks"):
        parts += _sizes_that_differ(groups[near.group], size, model, backbone)
    parts += near.renamed.problems
    if near.missing or near.renamed.left:
        parts.append(f"missing {_list(near.missing)}; left over {_list(near.renamed.left)}")
    elif not parts:
        parts += [
            f"{name} is {'x'.join(map(str, given))}, {backbone} needs {'x'.join(map(str, wanted))}"
            for name, given, wanted in near.reshaped[:SHOWN]
        ]
    where = f" in {near.path}" if near.path else ""
    parts.append(f"nearest form: {near.renamed.form.name}{where}")
    return f"the tensors do not fit {backbone}: {'; '.join(parts)}"


def _sizes_that_differ(
    tensors: Mapping[str, Tensor], size: tuple[int, int, int], model: Any, backbone: str
) -> list[str]:
    dim, patch, depth = size
    own = (model.embed_dim, model.patch_embed.patch_size[0], len(model.blocks))
    said = [
        sentence
        for given, needed, sentence in (
            (dim, own[0], f"the file has {dim} channels, {backbone} needs {own[0]}"),
            (patch, own[1], f"the file has patches of {patch} pixels, {backbone} of {own[1]}"),
            (depth, own[2], f"the file has {depth} blocks, {backbone} has {own[2]}"),
        )
        if given != needed
    ]
    other = _backbone_that_fits(tensors, size, backbone)
    if said:
        letter = f"ViT-{SIZES[dim][1]}/{patch}" if dim in SIZES else f"a ViT of {dim} channels"
        said[-1] += f": it looks like {letter}"
    if other is not None:
        said.append(f"try backbone={other}")
    return [", ".join(said[:-1]) + "; " + said[-1]] if len(said) > 1 else said


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _list(names: Sequence[str]) -> str:
    return f"{len(names)} ({_first(names)})" if names else "0"


def _size(state: Mapping[str, Tensor]) -> tuple[int, int, int] | None:
    """Channels, side of a patch and number of blocks of a ViT's tensors."""
    patches = state.get(PATCH)
    if patches is None or patches.ndim != 4:
        return None
    blocks = {match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    return int(patches.shape[0]), int(patches.shape[-1]), len(blocks)


def _backbone_that_fits(
    tensors: Mapping[str, Tensor], size: tuple[int, int, int], backbone: str
) -> str | None:
    """The name of a common backbone of timm that the tensors of a file fit, by their shapes."""
    import timm

    dim, patch, _ = size
    word = SIZES.get(dim, ("", ""))[0]
    words = "|".join(sorted({name for name, _ in SIZES.values()}))
    stem = re.sub(rf"_({words})_", f"_{word}_", backbone.split(".")[0])
    names = [re.sub(r"_patch\d+_", f"_patch{patch}_", stem)]
    names += [family.format(size=word, patch=patch) for family in FAMILIES]
    like = {key: torch.ones(()).expand(value.shape) for key, value in tensors.items()}
    for name in dict.fromkeys(names):
        if not timm.is_model(name):
            continue
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
        if any(c.fits for c in _candidates({"": like}, model)):
            return name
    return None
