"""Scripts of the sample's clips: which phase every frame is in, and where everything is.

A script is a pure function of split and index.  Positions are in units of a picture whose scale is
1 (a figure is about 150 high, x to the right, y downwards, the floor at FLOOR); angles in degrees,
0 = down, 180 = up.  `progress` of a phase runs from 0 to 1 at a speed that changes, with pauses.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FPS = 25
FLOOR = 78.0
FRAMES = (48, 97)  # [least, most) frames of a clip
BEAT = (7.0, 15.0)  # frames; of all that moves without being the action
LEAST = 7  # frames of a phase

PHASES = {
    "lift": ("raise", "hold", "lower"),
    "visit": ("approach", "stay", "retreat"),
    "toss": ("rise", "bounce", "fall"),
}
# The first phase and the last pass the same places, there and back.
THERE, BETWEEN, BACK = 0, 1, 2
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Script:
    """Everything that moves in a clip of T frames, and its labels.

    Attributes:
        video: path below the root.
        split, action: as in the manifest.
        seed: of the look of the clip.
        phases: (T,) phase of each frame.
        poses: (T, 5) angle of the near arm, of the far arm, of the lean, crouch and stride.
        figure: (T,) x of the figure.
        thing: (T, 2) x and y of the object: a bar in the hands, a post or a ball.
        camera: (T, 3) x and y that the picture is centred on, and its zoom.
    """

    video: str
    split: str
    action: str
    seed: int
    phases: NDArray[np.int64]
    poses: Floats
    figure: Floats
    thing: Floats
    camera: Floats


def write_script(split: str, index: int) -> Script:
    """The script of a clip."""
    action = list(PHASES)[index % len(PHASES)]
    seed = 2 * index + (split == "val")
    rng = np.random.default_rng([3, seed])
    phases, place = _timing(rng)
    poses, figure, thing = _ACTIONS[action](phases, place, rng)
    camera = _camera(action, figure, thing, rng)
    name = f"{split}/{action}_{index:03d}.mp4"
    return Script(name, split, action, seed, phases, poses, figure, thing, camera)


def _timing(rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """The phase of each frame, and how far there the action is, from 0 to 1, (T,) each.

    One phase of a clip, any, lasts longer than the others together: so the time in the clip says
    little.  Some clips begin elsewhere in the cycle, some go there twice.
    """
    order = [THERE, BETWEEN, BACK]
    chance = rng.random()
    if chance < 0.15:
        order = [BACK, *order]
    elif chance < 0.3:
        order = [THERE, BACK, *order]
    elif chance < 0.4:
        order = [BETWEEN, BACK, THERE]
    elif chance < 0.5:
        order = [BACK, THERE, BETWEEN]
    num_frames = int(rng.integers(*FRAMES))
    longest = int(rng.integers(3))
    weights = rng.uniform(0.5, 1.5, len(order))
    chosen = [place for place, phase in enumerate(order) if phase == longest]
    weights[chosen[int(rng.integers(len(chosen)))]] = rng.uniform(1.6, 3.0) * (len(order) - 1)
    lengths = np.maximum(LEAST, np.round(weights / weights.sum() * num_frames)).astype(int)
    phases, place = [], []
    for number, (phase, length) in enumerate(zip(order, lengths, strict=True)):
        share = _progress(length, rng, late=rng.uniform(0, 0.5) if number == 0 else 0.0)
        along = {THERE: share, BACK: 1 - share, BETWEEN: share}[phase]
        phases.append(np.full(length, phase))
        place.append(along)
    return np.concatenate(phases), np.concatenate(place)


def _progress(length: int, rng: np.random.Generator, *, late: float) -> Floats:
    """From `late` to 1 in some frames, at a changing speed, perhaps with a pause, (length,)."""
    corners = rng.uniform(0.4, 1.6, 2 + length // 12)
    speed = np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(corners)), corners)
    if length >= 20 and rng.random() < 0.5:
        pause = int(rng.integers(5, 5 + length // 5))
        start = int(rng.integers(2, length - pause - 1))
        speed[start : start + pause] = 0.02
    walked = np.cumsum(speed) - speed / 2
    return np.asarray(late + (1 - late) * walked / speed.sum())


def _lift(
    phases: NDArray[np.int64], place: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Both arms take a bar from below to above, hold it there, and bring it back."""
    count = len(phases)
    at = np.where(phases == BETWEEN, 1.0, place)
    low, high = rng.uniform(15, 40), rng.uniform(155, 172)
    wobble = _sway(count, rng, 2.0)
    near = low + (high - low) * at + wobble
    bend = rng.uniform(0, 0.35)
    crouch = bend * (1 - at) + 0.02 * _sway(count, rng, 1.0)
    poses = np.stack(
        [near, near + rng.uniform(-12, 12), 12 * bend * (1 - at), crouch, np.full(count, 0.3)], 1
    )
    figure = rng.uniform(-8, 8) + _sway(count, rng, 1.5)
    return poses, figure, np.zeros((count, 2))


