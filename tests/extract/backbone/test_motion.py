"""Space-time gradients: which way things move, and nothing of how they look."""

import numpy as np
import pytest
import torch

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.families import backbone_shape, build_backbone, load_weights
from tokenreel.extract.backbone.motion_backbone import (
    GRID,
    MEAN,
    STATISTICS,
    STD,
    gradient_statistics,
)
from tokenreel.pipeline.datasets.trailers import draw_trailer, write_trailer

ACROSS, ALONG, CHANGE = 0, 1, 5


def moving(across=0, along=0, frames=12, side=32):
    """A smooth texture that moves by pixels a frame, (1, F, 3, H, W) in [0.2, 0.8]."""
    rows, columns = np.meshgrid(*[np.arange(side) * 2 * np.pi / side] * 2, indexing="ij")
    texture = np.sin(2 * columns + 1) + np.sin(3 * rows) + np.sin(2 * rows - 3 * columns)
    images = [np.roll(texture, (along * t, across * t), (0, 1)) / 10 + 0.5 for t in range(frames)]
    return torch.tensor(np.stack(images), dtype=torch.float32)[None, :, None].expand(
        -1, -1, 3, -1, -1
    )


def statistics(images):
    """As they are before they are standardised."""
    found = gradient_statistics(images)[0].reshape(GRID * GRID, STATISTICS)
    return found * torch.tensor(STD) + torch.tensor(MEAN)


def test_the_sign_says_which_way_things_move():
    right, left = statistics(moving(across=1)), statistics(moving(across=-1))
    down, up = statistics(moving(along=1)), statistics(moving(along=-1))
    assert right[:, ACROSS].mean() < -0.05 < 0.05 < left[:, ACROSS].mean()
    assert down[:, ALONG].mean() < -0.05 < 0.05 < up[:, ALONG].mean()
    still = statistics(moving())
    assert (still[:, [ACROSS, ALONG, CHANGE]].abs() < 1e-6).all()


def test_by_hand_on_a_ramp_that_moves_to_the_right():
    """Contrast-normalised, a ramp of slope s has s' = s / deviation; one step right is -s'."""
    side = 16
    ramp = torch.arange(2 * side, dtype=torch.float32).expand(2 * side, -1) / 100
    images = torch.stack([ramp, ramp])[None, :, None].expand(-1, -1, 3, -1, -1)
    slope = 1 / torch.arange(side).float().std(correction=0)  # of the halved frame
    found = statistics(images)
    torch.testing.assert_close(found[:, 2], torch.full((16,), float(slope**2)))
    assert found[:, [0, 1, 3, 4, 5]].abs().max() < 1e-6


def test_colour_brightness_and_contrast_have_no_effect():
    images = moving(across=1)
    wanted = gradient_statistics(images)
    tint = torch.tensor([0.2, -0.1, 0.15])[:, None, None]
    torch.testing.assert_close(gradient_statistics(images + tint), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient_statistics(images * 0.5), wanted, rtol=1e-3, atol=1e-4)


def test_frames_without_contrast_give_zeros():
    assert (statistics(torch.full((1, 12, 3, 32, 32), 0.3)).abs() < 1e-6).all()


def test_statistics_of_moving_scenes_are_of_the_size_of_a_networks_channels():
    scenes = [
        np.stack([frame for frame, _ in zip(draw_trailer(script), range(12), strict=False)])
        for script in [write_trailer("train", index) for index in range(24)]
    ]
    images = torch.from_numpy(np.stack(scenes)).permute(0, 1, 4, 2, 3).float() / 255
    found = gradient_statistics(images).reshape(-1, STATISTICS)
    assert found.mean(dim=0).abs().max() < 0.4
    assert ((found.std(dim=0) > 0.6) & (found.std(dim=0) < 1.4)).all()


def test_the_family_has_no_weights_and_gives_one_vector_a_window():
    shape = backbone_shape("motion:gradients", (-1,), None)
    assert (shape.blocks, shape.dim, shape.frames_per_window) == ((0,), 96, 12)
    assert load_weights("motion:gradients", "random:3") == {}
    backbone = build_backbone("motion:gradients", {}, shape)
    images = torch.randint(0, 256, (24, 3, 64, 64), dtype=torch.uint8)
    tokens = backbone(images).tokens[0]
    assert tokens.shape == (2, 1, 96)
    both = gradient_statistics(images.float().unflatten(0, (2, 12)) / 255)
    torch.testing.assert_close(tokens[:, 0], both)
    torch.testing.assert_close(backbone(images[12:]).tokens[0][0], tokens[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "blocks", "size", "message"),
    [
        ("motion:gradient", (0,), None, "did you mean gradients"),
        ("motion:gradients", (3,), None, "has one block, blocks=0"),
        ("motion:gradients", (0,), 8, "takes 16 and more"),
    ],
)
def test_what_it_does_not_have_is_refused(name, blocks, size, message):
    with pytest.raises(UsageError, match=message):
        backbone_shape(name, blocks, size)


def test_frames_are_grey_by_the_luma_of_bt_601():
    images = torch.rand((1, 3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    grey = 0.299 * images[:, :, 0] + 0.587 * images[:, :, 1] + 0.114 * images[:, :, 2]
    wanted = gradient_statistics(grey[:, :, None].expand_as(images))
    torch.testing.assert_close(gradient_statistics(images), wanted, rtol=1e-4, atol=1e-4)


def test_noise_far_below_a_level_is_no_motion():
    noise = 1e-6 * torch.rand((1, 4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    still = -torch.tensor(MEAN) / torch.tensor(STD)
    found = gradient_statistics(0.5 + noise).unflatten(1, (GRID * GRID, STATISTICS))
    torch.testing.assert_close(found, still.expand_as(found), rtol=0, atol=1e-4)
