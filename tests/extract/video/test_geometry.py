"""Geometry: the eight orientations, angles near them, and pixels that are not square."""

import logging
import math
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.extract.barcodes import every_40_ms, write_barcodes
from tests.extract.video.streams import EIGHT, ONE
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.geometry import (
    Orientation,
    make_square,
    orientation_of,
    square_size,
    warn_of_geometry,
)

PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def matrix(a, b, c, d):
    return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()


def at_angle(degrees, *, is_mirrored=False):
    cos, sin = (round(f(math.radians(degrees)) * ONE) for f in (math.cos, math.sin))
    sign = -1 if is_mirrored else 1
    return matrix(sign * cos, sign * sin, -sin, cos)


@pytest.mark.parametrize("four", EIGHT)
def test_each_pixel_goes_where_the_matrix_puts_it(four):
    a, b, c, d = four
    shown = orientation_of(matrix(*(ONE * value for value in four))).apply(PICTURE)
    places = {(y, x): (b * x + d * y, a * x + c * y) for y in range(2) for x in range(3)}
    top, left = (min(place[axis] for place in places.values()) for axis in (0, 1))
    for (y, x), (down, right) in places.items():
        np.testing.assert_array_equal(shown[down - top, right - left], PICTURE[y, x])


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("degrees", [-1.9, -0.4, 0.4, 1.9])
def test_an_angle_within_two_degrees_of_a_quarter_turn_is_that_turn(turns, degrees, is_mirrored):
    found = orientation_of(at_angle(90 * turns + degrees, is_mirrored=is_mirrored))
    assert (found.quarter_turns, found.is_mirrored) == (turns, is_mirrored)
    assert found.other_degrees is None


@pytest.mark.parametrize("degrees", [2.2, 45, 133, 267.5])
def test_another_angle_is_left_and_its_degrees_are_known(degrees):
    found = orientation_of(at_angle(degrees))
    assert (found.quarter_turns, found.is_mirrored) == (0, False)
    assert found.other_degrees == pytest.approx(degrees, abs=0.01)


@pytest.mark.parametrize(
    "four", [(ONE, ONE, ONE, ONE), (0, 0, 0, 0), (ONE, 0, 0, 0), (0, 0, 0, ONE), (0, ONE, 0, ONE)]
)
def test_a_matrix_that_maps_to_a_line_or_a_point_is_no_orientation(four):
    assert orientation_of(matrix(*four)) == Orientation(other_degrees=0.0)


@pytest.mark.parametrize("is_of_rows", [False, True])
def test_a_skewed_picture_is_left_and_the_skew_is_known(is_of_rows):
    cos, sin = (round(f(math.radians(10)) * ONE) for f in (math.cos, math.sin))
    four = (ONE, 0, -sin, cos) if is_of_rows else (cos, sin, 0, ONE)
    found = orientation_of(matrix(*four))
    assert (found.quarter_turns, found.is_mirrored) == (0, False)
    assert found.other_degrees == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("turns", range(4))
def test_the_size_after_a_turn_is_that_of_the_turned_picture(turns):
    orientation = Orientation(quarter_turns=turns)
    assert orientation.size(2, 3) == orientation.apply(PICTURE).shape[:2]


@pytest.mark.parametrize(
    ("degrees", "aspect", "words"),
    [
        (None, Fraction(64, 45), None),
        (None, Fraction(640, 639), None),  # within 1 %
        (None, None, None),
        (None, Fraction(11), "its header says pixels of 11, taken as square"),
        (None, Fraction(1, 20), "its header says pixels of 1/20, taken as square"),
        (0.0, None, "by 0.0 degrees, which is no quarter turn"),
        (45.0, Fraction(1), "by 45.0 degrees, which is no quarter turn"),
    ],
)
def test_what_a_header_says_and_is_not_applied_is_logged_once(degrees, aspect, words, caplog):
    warn_of_geometry.cache_clear()
    for _ in range(2):
        warn_of_geometry("a.mp4", Orientation(other_degrees=degrees), aspect)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == (words is not None)
    assert all(text.startswith("a.mp4: ") and words in text for text in found)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_an_angle_that_is_not_applied_is_told(tmp_path, decoder, caplog):
    path = write_barcodes(tmp_path / "x.mp4", every_40_ms(4))
    upright = [frame.pixels for frame in decode(path)]
    data, old = path.read_bytes(), np.array([1, 0, 0, 0, 1, 0], ">i4") * ONE
    new = np.frombuffer(at_angle(45), np.int32)[:6].astype(">i4")
    place = data.index(old.tobytes(), data.index(b"tkhd"))
    turned = path.with_name(f"{decoder}.mp4")
    turned.write_bytes(data[:place] + new.tobytes() + data[place + 24 :])
    with caplog.at_level(logging.WARNING):
        found = [frame.pixels for frame in decode(turned, decoder=decoder)]
    np.testing.assert_array_equal(found, upright)
    assert caplog.text.count("by 45.0 degrees, which is no quarter turn") == 1


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(64, 45), (576, 1024)),
        (Fraction(8, 9), (648, 720)),
        (Fraction(1), (576, 720)),
        (Fraction(640, 639), (576, 720)),  # within 1 %
        (Fraction(101, 100), (576, 720)),  # exactly 1 %
        (Fraction(99, 100), (576, 720)),
        (Fraction(1011, 1000), (576, 728)),
        (Fraction(10), (576, 7200)),
        (Fraction(11), (576, 720)),  # beyond belief
        (Fraction(1, 10), (5760, 720)),
        (Fraction(1, 11), (576, 720)),
        (Fraction(-2), (576, 720)),
        (Fraction(0), (576, 720)),
        (None, (576, 720)),
    ],
)
def test_pixels_are_made_square_by_enlarging(aspect, size):
    assert square_size(576, 720, aspect) == size
    assert make_square(np.zeros((576, 720, 3), np.uint8), aspect).shape == (*size, 3)


@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(8, 9), Fraction(3, 10)])
def test_pictures_are_widened_as_an_image_program_does(aspect):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    height, width = square_size(30, 40, aspect)
    wanted = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    found = make_square(pixels, aspect)
    assert np.abs(found.astype(int) - np.asarray(wanted)).max() <= 1
