"""Presets: what the backbone sees of a frame."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.images.augment import ViewAugmenter, view_parameters, view_transform
from tokenreel.extract.images.transforms import apply_transform, transform_parameters
from tokenreel.extract.video.types import VideoError

FRAME = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8).repeat(10, 0).repeat(10, 1)


@pytest.mark.parametrize("is_tall", [False, True])
def test_dino_is_within_two_levels_of_pil(is_tall):
    frame = FRAME.transpose(1, 0, 2) if is_tall else FRAME
    image = apply_transform(frame, transform_parameters("dino-256-224", 224)).permute(1, 2, 0)
    size = (256, 455) if is_tall else (455, 256)
    small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), int)
    wanted = small[116:340, 16:240] if is_tall else small[16:240, 116:340]
    assert np.abs(image.numpy().astype(int) - wanted).max() <= 2


def test_cover_is_the_whole_short_side():
    image = apply_transform(FRAME, transform_parameters("cover", 224)).permute(1, 2, 0)
    small = np.asarray(Image.fromarray(FRAME).resize((398, 224), Image.Resampling.BICUBIC), int)
    assert np.abs(image.numpy().astype(int) - small[:, 87:311]).max() <= 2


@pytest.mark.parametrize("name", ["cover", "dino-256-224"])
@pytest.mark.parametrize("is_tall", [False, True])
def test_crops_lie_at_both_ends_of_the_longer_side(name, is_tall):
    parameters = transform_parameters(name, 32)
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None], (64, 128, 3))
    frame = np.ascontiguousarray(ramp.transpose(1, 0, 2) if is_tall else ramp)
    clean, first, last = view_parameters(0, 0, 3)
    assert clean == {"name": "clean"}
    images = [view_transform(view, "clip", parameters)(frame).numpy() for view in (first, last)]
    images.insert(1, apply_transform(frame, parameters).numpy())
    across = [image[0] if not is_tall else image[0].T for image in images]
    side = parameters["short_side"]
    for image, start in zip(across, (0, side - 16, 2 * side - 32), strict=True):
        wanted = (np.arange(start, start + 32) + 0.5) * 64 / side
        inner = slice(2, -2)  # resizing an edge repeats it
        assert np.abs(image[:, inner] - wanted[inner]).max() < 2


def test_mvformer_eval_is_the_native_centre_of_the_frame():
    image = apply_transform(FRAME, transform_parameters("mvformer-eval", 224))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), FRAME[68:292, 208:432])
    odd = apply_transform(FRAME[:357, :637], transform_parameters("mvformer-eval", 224))
    np.testing.assert_array_equal(odd.permute(1, 2, 0).numpy(), FRAME[67:291, 207:431])


@pytest.mark.parametrize(("height", "width"), [(36, 64), (100, 640), (360, 100)])
def test_mvformer_eval_refuses_a_frame_smaller_than_its_crop(height, width):
    with pytest.raises(VideoError, match=f"{width}x{height} are smaller than the 224x224 crop"):
        apply_transform(FRAME[:height, :width], transform_parameters("mvformer-eval", 224))


def test_mvformer_train_takes_the_centre_between_3_to_4_and_4_to_3():
    wide = apply_transform(FRAME[:30, :90], transform_parameters("mvformer-train", (30, 40)))
    np.testing.assert_array_equal(wide.permute(1, 2, 0).numpy(), FRAME[:30, 25:65])
    tall = apply_transform(FRAME[:90, :30], transform_parameters("mvformer-train", (40, 30)))
    np.testing.assert_array_equal(tall.permute(1, 2, 0).numpy(), FRAME[25:65, :30])


def test_crops_of_a_square_frame_move_along_its_width():
    parameters = transform_parameters("dino-256-224", 28)  # the short side is 32
    for place, left in (("first", 0), ("centre", 2), ("last", 4)):
        image = apply_transform(FRAME[:32, :32], parameters, place=place).permute(1, 2, 0)
        np.testing.assert_array_equal(image.numpy(), FRAME[2:30, left : left + 28])


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="no transform 'mvf'"):
        transform_parameters("mvf", 224)


def test_a_view_is_the_same_for_every_frame_of_a_clip_and_differs_between_clips_and_views():
    parameters = transform_parameters("dino-256-224", 32)
    _, first, second = view_parameters(2, 7)
    image = ViewAugmenter(first, "clip", parameters)(FRAME)
    again = ViewAugmenter(first, "clip", parameters)
    np.testing.assert_array_equal(again(FRAME), image)
    np.testing.assert_array_equal(again(FRAME), image)
    assert (ViewAugmenter(second, "clip", parameters)(FRAME) != image).any()
    assert (ViewAugmenter(first, "other", parameters)(FRAME) != image).any()


def test_a_view_crops_flips_and_colours_every_frame_of_a_clip_alike():
    """A frame that holds one colour a quarter: where the quarters lie tells the crop and flip."""
    parameters = transform_parameters("dino-256-224", 32)
    views = view_parameters(8, 3)[1:]
    one = np.zeros((60, 80, 3), np.uint8)
    one[:30, :40], one[:30, 40:], one[30:, :40], one[30:, 40:] = 40, 90, 140, 190
    other = one[:, ::-1]
    for view in views:
        augmenter = ViewAugmenter(view, "clip", parameters)
        seen, turned = augmenter(one).numpy(), augmenter(other).numpy()
        assert (seen != turned).any()  # it is the frame that differs
        np.testing.assert_array_equal(augmenter(one).numpy(), seen)  # and nothing else


def test_views_flip_crop_grey_and_blur_about_as_often_as_they_say():
    parameters = transform_parameters("dino-256-224", 32)
    (_, view) = view_parameters(1, 0)
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, :32, 0], colours[:, 32:, 2] = 255, 255
    greys, flips = 0, 0
    for number in range(200):
        image = ViewAugmenter(view, f"clip {number}", parameters)(colours).numpy().astype(int)
        greys += int((image[0] == image[1]).all() and (image[1] == image[2]).all())
        red_left, red_right = image[0, :, :8].sum(), image[0, :, -8:].sum()
        flips += int(red_left < red_right)
    assert 20 <= greys <= 65  # 0.2 of 200
    assert 60 <= flips <= 140  # 0.5 of those with colour left; grey ones fall on either side


def test_another_seed_gives_another_view():
    parameters = transform_parameters("dino-256-224", 32)
    first, second = (view_parameters(1, seed)[1] for seed in (0, 1))
    images = [ViewAugmenter(view, "clip", parameters)(FRAME).numpy() for view in (first, second)]
    assert (images[0] != images[1]).any()


def test_an_image_may_be_longer_than_wide_and_is_never_stretched():
    tall = transform_parameters("dino-256-224", (128, 64))
    assert tall["short_side"] == 73  # 64 * 8 / 7
    rings = np.zeros((120, 213, 3), np.uint8)
    y, x = np.mgrid[:120, :213]
    rings[(y - 60) ** 2 + (x - 106) ** 2 < 20**2] = 255
    image = apply_transform(rings, tall).numpy()[0] > 128
    assert image.shape == (128, 64)
    assert abs(image.any(0).sum() - image.any(1).sum()) <= 1  # still a circle


@pytest.mark.parametrize(
    ("given", "kept"), [(32, 32), ([32], 32), ((32, 32), 32), ((32, 16), (32, 16)), (None, None)]
)
def test_an_image_has_one_side_or_height_and_width(given, kept):
    assert ExtractConfig(image_size=given).image_size == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "image_size is positive"),
        ((32, -16), "image_size is positive"),
        ((32, 16, 32), "image_size"),
        ((32, 32, 32), "image_size"),
    ],
)
def test_other_sizes_of_an_image_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        ExtractConfig(image_size=given)
