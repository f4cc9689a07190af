"""Stores of pictures: their identity, and the JPEGs of images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

from tokenreel.cache.read.pictures import PIXELS
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode import pictures
from tokenreel.extract.encode.pictures import JpegEncoder, PassThrough, picture_identity

SCENES = {"policy": "scenes", "sha256": "0" * 64}


@pytest.fixture
def identity(monkeypatch):
    """A function that gives the identity of a store with `pixels`, of scenes that are not read."""
    monkeypatch.setattr(pictures, "frames_identity", lambda config: SCENES)
    return lambda **given: picture_identity(ExtractConfig(frames="scenes:folder", **given))


def test_an_identity_has_what_decides_the_pictures_and_no_more(identity):
    assert identity(pixels="centre").transform == {
        "name": "dino-256-224",
        "image_size": 224,
        "short_side": 256,
        "resize": "bicubic-antialias-uint8",
        "crop": "centre",
        "smaller": "enlarged",
        "jpeg": {"quality": 95, "subsampling": "4:2:0"},
    }
    every = identity(pixels="all")
    assert every.transform["image_size"] == [128, 171]
    assert (every.image_size, every.frames_per_window) == ((128, 171), 12)


def test_images_are_copied_and_their_jpegs_have_half_the_colour(identity):
    centre = identity(pixels="centre", image_size=32)
    images = torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)
    passed = PassThrough(centre).forward(images)
    images.zero_()
    encoder = JpegEncoder(centre)
    outputs = {name: values.numpy() for name, values in encoder.on_device(passed).items()}
    view = encoder.on_host(outputs, slice(0, 1))
    [data] = view.strings[PIXELS]
    assert view.num_bytes == len(data)
    picture = Image.open(io.BytesIO(data))
    assert np.unique(np.asarray(picture)).tolist() == [7]
    assert JpegImagePlugin.get_sampling(picture) == 2  # 4:2:0


def test_each_row_has_the_pictures_of_its_own_window(identity):
    every = identity(pixels="all", image_size=32)
    greys = np.arange(24, dtype=np.uint8) * 10  # two windows of 12 frames
    images = np.broadcast_to(greys[:, None, None, None], (24, 3, 32, 32))
    view = JpegEncoder(every).on_host({PIXELS: images}, slice(1, 2))
    [row] = view.strings[PIXELS]
    pictures_of_row = [b"\xff\xd8\xff" + part for part in row.split(b"\xff\xd8\xff")[1:]]
    found = [int(np.asarray(Image.open(io.BytesIO(each))).mean()) for each in pictures_of_row]
    assert found == greys[12:].tolist()
