"""Identity of a config's store, and the first contents of a store: calibration and made_with."""

import logging
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenreel.cache.codec import (
    calibrate,
    codec_identity,
    needs_calibration,
    require_fits,
)
from tokenreel.cache.errors import TokenReelError, UsageError
from tokenreel.cache.format.identity import RULES_VERSION, StoreIdentity
from tokenreel.cache.format.store_files import StoreFacts, create_store, load_arrays, load_identity
from tokenreel.cache.write.canary import canary_frames, make_canary, require_canary
from tokenreel.extract.backbone.base import Backbone, BackboneShape
from tokenreel.extract.backbone.families import (
    backbone_label,
    backbone_shape,
    load_weights,
    pretrained_name,
)
from tokenreel.extract.backbone.weights import (
    earlier_sha256,
    weights_label,
    weights_sha256,
)
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.pictures import picture_identity
from tokenreel.extract.frame_policy import frames_identity
from tokenreel.extract.images.augment import view_parameters
from tokenreel.extract.images.transforms import COVERING, apply_transform, transform_parameters

log = logging.getLogger(__name__)

PACKAGES = ("tokenreel", "torch", "timm", "av", "decord", "numpy", "zarr")


def build_identity(config: ExtractConfig) -> StoreIdentity:
    """Identity of a config's store, before the codec is calibrated.

    Reads the weights for their hash; builds no backbone.

    Raises:
        UsageError: an unknown backbone, block, codec, or weights that are unavailable.
    """
    if config.pixels is not None:
        return picture_identity(config)
    state = load_weights(config.backbone, config.weights, config.weights_key)
    return identity_for(config, weights_sha256(state))


def same_extraction(
    found: StoreIdentity, planned: StoreIdentity, config: ExtractConfig
) -> StoreIdentity:
    """The planned identity, with the weights' hash and rules of the store where these are earlier.

    A store of earlier rules is extended by clips to which both rules give the same frames.

    Args:
        found: of a store, before its calibration.
        planned: what build_identity gave.
        config: of the extraction.
    """
    if found.rules < planned.rules:
        old = {"rules": found.rules, "pixel_aspect": found.pixel_aspect}
        planned = planned.model_copy(update=old)
    earlier = planned.model_copy(update={"weights_sha256": found.weights_sha256})
    if found.has_tokens_of(planned) or not found.has_tokens_of(earlier):
        return planned
    same = earlier_sha256(config.weights, config.weights_key) == found.weights_sha256
    return earlier if same else planned


def identity_for(config: ExtractConfig, weights_hash: str) -> StoreIdentity:
    """As build_identity, with the hash of the weights given."""
    if config.pixels is not None:
        return picture_identity(config)
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    num_tokens = shape.grid[0] * shape.grid[1]
    require_fits(config.codec, num_tokens=num_tokens, dim=shape.dim, grid=shape.grid)
    transform = config.transform or shape.transform
    if config.crops > 1 and transform not in COVERING:
        raise UsageError(
            f"crops={config.crops} moves a crop along a frame whose short side fits: give "
            f"transform={' or transform='.join(COVERING)}, not {transform}"
        )
    height, width = shape.image_size
    window_frames, window_rows = shape.frames_per_window, shape.rows_per_window
    image_size = height if height == width else (height, width)
    frames = frames_identity(config)
    if frames.get("policy") == "uniform" and frames["count"] % window_frames:
        raise UsageError(
            f"frames={config.frames}: {config.backbone} sees {window_frames} frames at once: give "
            f"frames=uniform:{window_frames}, or a multiple of it"
        )
    return StoreIdentity(
        architecture=config.backbone,
        weights_sha256=weights_hash,
        blocks=shape.blocks,
        cls="blocks+normed" if shape.has_cls else "none",
        grid=shape.grid,
        dim=shape.dim,
        image_size=shape.image_size,
        transform=transform_parameters(transform, image_size, mean=shape.mean, std=shape.std),
        frames=frames,
        views=view_parameters(config.views, config.view_seed, config.crops),
        numeric=config.numeric,
        codec=codec_identity(config.codec),
        unit=_unit_of(frames, window_frames, window_rows),
        frames_per_window=window_frames,
        rows_per_window=window_rows,
        rules=RULES_VERSION,
        pixel_aspect=config.pixel_aspect,
    )


def _unit_of(frames: Mapping[str, Any], window_frames: int, window_rows: int) -> str:
    """What a row of a store is.

    Raises:
        UsageError: a backbone that gives several rows for the frames of a scene.
    """
    if frames["policy"] != "scenes":
        return "window" if (window_frames, window_rows) != (1, 1) else "frame"
    if window_rows != 1:
        raise UsageError(
            f"frames=scenes: a row is a scene, but the backbone gives {window_rows} rows for its "
            "frames"
        )
    return "scene"


def store_name(dataset: str, config: ExtractConfig, identity: StoreIdentity | None = None) -> str:
    """Directory name of a store: data set, backbone, weights and fingerprint.

    Args:
        dataset: name of the data set.
        config: of the extraction.
        identity: of the store, calibrated; without it the name lacks its fingerprint.
    """
    label = re.sub(r"[^A-Za-z0-9._]+", "", weights_label(config.weights, config.weights_key))
    digits = "" if identity is None else identity.fingerprint[:12]
    if config.pixels is not None:
        return f"{dataset}-pixels-{config.pixels}-{digits}"
    return f"{dataset}-{backbone_label(config.backbone)}-{label}-{digits}"


