"""Names of tensors in checkpoints, turned into those of timm's model.

A *form* is a way of naming the tensors of one architecture: timm's own (DINO, DINOv2, DINOv3, MAE
and most training code), Hugging Face's, open_clip's (OpenAI's CLIP too) and torchvision's.
Whatever the form, the result has the names of the timm model, so that one set of weights has one
hash.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NORM_EPS = "norm_eps"  # a number beside the tensors, where it is not that of timm's model
HEADS = ("head.", "fc.", "head_dist.", "fc_norm.", "classifier.")  # never run, so never hashed

UNUSED = re.compile(  # below the prefix of a backbone, and no part of its blocks
    r"(head|heads|\w+_head|head_\w+|fc|fc_norm|classifier|cls_classifier|distillation_classifier"
    r"|decoder\w*|pooler|pre_logits|projector\w*|projection\w*|\w+_projection|predictor|proj|queue\w*"
    r"|text\w*|logit_\w+|local_cls_norm|rope\w*|mask_token|contrastive_\w+|position_ids)(\..*)?"
    r"|.*(mask_token|position_ids|bias_mask|relative_position_index)"
)
WRAPPING = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
QKV = ("q", "k", "v")
Names = dict[str, str]  # the name in the file of each tensor of a state
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """A way of naming tensors.

    Attributes:
        name: for messages.
        anchors: names of which each model of the form has one; what stands before it is a prefix.
        renamed: timm's name of a name without its prefix, or None.
    """

    name: str
    anchors: tuple[str, ...]
    renamed: Callable[[str], str | None]

    def prefixes(self, names: Mapping[str, Any]) -> list[str]:
        """The prefixes below which there may be a model of this form."""
        found = {
            name.removesuffix(anchor): None
            for anchor in self.anchors
            for name in names
            if name.endswith(anchor) and name[: -len(anchor)][-1:] in ("", ".")
        }
        return list(found)


@dataclass
class Renamed:
    """Tensors of a checkpoint under the names of a timm model.

    Attributes:
        form: how the file names them.
        state: tensors by name.
        dropped: names in the file of tensors that the backbone does not use.
        left: names in the file that are neither used nor known.
        problems: sentences about tensors that cannot be converted.
    """

    form: Form
    state: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def wanted_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a timm model by name, those of its classifier left out."""
    state = model.state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.startswith(HEADS)}


def rename(tensors: Mapping[str, Tensor], form: Form, prefix: str, model: Any) -> Renamed:
    """Tensors below a prefix, under the names and in the layout of a timm model.

    Args:
        tensors: of a file, by name.
        form: how they are named.
        prefix: what stands before their names.
        model: of timm, on any device; only its names and shapes are read.
    """
    found = Renamed(form)
    names: Names = {}
    wanted = wanted_shapes(model)
    pools = "attn_pool.latent" in wanted  # by what Hugging Face calls a head
    for name, value in tensors.items():
        if not name.startswith(prefix):
            found.dropped.append(name)
            continue
        bare = WRAPPING.sub("", name.removeprefix(prefix))
        new = form.renamed(bare)
        if bare.startswith(HEADS) and (new is None or new.startswith(HEADS)):
            found.dropped.append(name)
        elif new is not None and (
            new in wanted or not UNUSED.fullmatch(bare) or (pools and new.startswith("attn_pool."))
        ):
            if new in names:
                found.problems.append(f"{name} is {new} too, as {names[new]}")
            names[new], found.state[new] = name, value
        elif UNUSED.fullmatch(bare):
            found.dropped.append(name)
        else:
            found.left.append(name)
    for step in (_flat_blocks, _tokens, _attention, _scales, _gated, _pooling, _positions):
        step(found, names, model, wanted)
    for name in sorted(found.state.keys() - wanted.keys()):
        value = found.state.pop(name)
        zero_bias = name.endswith("bias") and not bool(value.any())  # adding it changes nothing
        empty = value.numel() == 0
        (found.dropped if zero_bias or empty else found.left).append(names.get(name, name))
    return found


def _move(found: Renamed, names: Names, old: str, new: str) -> None:
    found.state[new], names[new] = found.state.pop(old), names.pop(old)


