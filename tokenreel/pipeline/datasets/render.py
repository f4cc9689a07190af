"""Draw the clips of the sample: a script decides every frame, a figure is drawn from it.

A script is a pure function of split and index.  A pose is five numbers; a phase moves the figure
from one key pose to the next.  Some poses are passed on the way up and on the way down, so that a
single frame does not always tell its phase: the frames around it do.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.files import whole_file

FPS = 25
WIDTH, HEIGHT = 320, 240
MARGIN = 16  # pixels of background beyond each edge, for the camera shake

PHASES = {
    "lift": ("reach", "raise", "lower"),
    "dance": ("crouch", "jump", "left", "right", "bow"),
}
# Pose: angle of the near arm, of the far arm, of the lean (degrees, 0 = down, 180 = up), crouch
# and spread of the legs (0 to 1).
KEY_POSES = {
    "lift": [
        (20, 10, 0, 0.0, 0.1),
        (70, 60, 35, 0.6, 0.3),
        (175, 165, 0, 0.0, 0.3),
        (20, 10, 0, 0.0, 0.1),
    ],
    "dance": [
        (30, -30, 0, 0.0, 0.1),
        (60, -60, 10, 0.9, 0.5),
        (150, -150, 0, 0.0, 0.1),
        (90, -20, -30, 0.1, 0.6),
        (20, -90, 30, 0.1, 0.6),
        (40, -40, 70, 0.3, 0.1),
    ],
}
# The lamp in the near hand: which colour of LAMP it has in each phase.  The first and the last
# phase of the dance share one: their poses and what came before tell them apart.
LAMP = np.array([(250, 60, 40), (60, 240, 70), (70, 90, 255), (250, 240, 60)], np.float32)
LAMP_OF = {"lift": (0, 1, 2), "dance": (0, 1, 2, 3, 0)}
Frame = NDArray[np.float32]


@dataclass(frozen=True)
class Script:
    """Everything that is drawn in a clip.

    Attributes:
        video: path below the root.
        split, action: as in the manifest.
        seed: of the look of the clip.
        phases: phase of each frame.
        poses: pose of each frame, five numbers.
    """

    video: str
    split: str
    action: str
    seed: int
    phases: tuple[int, ...]
    poses: tuple[tuple[float, ...], ...]


def write_script(split: str, index: int) -> Script:
    """The script of a clip: 40 to 160 frames, the phases in order, one perhaps done twice."""
    action = list(PHASES)[index % len(PHASES)]
    seed = 2 * index + (split == "val")
    rng = np.random.default_rng([1, seed])
    keys = np.asarray(KEY_POSES[action], np.float64)
    order = list(range(len(keys) - 1))
    for _ in range(int(rng.integers(3))):
        repeated = int(rng.integers(len(order)))
        order.insert(repeated, order[repeated])
    shares = rng.uniform(0.25, 1.75, len(order))
    num_frames = int(rng.integers(40, 161))
    lengths = np.maximum(5, np.round(shares / shares.sum() * num_frames)).astype(int)
    late = float(rng.uniform(0.3, 0.8)) if rng.random() < 0.5 else 0.0
    phases: list[int] = []
    poses: list[tuple[float, ...]] = []
    for position, (phase, length) in enumerate(zip(order, lengths, strict=True)):
        start = late if position == 0 else 0.0
        steps = start + (1 - start) * (np.arange(length) + 0.5) / length
        for share in (1 - np.cos(np.pi * steps)) / 2:
            poses.append(tuple(keys[phase] * (1 - share) + keys[phase + 1] * share))
            phases.append(phase)
    count = min(160, len(phases))
    name = f"{split}/{action}_{index:03d}.mp4"
    return Script(name, split, action, seed, tuple(phases[:count]), tuple(poses[:count]))


def render_clip(root: Path, script: Script) -> None:
    """Draw and encode a clip, H.264 in MP4, whole or absent."""
    with whole_file(root / script.video) as partial:
        container = av.open(str(partial), "w", format="mp4")
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # Without mbtree, whose AVX-512 form gives other bytes each time.
        stream.options = {"crf": "20", "preset": "veryfast", "threads": "1", "mbtree": "0"}
        stream.time_base = Fraction(1, FPS)
        for index, image in enumerate(_draw(script)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.close()


def _draw(script: Script) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng([2, script.seed])
    background = _texture(rng)
    skin, cloth = rng.uniform(170, 255, (2, 3)).astype(np.float32)
    scale = float(rng.uniform(1.05, 1.4))
    mirrored = bool(rng.random() < 0.5)
    centre = np.array([WIDTH * rng.uniform(0.45, 0.55), HEIGHT * rng.uniform(0.56, 0.6)])
    shake = _smooth(rng, len(script.phases), strength=rng.uniform(0, 4))
    disc = Disc(rng)
    images = []
    for index, pose in enumerate(script.poses):
        dy, dx = np.clip(shake[index], -MARGIN, MARGIN).round().astype(int) + MARGIN
        image = background[dy : dy + HEIGHT, dx : dx + WIDTH].copy()
        disc.draw(image, index)
        lamp = LAMP[LAMP_OF[script.action][script.phases[index]]]
        _draw_figure(image, pose, centre, scale, (skin, cloth, lamp), mirrored=mirrored)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


class Disc:
    """A distractor: a disc that drifts through the picture and says nothing of the phase."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._colour = rng.uniform(40, 140, 3).astype(np.float32)
        self._start = rng.uniform([0, 0], [WIDTH, HEIGHT])
        self._speed = rng.uniform(-3, 3, 2)
        self._radius = float(rng.uniform(6, 14))

    def draw(self, image: Frame, index: int) -> None:
        """Draw the disc as it is at a frame."""
        at = (self._start + self._speed * index) % [WIDTH, HEIGHT]
        _capsule(image, at, at, self._radius, self._colour)


