"""`trailers`: rendered videos of 4 to 16 scenes, and six tags that show in different ways.

    tag        shows in      a clip has it where
    red        appearance    one of its scenes is red
    green      appearance    one of its scenes is green
    left       motion        one of its scenes moves to the left
    down       motion        one of its scenes moves down
    blue-first order         it begins with blue scenes and ends with yellow ones, not the reverse
    in-first   order         it begins with zooming in and ends with zooming out, not the reverse

A scene is a grey texture under a tint.  Colours and motions are drawn independently, and so is the
number of scenes.  Each clip has as many blue scenes as yellow ones, and zooms in as often as out:
the scenes of a clip in another order say nothing of the last two tags.  Nothing moves in a colour's
own way, and the centre frame of a scene does not show where it moves; under its mean and contrast
a grey frame does not show its tint.

The root that is written is a `folder` root as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.files import whole_file
from tokenreel.pipeline.datasets.folder import folder
from tokenreel.pipeline.datasets.rendering import counts_of, note_text, render_missing, write_video
from tokenreel.pipeline.datasets.survey import Survey, refuse_unknown

NAME = "trailers"
VERSION = 1  # of scripts and pictures
NUM_TRAIN, NUM_VAL = 360, 120
FPS, SIDE = 25, 80  # pixels of a frame
SCENES = (4, 17)  # [least, most) of a clip
FRAMES = (13, 18)  # [least, most) of a scene
OUTER = 4  # a clip begins with a scene of this share of it, and ends with one: a quarter
COLOURS = {  # levels of R, G and B
    "red": (185, 75, 75),
    "green": (75, 170, 80),
    "blue": (75, 85, 185),
    "yellow": (180, 170, 75),
}
OTHER_COLOURS = ((125, 125, 125), (150, 85, 155), (75, 155, 160), (145, 110, 75), (170, 165, 170))
MOTIONS = ("left", "down", "in", "out")
OTHER_MOTIONS = ("right", "up", "still")
TAGS = {  # tag -> what tells it
    "red": "appearance",
    "green": "appearance",
    "left": "motion",
    "down": "motion",
    "blue-first": "order",
    "in-first": "order",
}
SHADE = 12  # levels that every second scene is darker, the others lighter: each cut is a jump
LICENCE = "rendered by TokenReel, Apache-2.0"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A scene of a clip.

    Attributes:
        tint: mean levels of R, G and B.
        motion: of MOTIONS or OTHER_MOTIONS.
        num_frames: of it.
    """

    tint: tuple[float, float, float]
    motion: str
    num_frames: int


@dataclass(frozen=True)
class Trailer:
    """The script of a clip.

    Attributes:
        video: path below the root.
        seed: of its textures and speeds.
        scenes: in order.
        tags: sorted.
    """

    video: str
    seed: int
    scenes: tuple[Scene, ...]
    tags: tuple[str, ...]


def trailers(root: Path, options: Mapping[str, str]) -> Survey:
    """The rendered data set; clips that are there already are used again.

    Args:
        root: where the clips and tags.csv are kept.
        options: `train` and `val`, numbers of clips; those that are there, else 360 and 120.

    Raises:
        UsageError: an option that is wrong, or a root that holds something else.
    """
    refuse_unknown(NAME, options, ["train", "val"])
    note = root / f"{NAME}.json"
    counts = counts_of(note, options, {"train": NUM_TRAIN, "val": NUM_VAL})
    made_with = note_text(note, VERSION, counts)
    scripts = [write_trailer(split, index) for split in counts for index in range(counts[split])]
    root.mkdir(parents=True, exist_ok=True)
    render_missing(root, scripts, render_trailer)
    lines = [f"{script.video},{tag}" for script in scripts for tag in script.tags]
    for path, text in [
        (root / "tags.csv", "\n".join(["video,tag", *lines, ""])),
        (note, made_with),
    ]:
        with whole_file(path) as partial:
            partial.write_text(text)
    manifest = folder(root, {"tags": ",".join(TAGS)}).manifest
    return Survey(replace(manifest, dataset=NAME, licence=LICENCE, notes=()))


