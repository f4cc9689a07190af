"""`captioned`: rendered clips of one thing that does something, and captions of four prompts.

    prompt  what its caption says
    A       the action: what the thing does
    B       its components: the colour and the shape of the thing
    C       the action in detail: the thing, what it does and where
    D       the context: the ground behind it

The action of a clip is what the thing does and its colour, such as "grow red".  All facts are drawn
independently, and so are a tint and specks of the ground, which no caption names and which change a
clip more than the thing does.

The root that is written is a `folder` root as well; captions.jsonl in it is for `extract text`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.files import whole_file
from tokenreel.pipeline.datasets.folder import folder
from tokenreel.pipeline.datasets.rendering import counts_of, note_text, render_missing, write_video
from tokenreel.pipeline.datasets.survey import Survey, refuse_unknown

NAME = "captioned"
VERSION = 1  # of scripts and pictures
NUM_TRAIN, NUM_VAL, NUM_TEST = 480, 64, 160
FPS, SIDE, FRAMES = 8, 64, 8
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 70, 225),
    "white": (245, 245, 245),
}
SHAPES = ("disc", "square", "cross")
DOES = {  # what a thing does -> its caption
    "grow": "grows larger and larger",
    "shrink": "shrinks to almost nothing",
    "cross": "slides from one side to the other",
    "blink": "appears and disappears again and again",
}
GROUNDS = {  # of the ground -> its caption
    "stripes": "a striped wall",
    "checks": "a floor of checks",
    "plain": "an empty field",
}
CAPTIONS = "captions.jsonl"
LICENCE = "rendered by TokenReel, Apache-2.0"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CaptionedClip:
    """The script of a clip.

    Attributes:
        video: path below the root.
        seed: of what no caption names.
        colour, shape, does, ground: the facts.
    """

    video: str
    seed: int
    colour: str
    shape: str
    does: str
    ground: str

    @property
    def action(self) -> str:
        """Its action."""
        return f"{self.does} {self.colour}"

    @property
    def captions(self) -> dict[str, str]:
        """Prompt -> its caption."""
        thing = f"{self.colour} {self.shape}"
        return {
            "A": f"Something {DOES[self.does]}.",
            "B": f"There is a {thing}.",
            "C": f"A {thing} {DOES[self.does]} in front of {GROUNDS[self.ground]}.",
            "D": f"It takes place in front of {GROUNDS[self.ground]}.",
        }


def captioned(root: Path, options: Mapping[str, str]) -> Survey:
    """The rendered data set; clips that are there already are used again.

    Args:
        root: where the clips, clips.csv and captions.jsonl are kept.
        options: `train`, `val` and `test`, numbers of clips; those that are there, else 480, 64
            and 160.

    Raises:
        UsageError: an option that is wrong, or a root that holds something else.
    """
    refuse_unknown(NAME, options, ["train", "val", "test"])
    note = root / f"{NAME}.json"
    counts = counts_of(note, options, {"train": NUM_TRAIN, "val": NUM_VAL, "test": NUM_TEST})
    made_with = note_text(note, VERSION, counts)
    scripts = [write_script(split, index) for split in counts for index in range(counts[split])]
    root.mkdir(parents=True, exist_ok=True)
    render_missing(root, scripts, render_clip)
    rows = [f"{s.video},{s.video.partition('/')[0]},{s.action}" for s in scripts]
    lines = [
        json.dumps({"clip": script.video, "prompt": prompt, "text": text, "model": NAME})
        for script in scripts
        for prompt, text in script.captions.items()
    ]
    for path, text in [
        (root / "clips.csv", "\n".join(["video,split,action", *rows, ""])),
        (root / CAPTIONS, "\n".join([*lines, ""])),
        (note, made_with),
    ]:
        with whole_file(path) as partial:
            partial.write_text(text)
    manifest = folder(root, {}).manifest
    return Survey(replace(manifest, dataset=NAME, licence=LICENCE, notes=()))


def write_script(split: str, index: int) -> CaptionedClip:
    """The script of a clip: a pure function of split and index.

    Actions come in turn, so that each has as many clips; the other facts are drawn.
    """
    seed = 3 * index + ("train", "val", "test").index(split)
    rng = np.random.default_rng([VERSION, seed])
    does = tuple(DOES)[index % len(DOES)]
    colour = tuple(COLOURS)[index // len(DOES) % len(COLOURS)]
    shape, ground = str(rng.choice(SHAPES)), str(rng.choice(tuple(GROUNDS)))
    return CaptionedClip(f"{split}/clip_{index:03d}.mp4", seed, colour, shape, does, ground)


def render_clip(root: Path, script: CaptionedClip) -> None:
    """Draw and encode a clip, H.264 in MP4, whole or absent."""
    write_video(root / script.video, draw_clip(script), fps=FPS)


def draw_clip(script: CaptionedClip) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip, (SIDE, SIDE, 3) each."""
    rng = np.random.default_rng([VERSION, script.seed, 1])
    ground = _ground(script.ground, rng)
    colour = np.array(COLOURS[script.colour], float) + rng.uniform(-15, 15, 3)
    row, column = rng.uniform(0.35, 0.65, 2) * SIDE
    from_left = bool(rng.random() < 0.5)
    for index in range(FRAMES):
        share = index / (FRAMES - 1)
        radius, x, is_shown = 0.24 * SIDE, column, True
        if script.does == "grow":
            radius = (0.1 + 0.38 * share) * SIDE
        elif script.does == "shrink":
            radius = (0.22 - 0.17 * share) * SIDE
        elif script.does == "cross":
            x = (share if from_left else 1 - share) * SIDE
        else:
            is_shown = bool(index % 2)
        image = ground.copy()
        if is_shown:
            image[_inside(script.shape, row, x, radius)] = colour
        yield image.round().clip(0, 255).astype(np.uint8)


def _inside(shape: str, row: float, column: float, radius: float) -> NDArray[np.bool_]:
    """The pixels of a thing, bool (SIDE, SIDE)."""
    y, x = (
        np.abs(grid) for grid in np.mgrid[:SIDE, :SIDE] - np.array([row, column])[:, None, None]
    )
    if shape == "disc":
        return np.asarray(np.hypot(y, x) <= radius)
    if shape == "square":
        return np.asarray(np.maximum(y, x) <= 0.89 * radius)
    return np.asarray((np.maximum(y, x) <= 1.2 * radius) & (np.minimum(y, x) <= 0.4 * radius))


def _ground(kind: str, rng: np.random.Generator) -> Floats:
    """The ground of a clip, (SIDE, SIDE, 3), with a tint and specks that no caption names."""
    tint = rng.uniform(90, 150, 3)
    y, x = np.mgrid[:SIDE, :SIDE] + int(rng.integers(16))
    pattern = {"stripes": x // 8 % 2, "checks": (x // 8 + y // 8) % 2, "plain": 0 * x}[kind]
    image = tint + 40.0 * (np.asarray(pattern, float)[..., None] - 0.5)
    for _ in range(int(rng.integers(2, 5))):
        top, left = rng.integers(0, SIDE - 6, 2)
        image[top : top + 6, left : left + 6] = rng.uniform(0, 255, 3)
    return image