def _draw_figure(
    image: Frame,
    pose: tuple[float, ...],
    centre: NDArray[np.float64],
    scale: float,
    colours: tuple[NDArray[np.float32], ...],
    *,
    mirrored: bool,
) -> None:
    near, far, lean, crouch, spread = pose
    skin, cloth, lamp = colours
    side = -1.0 if mirrored else 1.0

    def reach(start: NDArray[np.float64], degrees: float, length: float) -> NDArray[np.float64]:
        angle = np.deg2rad(degrees)
        return start + scale * length * np.array([side * np.sin(angle), np.cos(angle)])

    hip = centre + scale * np.array([0, 34 * crouch])
    neck = reach(hip, 180 - lean, 52)
    head = reach(neck, 180 - lean, 16)
    floor = centre[1] + scale * 62
    for foot in (-1, 1):
        ankle = np.array([hip[0] + foot * scale * (10 + 26 * spread), floor])
        _capsule(image, hip, ankle, 7 * scale, cloth * 0.6)
    _capsule(image, neck, reach(neck, far, 46), 6 * scale, skin * 0.7)
    _capsule(image, hip, neck, 11 * scale, cloth)
    _capsule(image, head, head, 12 * scale, skin)
    hand = reach(neck, near, 46)
    _capsule(image, neck, hand, 6 * scale, skin)
    _capsule(image, hand, hand, 17 * scale, lamp)


def _capsule(
    image: Frame,
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    radius: float,
    colour: NDArray[np.float32],
) -> None:
    """Draw a line with round ends, its edge one pixel soft; positions are (x, y)."""
    low = np.floor(np.minimum(start, stop) - radius - 1).astype(int).clip(0)
    high = np.ceil(np.maximum(start, stop) + radius + 2).astype(int)
    high = np.minimum(high, [WIDTH, HEIGHT])
    if (low >= high).any():
        return
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    along = (stop - start).astype(np.float32)
    length = float(along @ along) or 1.0
    share = (((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length).clip(0, 1)
    distance = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
    cover = (radius - distance + 0.5).clip(0, 1)[..., None].astype(np.float32)
    patch = image[low[1] : high[1], low[0] : high[0]]
    patch += cover * (colour - patch)


def _texture(rng: np.random.Generator) -> Frame:
    """A soft coloured background, larger than a frame by the margin on each side."""
    shape = (HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)
    image = np.broadcast_to(rng.uniform(25, 75, 3), (*shape, 3)).astype(np.float32)
    for cells in (3, 9, 24):
        coarse = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        rows = np.linspace(0, cells - 1.001, shape[0])
        columns = np.linspace(0, cells - 1.001, shape[1])
        image = image + 25 / cells**0.5 * _bilinear(coarse, rows, columns)
    return image.astype(np.float32)


def _bilinear(coarse: Frame, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Frame:
    i, j = rows.astype(int), columns.astype(int)
    u = (rows - i)[:, None, None].astype(np.float32)
    v = (columns - j)[None, :, None].astype(np.float32)
    top = coarse[i][:, j] * (1 - v) + coarse[i][:, j + 1] * v
    bottom = coarse[i + 1][:, j] * (1 - v) + coarse[i + 1][:, j + 1] * v
    mixed: Frame = (top * (1 - u) + bottom * u).astype(np.float32)
    return mixed


def _smooth(rng: np.random.Generator, count: int, *, strength: float) -> NDArray[np.float64]:
    """A slow random walk around 0, (count, 2), in pixels."""
    steps = rng.standard_normal((count + 20, 2))
    window = np.ones(20) / 20**0.5
    columns = [np.convolve(steps[:, axis], window, mode="valid")[:count] for axis in (0, 1)]
    walk: NDArray[np.float64] = strength * np.stack(columns, axis=1)
    return walk