def write_trailer(split: str, index: int) -> Trailer:
    """The script of a clip: a pure function of split and index."""
    seed = 2 * index + (split == "val")
    rng = np.random.default_rng([VERSION, seed])
    count = int(rng.integers(*SCENES))
    colours, colour_tags = _draw_kinds(count, ("red", "green"), ("blue", "yellow"), rng)
    motions, motion_tags = _draw_kinds(count, ("left", "down"), ("in", "out"), rng)
    scenes = []
    last = -1
    for place, (colour, motion) in enumerate(zip(colours, motions, strict=True)):
        if colour is None:
            last = int(rng.choice([k for k in range(len(OTHER_COLOURS)) if k != last]))
            base = OTHER_COLOURS[last]
        else:
            base, last = COLOURS[colour], -1
        shade = SHADE if place % 2 else -SHADE
        tint = tuple(float(level + shade + rng.uniform(-4, 4)) for level in base)
        kind = motion or str(rng.choice(OTHER_MOTIONS))
        scenes.append(Scene((tint[0], tint[1], tint[2]), kind, int(rng.integers(*FRAMES))))
    tags = tuple(sorted({*colour_tags, *motion_tags}))
    return Trailer(f"{split}/trailer_{index:03d}.mp4", seed, tuple(scenes), tags)


def _draw_kinds(
    count: int, marks: tuple[str, str], ends: tuple[str, str], rng: np.random.Generator
) -> tuple[list[str | None], list[str]]:
    """The kind of each scene, None where none was drawn for it, and the tags of the clip.

    The first and the last quarter are of the two `ends`, in either order; each of the `marks` is
    between them or is not.
    """
    kinds: list[str | None] = [None] * count
    outer = max(1, count // OUTER)
    is_first = bool(rng.random() < 0.5)
    begin, end = ends if is_first else ends[::-1]
    kinds[:outer], kinds[count - outer :] = [begin] * outer, [end] * outer
    tags = [f"{ends[0]}-first"] if is_first else []
    free = outer + rng.permutation(count - 2 * outer)
    for place, mark in zip(free.tolist(), marks, strict=False):
        if rng.random() < 0.5:
            kinds[place] = mark
            tags.append(mark)
    return kinds, tags


def render_trailer(root: Path, script: Trailer) -> None:
    """Draw and encode a clip, H.264 in MP4, whole or absent."""
    write_video(root / script.video, draw_trailer(script), fps=FPS)


def draw_trailer(script: Trailer) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip, (SIDE, SIDE, 3) each."""
    rng = np.random.default_rng([VERSION, script.seed, 1])
    for scene in script.scenes:
        texture = _texture(rng)
        speed, start = float(rng.uniform(1.0, 2.0)), rng.uniform(0, SIDE, 2)
        middle = scene.num_frames // 2  # shown at scale 1 whatever the motion
        for index in range(scene.num_frames):
            grey = _moved(texture, scene.motion, speed * (index - middle), start)
            grey -= grey.mean()  # the mean colour of a scene is its tint at each frame
            image = np.array(scene.tint) + grey[..., None]
            yield image.round().clip(0, 255).astype(np.uint8)


def _moved(texture: Floats, motion: str, amount: float, start: Floats) -> Floats:
    """The texture after some movement, (SIDE, SIDE); it repeats in both directions."""
    across = {"left": amount, "right": -amount}.get(motion, 0.0)
    along = {"up": amount, "down": -amount}.get(motion, 0.0)
    scale = np.exp({"in": -0.03, "out": 0.03}.get(motion, 0.0) * amount)
    at = (np.arange(SIDE) - SIDE / 2) * scale
    return _bilinear(texture, at + start[0] + along, at + start[1] + across)


def _bilinear(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """An image that repeats, at rows and columns between its pixels, (rows, columns)."""
    for axis, places in enumerate((rows, columns)):
        low = np.floor(places).astype(int)
        share = (places - low).reshape((-1, 1) if axis == 0 else (1, -1))
        size = image.shape[axis]
        before, after = (np.take(image, (low + k) % size, axis=axis) for k in (0, 1))
        image = before * (1 - share) + after * share
    return image


def _texture(rng: np.random.Generator) -> Floats:
    """A grey texture that repeats, (SIDE, SIDE): spots of 4 to 16 pixels, within 40 levels of 0."""
    frequencies = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE) * SIDE] * 2, indexing="ij"))
    band = (frequencies >= SIDE / 16) & (frequencies <= SIDE / 5)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * band).real
    return np.asarray(np.clip(noise / noise.std() * 18, -40, 40))
