"""Bounds of the keys of an extraction."""

import pytest
from pydantic import ValidationError

from tokenreel.extract.config import ExtractConfig


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("blocks", (3, 4), (3, 3)),
        ("blocks", (-1,), ()),
        ("fps", 0.5, 0),
        ("fps", 1000.0, float("inf")),
        ("jpeg_quality", 1, 0),
        ("jpeg_quality", 100, 101),
        ("views", 64, 65),
        ("view_seed", 2**63 - 1, 2**63),
        ("batch_frames", 1, 0),
        ("workers", 1, 0),
        ("write_threads", 1, 0),
        ("timeout_seconds", 0.1, 0),
        ("max_failures", 0, -1),
    ],
)
def test_values_are_taken_up_to_their_bounds(key, taken, refused):
    assert getattr(ExtractConfig(**{key: taken}), key) == taken
    with pytest.raises(ValidationError, match=key):
        ExtractConfig(**{key: refused})


def test_a_count_of_frames_has_one_spelling():
    assert ExtractConfig(frames="uniform:08").frames == "uniform:8"


def test_crops_of_a_test_are_views_beside_the_centre_and_go_with_no_pictures():
    assert ExtractConfig(crops=3).num_views == 3
    assert ExtractConfig(views=2).num_views == 3
    with pytest.raises(ValidationError, match="takes neither views= nor pixels="):
        ExtractConfig(crops=3, pixels="centre", frames="scenes:folder")
