"""The canary: fixed frames whose tokens every writer recomputes before it writes.

Equal identities should give equal tokens, but a library, a processor or a resize may differ without
a trace in the identity.  The first writer stores the frames and some of their tokens; a later one
whose tokens differ by more than TOLERANCE is refused, so that a store never mixes two kinds.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import WrongIdentity

# Root mean square of the difference over that of the tokens about their channels' means.  int8
# keeps tokens within 0.0075: writers in float32 may differ by less than a seventh of that.
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
KEPT_TOKENS = 64  # of a frame, evenly spread


def canary_frames(image_size: int) -> Array:
    """Two pictures from integer arithmetic: ramps, rings and fine texture.

    Args:
        image_size: side of the square that the backbone sees; the pictures are larger.

    Returns:
        RGB, uint8 (2, H, W, 3), H = 9/8 and W = 3/2 of the side.
    """
    height, width = image_size * 9 // 8, image_size * 3 // 2
    y, x = np.mgrid[:height, :width].astype(np.int64)
    pictures = []
    for number in (1, 2):
        ramp = (255 * x // width + number * 64 * y // height) % 256
        rings = (x - width // number) ** 2 + (y - height // 3) ** 2
        texture = ((x ^ y) * 7 * number) % 256
        pictures.append(np.stack([ramp, (rings * 16 // image_size) % 256, texture], axis=-1))
    return np.stack(pictures).astype(np.uint8)


def make_canary(frames: Array, tokens: Mapping[int, Array]) -> dict[str, Array]:
    """The canary arrays that create_store stores.

    Args:
        frames: uint8 (F, H, W, 3).
        tokens: block -> (F, N, D), computed from the frames, before any codec.
    """
    kept = {f"tokens/{block}": _sampled(values) for block, values in tokens.items()}
    return {"frames": frames, **kept}


def canary_errors(canary: Mapping[str, Array], tokens: Mapping[int, Array]) -> dict[int, float]:
    """Relative error of each block's tokens against those in the store; see TOLERANCE.

    The error of a block that only one of the two has, or in another shape, is infinite.
    """
    errors = {}
    for name in canary.keys() - {"frames"} | {f"tokens/{block}" for block in tokens}:
        block = int(name.removeprefix("tokens/"))
        errors[block] = float("inf")
        if name in canary and block in tokens:
            kept, found = canary[name].astype(np.float64), _sampled(tokens[block])
            if kept.shape == found.shape:
                spread = np.sqrt(np.mean((kept - kept.mean(axis=(0, 1))) ** 2))
                errors[block] = float(np.sqrt(np.mean((found - kept) ** 2)) / max(spread, 1e-12))
    return dict(sorted(errors.items()))


def require_canary(
    canary: Mapping[str, Array], tokens: Mapping[int, Array], *, numeric: str, path: Path
) -> None:
    """Raise unless this writer's tokens agree with those of the store's first writer.

    Args:
        canary: of the store.
        tokens: block -> (F, N, D), computed now from the canary's frames.
        numeric: of the identity; chooses the tolerance.
        path: of the store.

    Raises:
        WrongIdentity: a block is off by more than the tolerance, or not a number.
    """
    errors, limit = canary_errors(canary, tokens), TOLERANCE[numeric]
    wrong = {block: error for block, error in errors.items() if not error <= limit}
    if wrong:
        table = "\n".join(f"  block {block}: {error:.2g}" for block, error in wrong.items())
        raise WrongIdentity(
            f"{path}: this process computes other tokens of the store's fixed frames than the "
            f"process that made the store; relative errors beyond {limit:g} ({numeric}):\n{table}\n"
            "the identities are equal, so a library, the device or the weights in memory differ: "
            "use the machine and versions that `store info` lists, or another --out"
        )


def _sampled(tokens: Array) -> Array:
    """At most 64 tokens of each frame, evenly spread, float32 (F, n, D)."""
    count = tokens.shape[1]
    chosen = np.linspace(0, count - 1, min(KEPT_TOKENS, count)).astype(int)
    return np.ascontiguousarray(tokens[:, chosen], np.float32)