def versions_of(config: ExtractConfig) -> dict[str, str]:
    """The versions of the packages that make the tokens of an extraction."""
    versions = {}
    own = ["pillow"] if config.pixels else []
    own += ["torchvision"] if config.backbone.startswith("torchvision:") else []
    own += ["transformers"] if config.backbone.startswith(("videomae:", "xclip:")) else []
    for package in (*PACKAGES, *own):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def made_with(config: ExtractConfig, dataset: str, device: torch.device) -> dict[str, Any]:
    """Facts recorded beside the identity: versions, device, names."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    chosen = {} if config.weights_key is None else {"weights_key": config.weights_key}
    if config.frames.startswith(("listed:", "scenes:")):
        chosen["frames"] = config.frames
    if config.weights == "pretrained" and not config.pixels:
        chosen["pretrained"] = pretrained_name(config.backbone)
    return chosen | {
        "weights": "" if config.pixels else weights_label(config.weights, config.weights_key),
        "dataset": dataset,
        "compile_backbone": config.compile_backbone,
        "versions": versions_of(config),
        "python": platform.python_version(),
        "device": device.type,
        "gpu": gpu,
    }


def open_or_create(
    store: Path,
    planned: StoreIdentity,
    *,
    config: ExtractConfig,
    dataset: str,
    backbone: Backbone,
    samples: NDArray[np.uint8] | None,
    root: str = "",
) -> tuple[StoreIdentity, Mapping[str, NDArray[Any]]]:
    """Open the store, or create it and calibrate its codec on sample images.

    The first writer decides the calibration; later writers and other shards use it.

    Args:
        store: directory.
        planned: of build_identity.
        config: of the extraction.
        dataset: name of the data set.
        backbone: with its weights.
        samples: uint8 (F, 3, S, S) of several clips; only for a new store.
        root: folder of the videos, which a new store records as a hint.

    Returns:
        The identity of the store, and the calibration.

    Raises:
        WrongIdentity: the store was made with other settings.
        TokenReelError: a codec needs samples and no clip could be decoded.
    """
    if not (store / "recipe.json").is_file():
        device = backbone.device
        calibration: dict[str, NDArray[Any]] = {}
        if needs_calibration(planned.codec["name"]):
            if samples is None or not len(samples):
                raise TokenReelError(
                    f"codec={config.codec} is calibrated on frames, but no clip could be decoded"
                )
            calibration = calibrate(
                planned.codec["name"], _sample_tokens(backbone, samples), grid=planned.grid
            )
        codec = codec_identity(planned.codec["name"], calibration)
        identity = planned.model_copy(update={"codec": codec})
        frames = canary_frames(max(planned.image_size))
        try:
            create_store(
                store,
                identity,
                made_with=made_with(config, dataset, device),
                calibration=calibration,
                canary=make_canary(frames, _canary_tokens(backbone, planned, frames)),
                facts=StoreFacts(root=root),
            )
        except TokenReelError:
            if not (store / "recipe.json").is_file():
                raise
            log.info("%s: created by another writer meanwhile", store)
    found, _ = load_identity(store)
    planned = same_extraction(found.before_calibration, planned, config)
    found.before_calibration.require(planned, path=store)
    return found, load_arrays(store / "calibration")


def require_same_tokens(
    store: Path, identity: StoreIdentity, backbone: Backbone, *, batch_frames: int | None = None
) -> None:
    """Check that the backbone, compiled or not, gives the tokens of the store's fixed frames.

    Compilation is not part of an identity, as it must not matter: this check shows it, within the
    tolerance of the identity's `numeric` (cache.canary.TOLERANCE).

    Args:
        store: directory.
        identity: of the store.
        backbone: compiled if the run compiles it.
        batch_frames: batch size for which it was compiled; None for any.

    Raises:
        WrongIdentity: the tokens differ from those of the store's first writer; see cache.canary.
    """
    canary = load_arrays(store / "canary")
    if canary:
        frames = np.array(canary["frames"])
        tokens = _canary_tokens(backbone, identity, frames, batch_frames=batch_frames)
        require_canary(canary, tokens, numeric=identity.numeric, path=store)


def _canary_tokens(
    backbone: Backbone,
    identity: StoreIdentity,
    frames: NDArray[np.uint8],
    *,
    batch_frames: int | None = None,
) -> dict[int, NDArray[Any]]:
    """Tokens of fixed frames, (F, H, W, 3), by block, (F, N, D), computed like those of clips."""
    images = torch.stack([apply_transform(frame, identity.transform) for frame in frames])
    count, rows = _in_windows(len(frames), backbone.shape)
    places = np.arange(max(batch_frames or count, count)) % len(frames)  # the frames repeated
    found = _tokens(backbone, images[places])
    return {block: tokens[:rows] for block, tokens in found.items()}


def _in_windows(num_frames: int, shape: BackboneShape) -> tuple[int, int]:
    """Frames of as many whole windows as hold some frames, and the rows of these windows."""
    windows = -(-num_frames // shape.frames_per_window)
    return windows * shape.frames_per_window, windows * shape.rows_per_window


def _sample_tokens(backbone: Backbone, samples: NDArray[np.uint8]) -> dict[int, NDArray[Any]]:
    """Tokens of sample images by block, (F, N, D)."""
    count, _ = _in_windows(8, backbone.shape)
    parts = []
    for start in range(0, len(samples), count):
        part = samples[start : start + count]
        missing = -len(part) % backbone.shape.frames_per_window
        part = np.concatenate([part, part[-1:].repeat(missing, axis=0)]) if missing else part
        parts.append(_tokens(backbone, torch.from_numpy(part)))
    return {block: np.concatenate([part[block] for part in parts]) for block in parts[0]}


def _tokens(backbone: Backbone, images: torch.Tensor) -> dict[int, NDArray[Any]]:
    """Tokens of a batch of images by block, (B, N, D)."""
    device = backbone.device
    return {b: t.cpu().numpy() for b, t in backbone(images.to(device)).tokens.items()}
