"""Draw the clips of the sample: a script says where everything is, a look how it appears.

The look is drawn from the seed of the clip and says nothing of action or phase: viewpoint,
handedness, scale, body shape, clothes, a background that moves by itself, and perhaps a second
figure that does something else.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.pipeline.datasets.rendering import write_video
from tokenreel.pipeline.datasets.script import BALL, BEAT, FLOOR, FPS, Script

WIDTH, HEIGHT = 240, 240
TEXTURE = 320  # side of the background, which repeats

Frame = NDArray[np.float32]
Point = NDArray[np.float64]


def render_clip(root: Path, script: Script) -> None:
    """Draw and encode a clip, H.264 in MP4, whole or absent."""
    write_video(root / script.video, draw_frames(script), fps=FPS)


@dataclass(frozen=True, eq=False)
class Body:
    """How a figure looks.

    Attributes:
        scale: of the whole figure.
        width: of the figure as seen from its viewpoint, 1 from the front.
        limbs, thickness, head: lengths and radii, 1 as usual.
        skin, shirt, trousers: colours, (3,).
    """

    scale: float
    width: float
    limbs: float
    thickness: float
    head: float
    skin: Frame
    shirt: Frame
    trousers: Frame

    @classmethod
    def drawn(cls, rng: np.random.Generator, scale: float) -> "Body":
        """Any body."""
        skin = rng.uniform(0.75, 1.0) * np.array([245, 205, 175], np.float32)
        shirt, trousers = rng.uniform(110, 255, (2, 3)).astype(np.float32)
        return cls(
            scale,
            float(rng.uniform(0.85, 1.0)),
            float(rng.uniform(0.95, 1.05)),
            float(rng.uniform(0.9, 1.15)),
            float(rng.uniform(0.9, 1.1)),
            skin,
            shirt,
            trousers,
        )


class View:
    """From positions of a script to pixels: camera, scale of the clip, and mirroring."""

    def __init__(self, camera: Point, scale: float, *, mirrored: bool) -> None:
        self.zoom = scale * float(camera[2])
        self._centre = camera[:2]
        self._side = -1.0 if mirrored else 1.0

    def pixel(self, x: float, y: float) -> Point:
        """(x, y) in pixels."""
        moved = self.zoom * (np.array([x, y]) - self._centre) * [self._side, 1.0]
        return np.asarray(moved + np.array([WIDTH / 2, HEIGHT / 2 + 8]))


def draw_frames(script: Script) -> list[NDArray[np.uint8]]:
    """The frames of a clip, (H, W, 3) each."""
    rng = np.random.default_rng([4, script.seed])
    backdrop = Backdrop(rng)
    scale, mirrored = float(rng.uniform(1.08, 1.18)), bool(rng.random() < 0.5)
    body = Body.drawn(rng, 1.0)
    passer = Passer(rng) if rng.random() < 0.4 else None
    colours = rng.uniform(140, 255, (2, 3)).astype(np.float32)
    images = []
    for index, pose in enumerate(script.poses):
        view = View(script.camera[index], scale, mirrored=mirrored)
        image = backdrop.crop(script.camera[index], index)
        if passer is not None:
            passer.draw(image, view, index)
        thing = script.thing[index]
        hands = _draw_figure(image, view, body, float(script.figure[index]), pose)
        if script.action == "lift":
            _draw_bar(image, view, hands, colours[0])
        if script.action == "visit":
            _draw_ball(image, view, thing, colours)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


class Backdrop:
    """A textured background that moves with the camera and, slowly, by itself."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._image = _texture(rng)
        self._sway = rng.uniform(1, 3, 2) * [1.0, 0.4]
        self._beat, self._phase = 2 * np.pi / rng.uniform(*BEAT, 2), rng.uniform(0, 2 * np.pi, 2)
        self._start = rng.uniform(0, TEXTURE, 2)

    def crop(self, camera: Point, index: int) -> Frame:
        """What is seen at a frame, a copy."""
        zoom = float(camera[2])
        corner = self._start + camera[:2]
        corner = corner + self._sway * np.sin(self._beat * index + self._phase)
        columns, rows = (
            np.round(at + (np.arange(size) - size / 2) / zoom).astype(int) % TEXTURE
            for at, size in zip(corner, (WIDTH, HEIGHT), strict=True)
        )
        return np.ascontiguousarray(self._image[rows][:, columns])


