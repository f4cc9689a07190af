"""Rendered clips in which a red disc and a blue square move over grey, each clip along a path."""

import av
import numpy as np
import timm
import torch

SIDE, FRAMES, RADIUS = 128, 10, 18
GRID = 8  # patches of 16 pixels
NAMES = ("one", "two", "three", "four")
EXTRACTION = {
    "backbone": "test_vit",
    "image_size": SIDE,
    "blocks": (0, 5),
    "device": "cpu",
    "workers": 1,
}
RED, BLUE = (200, 30, 30), (30, 60, 200)


def centre(name, frame, colour=RED):
    """Where the disc, or the square, is in a frame: x, y in pixels, in the middle of a patch."""
    place = NAMES.index(name)
    column = 1 + (frame + 2 * place) % 6
    row = 1 + place % 2 if colour == RED else 5 + place // 2
    return 16 * (column if colour == RED else 7 - column) + 8, 16 * row + 8


def draw(name, frame):
    """The frame, uint8 (SIDE, SIDE, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.full((SIDE, SIDE, 3), 128, np.uint8)
    cx, cy = centre(name, frame, BLUE)
    picture[(abs(x - cx) <= RADIUS) & (abs(y - cy) <= RADIUS)] = BLUE
    cx, cy = centre(name, frame)
    picture[np.hypot(x - cx, y - cy) <= RADIUS] = RED
    return picture


def patch_at(x, y):
    """Number of the patch at a pixel."""
    return int(y) * GRID // SIDE * GRID + int(x) * GRID // SIDE


def pixels_of(patch):
    """The pixels of a patch as slices of rows and columns."""
    size = SIDE // GRID
    row, column = divmod(patch, GRID)
    return slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)


def is_red(image):
    """Which pixels of RGB (..., 3) are the disc's."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(int), -1, 0)
    return (red > green + 60) & (red > blue + 60)


def write_video(path, name, *, num_frames=FRAMES, rate=10):
    """The video of a clip."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv444p"
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(name, number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_videos(folder):
    """A video and labels of each clip: two phases; odd ones are validation clips."""
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    labels = ["video,start_seconds,stop_seconds,phase"]
    for place, name in enumerate(NAMES):
        path = f"{'val' if place % 2 else 'train'}/{name}.mp4"
        write_video(folder / path, name)
        labels += [f"{path},0,0.5,0", f"{path},0.5,1,1"]
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "phases.csv").write_text("action,phase\n,go\n,come\n")


def write_weights(path):
    """Random weights whose tokens tell what a patch shows, and nothing of where it is."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    state["pos_embed"].zero_()
    torch.save(state, path)
    return path