def _flat_blocks(found: Renamed, names: Names, _: Any, wanted: Shapes) -> None:
    """blocks.CHUNK.BLOCK. -> blocks.BLOCK., as DINOv2 keeps them to shard its training.

    DINOv2 numbers blocks through all chunks; where numbers begin again in each, they are added up.
    """
    chunked = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
    matches = {name: m for name in found.state if (m := chunked.fullmatch(name))}
    places = sorted({(int(m[1]), int(m[2])) for m in matches.values()})
    distinct = len({block for _, block in places}) == len(places)
    for name, match in matches.items():
        place = (int(match[1]), int(match[2]))
        block = place[1] if distinct else places.index(place)
        _move(found, names, name, f"blocks.{block}.{match[3]}")


def _tokens(found: Renamed, names: Names, _: Any, wanted: Shapes) -> None:
    """The register tokens of DINOv2 and DINOv3; CLS as (1, 1, D)."""
    cls = found.state.get("cls_token")
    if cls is not None and cls.ndim == 1:
        found.state["cls_token"] = cls[None, None]
    for name in ("register_tokens", "storage_tokens"):
        if name in found.state:
            _move(found, names, name, "reg_token")


def _attention(found: Renamed, names: Names, _: Any, wanted: Shapes) -> None:
    """Query, key and value as the model holds them: in one matrix, its bias whole or without k."""
    state, no_bias = found.state, not _has_bias(found.state)
    masks = r"(.*\.attn\.)(?:qkv|[qkv]|[qkv]_proj|[qv]_bias)(?:\.weight|\.bias)?"
    for start in sorted({m[1] for name in state if (m := re.fullmatch(masks, name))}):
        for part in QKV:
            for kind in ("weight", "bias"):
                if f"{start}{part}_proj.{kind}" in state:
                    _move(found, names, f"{start}{part}_proj.{kind}", f"{start}{part}.{kind}")
            if f"{start}{part}_bias" in state and f"{start}{part}_bias" not in wanted:
                _move(found, names, f"{start}{part}_bias", f"{start}{part}.bias")
        if f"{start}q_proj.weight" in wanted:
            _split(found, names, start)
        else:
            _join(found, names, start, wanted, no_bias=no_bias)


def _split(found: Renamed, names: Names, start: str) -> None:
    state = found.state
    for kind in ("weight", "bias"):
        whole = f"{start}qkv.{kind}"
        if whole in state:
            value, name = state.pop(whole), names.pop(whole)
            for part, piece in zip(QKV, value.chunk(3), strict=True):
                state[f"{start}{part}.{kind}"], names[f"{start}{part}.{kind}"] = piece, name
        for part in QKV:
            if f"{start}{part}.{kind}" in state:
                _move(found, names, f"{start}{part}.{kind}", f"{start}{part}_proj.{kind}")


