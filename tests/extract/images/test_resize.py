"""The resize in whole numbers gives the bytes of torch's on the CPU, wherever it runs."""

import numpy as np
import pytest
import torch

from tokenreel.extract.images.resize import plan_resize, resize_on_device
from tokenreel.extract.images.transforms import (
    apply_transform,
    plan_on_device,
    transform_parameters,
)

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
SIZES = [(48, 64), (64, 48), (240, 426), (360, 640), (33, 77), (224, 224), (257, 255), (720, 1280)]


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    noise[: height // 3] = (noise[: height // 3] // 128) * 255  # hard edges, to overshoot
    return noise


def on_device(frame: np.ndarray, parameters: dict, device: str) -> np.ndarray:
    plan = plan_on_device(frame.shape[:2], parameters)
    assert plan is not None
    window = np.ascontiguousarray(frame[plan.window][None])
    assert window.shape == (1, *plan.window_shape)
    return resize_on_device(torch.from_numpy(window).to(device), plan)[0].cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
def test_resizing_on_the_device_gives_the_bytes_of_a_worker(size, device):
    parameters = transform_parameters("dino-256-224", 224)
    frame = picture(*size)
    wanted = apply_transform(frame, parameters).numpy()
    np.testing.assert_array_equal(on_device(frame, parameters, device), wanted)


@pytest.mark.parametrize("image_size", [32, (64, 128), (128, 64)])
def test_resizing_on_the_device_gives_the_bytes_of_a_worker_for_other_image_sizes(image_size):
    parameters = transform_parameters("dino-256-224", image_size)
    frame = picture(120, 213)
    wanted = apply_transform(frame, parameters).numpy()
    assert wanted.shape[1:] == ((32, 32) if image_size == 32 else image_size)
    np.testing.assert_array_equal(on_device(frame, parameters, "cpu"), wanted)


def test_an_enlargement_by_3_gives_the_bytes_of_a_worker():
    parameters, frame = transform_parameters("cover", 96), picture(32, 50)
    wanted = apply_transform(frame, parameters).numpy()
    np.testing.assert_array_equal(on_device(frame, parameters, "cpu"), wanted)


def test_a_crop_without_resizing_is_the_pixels_themselves():
    parameters = transform_parameters("mvformer-eval", 224)
    frame = picture(360, 640)
    np.testing.assert_array_equal(
        on_device(frame, parameters, "cpu"), frame[68:292, 208:432].transpose(2, 0, 1)
    )


def test_resizing_that_is_not_exact_on_the_device_is_left_to_the_worker():
    assert plan_on_device((360, 640), transform_parameters("mvformer-train", 224)) is None
    assert plan_on_device((9000, 9000), transform_parameters("dino-256-224", 32)) is None
    with pytest.raises(ValueError, match="9000 pixels to 37: the reduction is too strong"):
        plan_resize((9000, 9000), (37, 37), (0, 0), (32, 32))