def _visit(
    phases: NDArray[np.int64], place: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """The figure walks to a post, stays with it and walks away backwards, or the post does."""
    count = len(phases)
    far, near = rng.uniform(88, 105), rng.uniform(30, 38)
    at = np.where(phases == BETWEEN, 1.0, place)
    gap = far + (near - far) * at + _sway(count, rng, 0.7)
    walked = np.cumsum(np.abs(np.diff(gap, prepend=gap[0])))
    stride = 0.35 + 0.3 * np.sin(walked / 9.0) + 0.05 * _sway(count, rng, 1.0)
    swing = 22 * np.sin(walked / 9.0 + 0.7)
    arms = 25 + np.stack([swing, -swing], 1) + _sway(count, rng, 6.0)[:, None]
    lean = np.full(count, rng.uniform(-4, 4))
    poses = np.stack([arms[:, 0], arms[:, 1], lean, np.full(count, 0.05), stride], 1)
    share = rng.uniform(0, 1)  # of the way that the figure goes; the post goes the rest
    middle = _sway(count, rng, 2.0)
    figure = middle - share * gap + (share - 0.5) * near
    thing = np.stack([figure + gap, np.full(count, FLOOR)], 1)
    return poses, figure, thing


def _toss(
    phases: NDArray[np.int64], place: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """A ball beside the figure rises, bounces, and falls, through the same heights."""
    count = len(phases)
    at = place.copy()
    for start, stop in _runs(phases == BETWEEN):
        beats = max(1, round((stop - start) / rng.uniform(9, 13)))
        at[start:stop] = 0.5 + 0.5 * np.cos(2 * np.pi * beats * place[start:stop])
    low, high = rng.uniform(48, 62), rng.uniform(-88, -74)
    sway = _sway(count, rng, 1.0)
    arms = 60 + rng.uniform(-30, 30) + 14 * np.stack([sway, _sway(count, rng, 1.0)], 1)
    poses = np.stack(
        [arms[:, 0], arms[:, 1], 3 * sway, np.full(count, 0.08), np.full(count, 0.3)], 1
    )
    figure = rng.uniform(-28, -18) + _sway(count, rng, 1.5)
    side = rng.uniform(48, 58) + _sway(count, rng, 2.0)
    thing = np.stack([figure + side, low + (high - low) * at], 1)
    return poses, figure, thing


_ACTIONS = {"lift": _lift, "visit": _visit, "toss": _toss}


def _camera(action: str, figure: Floats, thing: Floats, rng: np.random.Generator) -> Floats:
    """Follows the figure, the object or neither, wanders and zooms, (T, 3)."""
    count = len(figure)
    other = thing[:, 0] if action != "lift" else figure
    share = rng.uniform(0.2, 0.8) if action == "visit" else rng.uniform(0.3, 0.6)
    centre = share * other + (1 - share) * figure
    if rng.random() < 0.4:
        centre = np.full(count, centre.mean()) * 0.8 + 0.2 * centre
    x = centre + _sway(count, rng, 4.0)
    y = rng.uniform(-6, 6) + _sway(count, rng, 3.0)
    zoom = np.exp(0.04 * _sway(count, rng, 1.0))
    return np.stack([x, y, zoom], 1)


def _sway(count: int, rng: np.random.Generator, strength: float) -> Floats:
    """To and fro around 0, (count,), in a short beat, which is no clock: it is the same again."""
    beat, start = rng.uniform(*BEAT), rng.uniform(0, 2 * np.pi)
    return np.asarray(
        strength * rng.uniform(0.5, 1) * np.sin(2 * np.pi * np.arange(count) / beat + start)
    )


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