def _join(found: Renamed, names: Names, start: str, wanted: Shapes, *, no_bias: bool) -> None:
    """Into one matrix; a bias that the form leaves out is zero: of the keys, or of all blocks."""
    state, keys = found.state, [f"{start}{part}" for part in QKV]
    matrix, whole = f"{start}qkv.weight", f"{start}qkv.bias"
    if all(f"{key}.weight" in state for key in keys):
        names[matrix] = names[f"{keys[0]}.weight"]
        state[matrix] = torch.cat([state.pop(f"{key}.weight") for key in keys])
    if matrix not in state:
        return
    zero = torch.zeros_like(state[matrix][: len(state[matrix]) // 3, 0])
    if f"{keys[0]}.bias" in state and f"{keys[2]}.bias" in state:
        names[whole] = names[f"{keys[0]}.bias"]
        state[whole] = torch.cat([state.pop(f"{key}.bias", zero) for key in keys])
    elif whole in wanted and found.form.name != "timm" and no_bias:
        state[whole] = torch.cat([zero] * 3)
    if whole not in state:
        return
    q, k, v = state[whole].chunk(3)
    if any(name.endswith(f"{whole}_mask") for name in found.dropped):  # DINOv3: none of the keys
        k = zero
        state[whole] = torch.cat([q, k, v])
    if whole not in wanted and f"{start}q_bias" in wanted and not bool(k.any()):
        del state[whole]
        name = names.pop(whole)
        for part, piece in (("q_bias", q), ("v_bias", v)):
            state[f"{start}{part}"], names[f"{start}{part}"] = piece, name


def _has_bias(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r"\.attn\.(q|k|v|qkv)(\.|_)bias$", name) for name in state)


def _scales(found: Renamed, names: Names, _: Any, wanted: Shapes) -> None:
    """Layer scale: `ls1.gamma`, or `gamma_1` in the EVA family and in DeiT III."""
    for name in list(found.state):
        if name in wanted:
            continue
        for old, new in ((r"ls([12])\.gamma", r"gamma_\1"), (r"gamma_([12])", r"ls\1.gamma")):
            other = re.sub(rf"\.{old}$", rf".{new}", name)
            if other in wanted:
                _move(found, names, name, other)


def _gated(found: Renamed, names: Names, _: Any, wanted: Shapes) -> None:
    """Gated layers: w12 and w3 of DINOv2; w1, w2 and w3 of DINOv3; the three of Hugging Face."""
    pairs = {
        "w12": "fc1",
        "w1": "fc1_g",
        "w2": "fc1_x",
        "w3": "fc2",
        "gate_proj": "fc1_g",
        "down_proj": "fc2",
    }
    gated = any(".mlp.gate_proj." in name for name in found.state)
    pairs["up_proj"] = "fc1_x" if gated else "fc1"
    for name in list(found.state):
        match = re.fullmatch(r"(.*\.mlp\.)(\w+)(\.(?:weight|bias))", name)
        if match and name not in wanted and match[2] in pairs:
            _move(found, names, name, f"{match[1]}{pairs[match[2]]}{match[3]}")


def _pooling(found: Renamed, names: Names, _: Any, wanted: Shapes) -> None:
    """The pooling of SigLIP: query, and key with value, of torch's attention in one matrix."""
    for kind in ("weight", "bias"):
        whole = f"attn_pool.in_proj_{kind}"
        if whole in found.state:
            value, name = found.state.pop(whole), names.pop(whole)
            width = len(value) // 3
            for part, piece in (("q", value[:width]), ("kv", value[width:])):
                new = f"attn_pool.{part}.{kind}"
                found.state[new], names[new] = piece, name


def _positions(found: Renamed, names: Names, model: Any, wanted: Shapes) -> None:
    """Position embeddings with rows for as many prefix tokens as the model's have.

    Where the file has one for CLS and the model has none, CLS takes it in, as it is only ever added
    to it.  Their number of patches stays: the image's size decides when the model is made.
    """
    state = found.state
    if "pos_embed" not in state or "pos_embed" not in wanted:
        return
    positions = state["pos_embed"]
    if positions.ndim == 2:
        positions = state["pos_embed"] = positions[None]
    rows = positions.shape[1] if positions.ndim == 3 else -1
    if positions.ndim != 3 or rows == wanted["pos_embed"][1]:
        return
    prefix = wanted["pos_embed"][1] - math.prod(model.patch_embed.grid_size)
    given = next(
        (n for n in (prefix, 1, 0, 2) if math.isqrt(max(rows - n, 0)) ** 2 == rows - n), -1
    )
    if given == prefix:
        return
    if given == 1 and prefix == 0 and "cls_token" in state:
        cls, first = _wide(state["cls_token"]), _wide(positions[:, :1])
        state["cls_token"], state["pos_embed"] = cls + first, positions[:, 1:].contiguous()
    elif given == 0 and "cls_token" in state:
        empty = torch.zeros_like(positions[:, :1]).expand(-1, prefix, -1)
        state["pos_embed"] = torch.cat([empty, positions], dim=1)
    else:
        found.problems.append(
            f"its {rows} position embeddings are not those of a square of patches"
        )


def _wide(value: Tensor) -> Tensor:
    """At least float32: a sum in half precision would lose digits."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _renamer(*rules: tuple[str, str]) -> Callable[[str], str | None]:
    """The first rule whose pattern is the whole name; {k} in it stands for weight or bias."""
    compiled = [
        (re.compile(pattern.replace("{k}", "(?P<k>weight|bias)")), new) for pattern, new in rules
    ]

    def renamed(name: str) -> str | None:
        for pattern, new in compiled:
            if match := pattern.fullmatch(name):
                return new.format(**match.groupdict())
        return None

    return renamed


BLOCK = r"(?:encoder\.layers?|layers|layer|model\.layer)\.(?P<n>\d+)\."
HUGGING_FACE = _renamer(
    (r"embeddings\.(?:cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.position_embeddings?(?:\.weight)?", "pos_embed"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.patch_embeddings?(?:\.projection)?\.{k}", "patch_embed.proj.{k}"),
    (r"pre_la(?:yr|yer)norm\.{k}", "norm_pre.{k}"),
    (r"(?:post_)?layernorm\.{k}", "norm.{k}"),
    (r"norm\.{k}", "norm.{k}"),
    (
        BLOCK
        + r"(?:attention\.attention|attention|self_attn)\.(?P<p>[qkv])(?:uery|ey|alue|_proj)\.{k}",
        "blocks.{n}.attn.{p}.{k}",
    ),
    (
        BLOCK + r"(?:attention\.output\.dense|(?:attention|self_attn)\.(?:o|out)_proj)\.{k}",
        "blocks.{n}.attn.proj.{k}",
    ),
    (BLOCK + r"(?:intermediate\.dense|mlp\.(?:fc1|weights_in))\.{k}", "blocks.{n}.mlp.fc1.{k}"),
    (BLOCK + r"(?:output\.dense|mlp\.(?:fc2|weights_out))\.{k}", "blocks.{n}.mlp.fc2.{k}"),
    (BLOCK + r"mlp\.(?P<p>gate|up|down)_proj\.{k}", "blocks.{n}.mlp.{p}_proj.{k}"),
    (BLOCK + r"(?:layernorm_before|norm1|layer_norm1)\.{k}", "blocks.{n}.norm1.{k}"),
    (BLOCK + r"(?:layernorm_after|norm2|layer_norm2)\.{k}", "blocks.{n}.norm2.{k}"),
    (BLOCK + r"layer_scale(?P<p>[12])\.lambda1", "blocks.{n}.ls{p}.gamma"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_{k}", "attn_pool.in_proj_{k}"),
    (r"head\.attention\.out_proj\.{k}", "attn_pool.proj.{k}"),
    (r"head\.layernorm\.{k}", "attn_pool.norm.{k}"),
    (r"head\.mlp\.fc(?P<n>[12])\.{k}", "attn_pool.mlp.fc{n}.{k}"),
)
RESBLOCK = r"transformer\.resblocks\.(?P<n>\d+)\."
OPEN_CLIP = _renamer(
    (r"class_embedding", "cls_token"),
    (r"positional_embedding", "pos_embed"),
    (r"conv1\.{k}", "patch_embed.proj.{k}"),
    (r"ln_pre\.{k}", "norm_pre.{k}"),
    (r"ln_post\.{k}", "norm.{k}"),
    (RESBLOCK + r"attn\.in_proj_{k}", "blocks.{n}.attn.qkv.{k}"),
    (RESBLOCK + r"attn\.out_proj\.{k}", "blocks.{n}.attn.proj.{k}"),
    (RESBLOCK + r"ln_(?P<p>[12])\.{k}", "blocks.{n}.norm{p}.{k}"),
    (RESBLOCK + r"ls_(?P<p>[12])\.gamma", "blocks.{n}.ls{p}.gamma"),
    (RESBLOCK + r"mlp\.c_fc\.{k}", "blocks.{n}.mlp.fc1.{k}"),
    (RESBLOCK + r"mlp\.c_proj\.{k}", "blocks.{n}.mlp.fc2.{k}"),
)
LAYER = r"encoder\.layers\.encoder_layer_(?P<n>\d+)\."
TORCHVISION = _renamer(
    (r"class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"conv_proj\.{k}", "patch_embed.proj.{k}"),
    (r"encoder\.ln\.{k}", "norm.{k}"),
    (LAYER + r"self_attention\.in_proj_{k}", "blocks.{n}.attn.qkv.{k}"),
    (LAYER + r"self_attention\.out_proj\.{k}", "blocks.{n}.attn.proj.{k}"),
    (LAYER + r"ln_(?P<p>[12])\.{k}", "blocks.{n}.norm{p}.{k}"),
    (LAYER + r"mlp\.(?:linear_1|0)\.{k}", "blocks.{n}.mlp.fc1.{k}"),
    (LAYER + r"mlp\.(?:linear_2|3)\.{k}", "blocks.{n}.mlp.fc2.{k}"),
)

FORMS = (
    Form("timm", ("patch_embed.proj.weight", "layer1.0.conv1.weight"), lambda name: name),
    Form(
        "Hugging Face",
        (
            "embeddings.patch_embeddings.projection.weight",
            "embeddings.patch_embeddings.weight",
            "embeddings.patch_embedding.weight",
        ),
        HUGGING_FACE,
    ),
    Form("open_clip", ("ln_post.weight",), OPEN_CLIP),
    Form("torchvision", ("conv_proj.weight",), TORCHVISION),
)
