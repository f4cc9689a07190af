"""Colours of tokens: principal directions of what they were fitted on."""

import numpy as np

from tokenreel.extract.preview.colours import ColourAxes


def test_the_first_three_directions_are_those_of_the_largest_spread():
    rng = np.random.default_rng(0)
    spread = np.array([0.1, 9.0, 1.0, 3.0, 0.01])
    tokens = (rng.standard_normal((500, 5)) * spread + [5, -3, 100, 0, 7]).astype(np.float32)
    axes = ColourAxes.fit(tokens.reshape(20, 25, 5))
    np.testing.assert_allclose(axes.mean, tokens.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.abs(axes.directions), np.eye(5)[:, [1, 3, 2]], atol=0.06)
    along = (tokens - axes.mean) @ axes.directions
    np.testing.assert_allclose(axes.low, np.percentile(along, 1, axis=0), atol=1e-3)
    np.testing.assert_allclose(axes.high, np.percentile(along, 99, axis=0), atol=1e-3)


def test_colours_rise_along_a_direction_and_end_at_black_and_white():
    axes = ColourAxes(
        np.array([1.0, 0]), np.eye(2, 3), np.array([-2.0, 0, 0]), np.array([2.0, 1, 0])
    )
    tokens = np.array([[-9.0, 0.25], [1.0, 0.5], [2.0, 2.0], [9.0, -1.0]], np.float32)
    found = axes.colours(tokens)
    np.testing.assert_allclose(found[:, 0], [0, 0.5, 0.75, 1])
    np.testing.assert_allclose(found[:, 1], [0.25, 0.5, 1, 0])
    assert np.isfinite(found[:, 2]).all()  # a direction without any spread
    assert found.dtype == np.float32