class Passer:
    """A second figure, further away, that waves and walks at its own beat."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._body = Body.drawn(rng, float(rng.uniform(0.35, 0.45)))
        self._x = float(rng.choice([-1, 1]) * rng.uniform(75, 95))
        self._beats = 2 * np.pi / rng.uniform(*BEAT, 3)
        self._shift = rng.uniform(0, 2 * np.pi, 3)

    def draw(self, image: Frame, view: View, index: int) -> None:
        """Draw it as it is at a frame."""
        near, far, walk = np.sin(self._beats * index + self._shift)
        pose = np.array([85 + 70 * near, 85 + 70 * far, 0, 0.1, 0.3 + 0.2 * walk])
        _draw_figure(image, view, self._body, self._x + 15 * float(walk), pose)


def _draw_figure(image: Frame, view: View, body: Body, x: float, pose: Point) -> list[Point]:
    """Draw a figure that stands on the floor; returns where its hands are, in pixels."""
    near, far, lean, crouch, stride = pose
    size = body.scale
    thick = size * body.thickness * view.zoom

    def reach(start: Point, degrees: float, length: float) -> Point:
        angle = np.deg2rad(degrees)
        return start + size * length * np.array([body.width * np.sin(angle), np.cos(angle)])

    def limb(start: Point, stop: Point, radius: float, colour: Frame) -> None:
        _capsule(image, view.pixel(*start), view.pixel(*stop), radius * thick, colour)

    hip = np.array([x, FLOOR - size * (64 * body.limbs - 34 * crouch)])
    neck = reach(hip, 180 - lean, 48)
    head = reach(neck, 180 - lean, 15)
    for side in (-1, 1):
        ankle = np.array([hip[0] + side * size * body.width * (6 + 26 * stride), FLOOR])
        limb(hip, ankle, 7, body.trousers)
    shoulders = [neck + np.array([side * size * body.width * 9, 5 * size]) for side in (-1, 1)]
    hands = []
    for side, shoulder, degrees in zip((-1, 1), shoulders, (far, near), strict=True):
        hand = reach(shoulder, side * degrees, 46 * body.limbs)
        limb(shoulder, hand, 5, body.skin)
        limb(hand, hand, 6, body.skin)
        hands.append(view.pixel(*hand))
    limb(hip, neck + np.array([0, 6 * size]), 11, body.shirt)
    limb(head, head, 11 * body.head / body.thickness, body.skin)
    return hands


def _draw_bar(image: Frame, view: View, hands: list[Point], colour: Frame) -> None:
    along = hands[1] - hands[0]
    along = along / max(1e-6, float(np.hypot(*along))) * 22 * view.zoom
    ends = hands[0] - along, hands[1] + along
    _capsule(image, *ends, 2.5 * view.zoom, np.full(3, 210, np.float32))
    for end in ends:
        _capsule(image, end, end, 10 * view.zoom, colour)


def _draw_ball(image: Frame, view: View, place: Point, colours: Frame) -> None:
    centre = view.pixel(*place)
    _capsule(image, centre, centre, BALL * view.zoom, colours[0])
    _capsule(image, centre, centre, BALL / 2 * view.zoom, colours[1])


def _capsule(image: Frame, start: Point, stop: Point, radius: float, colour: Frame) -> None:
    """Draw a line with round ends, its edge one pixel soft; positions are (x, y)."""
    low = np.floor(np.minimum(start, stop) - radius - 1).astype(int).clip(0)
    high = np.ceil(np.maximum(start, stop) + radius + 2).astype(int)
    high = np.minimum(high, [WIDTH, HEIGHT])
    if (low >= high).any():
        return
    x = np.arange(low[0], high[0], dtype=np.float32)[None, :] - np.float32(start[0])
    y = np.arange(low[1], high[1], dtype=np.float32)[:, None] - np.float32(start[1])
    along = (stop - start).astype(np.float32)
    length = float(along @ along) or 1.0
    share = ((x * along[0] + y * along[1]) / length).clip(0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    cover = (radius - distance + 0.5).clip(0, 1)[..., None].astype(np.float32)
    patch = image[low[1] : high[1], low[0] : high[0]]
    patch += cover * (colour - patch)


def _texture(rng: np.random.Generator) -> Frame:
    """A background that repeats, (TEXTURE, TEXTURE, 3): soft patches, blocks and discs."""
    image = np.empty((TEXTURE, TEXTURE, 3), np.float32)
    image[:] = rng.uniform(30, 90, 3)
    for cells in (4, 10, 32):
        coarse = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        image += 12 / cells**0.4 * _bilinear(coarse, TEXTURE)
    for _ in range(int(rng.integers(4, 10))):
        x, y = rng.integers(0, TEXTURE - 60, 2)
        width, height = rng.integers(15, 60, 2)
        image[y : y + height, x : x + width] += rng.uniform(-10, 10, 3).astype(np.float32)
    return image


def _bilinear(coarse: Frame, size: int) -> Frame:
    """A coarse image that repeats, made larger, (size, size, 3)."""
    cells = len(coarse)
    at = np.arange(size) * cells / size
    low = at.astype(int)
    high, share = (low + 1) % cells, (at - low).astype(np.float32)[:, None, None]
    rows = coarse[low] * (1 - share) + coarse[high] * share  # (size, cells, 3)
    share = share[:, 0][None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share, np.float32)
