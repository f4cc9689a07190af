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
BALL = 24.0  # radius
FRAMES = (62, 83)  # [least, most) frames of a clip
BEAT = (7.0, 15.0)  # frames; of all that moves without being the action
LEAST = 6  # frames of a phase
WHOLE_WAY = 0.84  # of the frames of a clip: from one end to the other
SHORT = (0.07, 0.13)  # of them: both phases that are not the longest

PHASES = {
    "lift": ("raise", "squat", "lower"),
    "visit": ("approach", "float", "retreat"),
}
LONGEST = (0, 2, 0, 1, 2)  # phase of each clip of an action, in turn
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
        thing: (T, 2) x and y of the ball; the bar is in the hands.
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
    number, kind = divmod(index, len(PHASES))
    action = list(PHASES)[kind]
    seed = 2 * index + (split == "val")
    rng = np.random.default_rng([4, seed])
    phases, place = _timing(rng, longest=LONGEST[number % len(LONGEST)])
    poses, figure, thing = _ACTIONS[action](phases, place, rng)
    camera = _camera(action, figure, thing, rng)
    name = f"{split}/{action}_{index:03d}.mp4"
    return Script(name, split, action, seed, phases, poses, figure, thing, camera)


def _timing(rng: np.random.Generator, *, longest: int) -> tuple[NDArray[np.int64], Floats]:
    """The phase of each frame, and how far there the action is, from 0 to 1, (T,) each.

    The way there ends at 1 and the way back begins at 1, both at one speed: a place and a direction
    say how far the boundary is, in shares of the clip.  The longest phase takes most of a clip.
    Where it is the way back, the clip begins late on the way there, and some were there before;
    where it is the way there, the clip ends early on the way back.  So the time in a clip says
    little: each boundary is near its begin in some clips and near its end in others.

    Args:
        rng: of the clip.
        longest: THERE, BETWEEN or BACK.
    """
    num_frames = int(rng.integers(*FRAMES))
    whole = WHOLE_WAY * num_frames
    lengths = rng.uniform(*SHORT, 3) * num_frames
    before = SHORT[0] * num_frames if longest == BACK and rng.random() < 0.3 else 0.0
    lengths[longest] = num_frames - before - np.delete(lengths, longest).sum()
    stretches = [*([(BACK, before)] if before else []), *enumerate(lengths)]
    phases, place = [], []
    for phase, exact in stretches:
        length = max(LEAST, round(exact))
        share = _progress(length, rng)
        reach = min(1.0, length / whole)
        along = {THERE: 1 - reach * (1 - share), BETWEEN: share, BACK: 1 - reach * share}[phase]
        phases.append(np.full(length, phase))
        place.append(along)
    return np.concatenate(phases), np.concatenate(place)


def _progress(length: int, rng: np.random.Generator) -> Floats:
    """From 0 to 1 in some frames, at a changing speed, perhaps with a pause, (length,)."""
    corners = rng.uniform(0.7, 1.3, 2 + length // 16)
    speed = np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(corners)), corners)
    if length >= 24 and rng.random() < 0.3:
        pause = int(rng.integers(4, 8))
        start = int(rng.integers(2, length - pause - 1))
        speed[start : start + pause] = 0.02
    return np.asarray((np.cumsum(speed) - speed / 2) / speed.sum())


def _lift(
    phases: NDArray[np.int64], place: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Both arms take a bar from below to above, the knees bend under it, and it comes back."""
    count = len(phases)
    at = np.where(phases == BETWEEN, 1.0, place)
    dip = _out_and_home(phases, place)
    low, high = rng.uniform(15, 25), rng.uniform(158, 168)
    near = low + (high - low) * at + _sway(count, rng, 1.0)
    crouch = rng.uniform(0.0, 0.1) + rng.uniform(0.75, 0.9) * dip
    poses = np.stack(
        [near, near + rng.uniform(-6, 6), np.zeros(count), crouch, np.full(count, 0.3)], 1
    )
    figure = rng.uniform(-6, 6) + _sway(count, rng, 1.0)
    return poses, figure, np.zeros((count, 2))


def _visit(
    phases: NDArray[np.int64], place: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """A figure and a ball come together, the ball bounces there, and they part."""
    count = len(phases)
    far, near = rng.uniform(122, 130), rng.uniform(38, 42)
    at = np.where(phases == BETWEEN, 1.0, place)
    gap = far + (near - far) * at + _sway(count, rng, 0.7)
    walked = np.cumsum(np.abs(np.diff(gap, prepend=gap[0])))
    step = walked / 9.0 + rng.spawn(1)[0].uniform(0, 2 * np.pi)  # a clip begins at any step
    stride = 0.35 + 0.2 * np.sin(step)
    swing = 12 * np.sin(step + 0.7)
    arms = 25 + np.stack([swing, -swing], 1)
    lean = np.full(count, rng.uniform(-3, 3))
    poses = np.stack([arms[:, 0], arms[:, 1], lean, np.full(count, 0.05), stride], 1)
    share = rng.uniform(0, 1)  # of the way that the figure goes; the ball goes the rest
    figure = _sway(count, rng, 1.0) - share * gap + (share - 0.5) * near
    hop = _out_and_home(phases, place)
    thing = np.stack([figure + gap, FLOOR - BALL - rng.uniform(85, 95) * hop], 1)
    return poses, figure, thing


def _out_and_home(phases: NDArray[np.int64], place: Floats) -> Floats:
    """Of what happens at the far end: slowly from 0 to 1, quickly home again, (T,)."""
    return np.where(phases == BETWEEN, np.minimum(place / 0.9, (1 - place) / 0.1), 0.0)


_ACTIONS = {"lift": _lift, "visit": _visit}


def _camera(action: str, figure: Floats, thing: Floats, rng: np.random.Generator) -> Floats:
    """Follows the figure, and the object if there is one; it sways and zooms a little, (T, 3)."""
    count = len(figure)
    share = rng.uniform(0.4, 0.6) if action == "visit" else 0.0
    centre = share * thing[:, 0] + (1 - share) * figure
    x = centre + _sway(count, rng, 2.0)
    y = rng.uniform(-4, 4) + _sway(count, rng, 1.5)
    zoom = np.exp(0.015 * _sway(count, rng, 1.0))
    return np.stack([x, y, zoom], 1)


def _sway(count: int, rng: np.random.Generator, strength: float) -> Floats:
    """To and fro around 0, (count,), in a short beat, which is no clock: it is the same again."""
    beat, start = rng.uniform(*BEAT), rng.uniform(0, 2 * np.pi)
    return np.asarray(
        strength * rng.uniform(0.5, 1) * np.sin(2 * np.pi * np.arange(count) / beat + start)
    )
