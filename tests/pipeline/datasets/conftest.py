"""Miniature data sets: pictures and videos of a few frames in the formats of the real ones."""

import io

import av
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def jpegs():
    """Make JPEG pictures of a brightness that tells their number."""

    def make(count, size=(64, 48)):
        pictures = []
        for index in range(count):
            file = io.BytesIO()
            Image.new("RGB", size, (10 * index, 200 - 10 * index, 90)).save(file, "JPEG")
            pictures.append(file.getvalue())
        return pictures

    return make


@pytest.fixture
def write_video():
    """Write an MP4 of grey frames at 25 a second."""

    def write(path, count):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(count):
                image = np.full((48, 64, 3), index % 250, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))

    return write
