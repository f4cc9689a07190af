"""Augmented views: each change of a frame alone, compared with numpy."""

import colorsys
import hashlib

import numpy as np
import pytest

from tokenreel.extract.images.augment import ViewAugmenter, view_parameters

FRAME = np.random.default_rng(1).integers(60, 190, (12, 12, 3), np.uint8)
STILL = {"seed": 5, "view": 1, "area": [1, 1], "aspect": [1, 1], "flip": 0, "jitter": 0}
STILL |= {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "grey": 0}
STILL |= {"blur": 0, "blur_sigma": [1, 1]}
GREY = np.array([0.299, 0.587, 0.114])


def augment(frame, size, clip="clip", **changes):
    view = {"name": "augmented-1"} | STILL | changes
    return ViewAugmenter(view, clip, {"image_size": size})(frame).permute(1, 2, 0).numpy()


def draws_of(clip):
    """The random numbers of view 1 of seed 5."""
    digest = hashlib.sha256(f"5|1|{clip}".encode()).digest()
    return np.random.Generator(np.random.PCG64(list(digest)))


def test_the_parameters_of_a_view_are_those_of_its_stores():
    assert view_parameters(1, 7)[1] == {
        "name": "augmented-1",
        "seed": 7,
        "view": 1,
        "area": [0.8, 1.0],
        "aspect": [3 / 4, 4 / 3],
        "flip": 0.5,
        "jitter": 0.8,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "grey": 0.2,
        "blur": 0.5,
        "blur_sigma": [0.1, 2.0],
    }


def test_a_view_is_flipped_grey_or_neither():
    np.testing.assert_array_equal(augment(FRAME, 12), FRAME)
    np.testing.assert_array_equal(augment(FRAME, 12, flip=1), FRAME[:, ::-1])
    grey = augment(FRAME, 12, grey=1)
    assert np.abs(grey - (FRAME @ GREY)[..., None]).max() < 0.51


def test_a_crop_lies_anywhere_in_the_frame_with_its_area_and_aspect():
    corners = set()
    for clip in map(str, range(30)):
        _, _, down, right = draws_of(clip).uniform(size=(10, 4))[0]
        top, left = int(down * 2), int(right * 2)
        wanted = FRAME[:4, :4][top : top + 3, left : left + 3]
        np.testing.assert_array_equal(augment(FRAME[:4, :4], 3, clip, area=[0.5625] * 2), wanted)
        corners.add((top, left))
        left = int(right * 3)
        wanted = FRAME[:4, :8][top : top + 3, left : left + 6]
        wide = augment(FRAME[:4, :8], (3, 6), clip, area=[0.5, 0.5], aspect=[2, 2])
        np.testing.assert_array_equal(wide, wanted)
    assert len(corners) == 4


def test_where_no_crop_fits_the_centre_is_taken():
    tall = augment(FRAME[:8, :2], (1, 2), aspect=[2, 2])
    np.testing.assert_array_equal(tall, FRAME[3:4, :2])
    wide = augment(FRAME[:2, :8], (2, 1), aspect=[0.5, 0.5])
    np.testing.assert_array_equal(wide, FRAME[:2, 3:4])


def brighter(image, strength):
    return image * (1 + strength)


def of_more_contrast(image, strength):
    middle = (image @ GREY).mean()
    return middle + (image - middle) * (1 + strength)


def more_saturated(image, strength):
    grey = (image @ GREY)[..., None]
    return grey + (image - grey) * (1 + strength)


def of_turned_hue(image, turns):
    turned = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        luminance, across, up = colorsys.rgb_to_yiq(*image[place])
        chroma = complex(across, up) * np.exp(2j * np.pi * turns)
        turned[place] = colorsys.yiq_to_rgb(luminance, chroma.real, chroma.imag)
    return turned


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", brighter),
        ("contrast", of_more_contrast),
        ("saturation", more_saturated),
        ("hue", of_turned_hue),
    ],
)
def test_colours_change_by_the_strength_that_is_drawn(name, change):
    place = ("brightness", "contrast", "saturation", "hue").index(name)
    for clip in "abc":
        draws = draws_of(clip)
        draws.uniform(size=42)  # crops, flip, whether it jitters
        strength = draws.uniform(-1, 1, size=4)[place] * 0.2
        wanted = change(FRAME / 255, strength).clip(0, 1) * 255
        found = augment(FRAME, 12, clip, jitter=1, **{name: 0.2})
        assert np.abs(found - wanted).max() < 4


def test_blur_is_a_gaussian_to_three_of_its_widths():
    step = (np.arange(14) >= 7).astype(float)
    frame = (np.outer(step, step)[..., None] * np.full(3, 255)).astype(np.uint8)
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    soft = np.convolve(np.pad(step, 3, mode="reflect"), kernel / kernel.sum(), mode="valid")
    found = augment(frame, 14, blur=1)
    assert np.abs(found - np.outer(soft, soft)[..., None] * 255).max() < 0.51
