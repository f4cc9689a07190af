"""Presets: what the backbone sees of a frame."""

import numpy as np
import pytest
from PIL import Image

from tokenreel.extract.transforms import apply_transform, transform_parameters
from tokenreel.extract.video import VideoError
from tokenreel.extract.views import ViewAugmenter, view_parameters

FRAME = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8).repeat(10, 0).repeat(10, 1)


def test_dino_is_within_two_levels_of_pil():
    image = apply_transform(FRAME, transform_parameters("dino-256-224", 224)).permute(1, 2, 0)
    small = np.asarray(Image.fromarray(FRAME).resize((455, 256), Image.Resampling.BICUBIC), int)
    wanted = small[16:240, 116:340]
    assert np.abs(image.numpy().astype(int) - wanted).max() <= 2


def test_mvformer_eval_is_the_native_centre_of_the_frame():
    image = apply_transform(FRAME, transform_parameters("mvformer-eval", 224))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), FRAME[68:292, 208:432])


def test_mvformer_eval_refuses_a_frame_smaller_than_its_crop():
    with pytest.raises(VideoError, match="64x36 are smaller than the 224x224 crop"):
        apply_transform(FRAME[::10, ::10], transform_parameters("mvformer-eval", 224))


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
