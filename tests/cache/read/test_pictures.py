"""Where the JPEGs of a string end: markers written by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from tokenreel.cache.errors import Damaged
from tokenreel.cache.read.pictures import decode_jpegs, split_jpegs

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN = b"\xff\xda\x00\x04ab"  # its length, of four bytes, counts itself
LONG = b"\xff\xe0\x01\x02" + b"\xff\xd9" * 128  # a field of 258 bytes that looks like ends


@pytest.mark.parametrize(
    "inside",
    [
        b"",
        SCAN + b"coded",
        SCAN + b"co\xff\x00ded\xff\xd0more\xff\xd7",  # a byte FF, and the first and last restart
        SCAN + b"co\xff\x01ded",
        SCAN + b"one" + SCAN + b"two",
        b"\xff\x01" + SCAN + b"coded",  # a marker without a length
        LONG + SCAN + b"coded",
        START + SCAN + b"coded",  # a second start has no length
    ],
)
def test_a_string_is_split_where_each_picture_ends(inside):
    picture = START + inside + END
    assert split_jpegs(picture) == [picture]
    assert split_jpegs(picture + START + END + picture) == [picture, START + END, picture]


@pytest.mark.parametrize(
    "wrong",
    [
        START,
        START + SCAN,
        START + SCAN + b"coded",
        START + SCAN + b"coded\xff",
        START + SCAN + b"coded\xff\x00",
        START + b"\xff\xe0\x00\x09" + END,  # longer than what follows
        START + b"\x00\xd9",  # an end that no FF precedes
    ],
)
def test_a_picture_that_does_not_end_is_cut_short(wrong):
    with pytest.raises(Damaged, match=f"the JPEG at byte 4 of {len(wrong) + 4} is cut short"):
        split_jpegs(START + END + wrong)


def test_a_scan_that_is_longer_than_the_string_ends_it_and_nothing_before_it_is_read_again():
    field = bytearray(b"\xff\xe0\xff\xff" + bytes(65533))
    field[55550:55552] = END  # where a length read from the first bytes of the string leads
    data = START + bytes(field) + b"\xff\xda\xff\xff\xff"
    with pytest.raises(Damaged, match=f"the JPEG at byte 0 of {len(data)} is cut short"):
        split_jpegs(data)


def test_bytes_between_pictures_are_none():
    with pytest.raises(Damaged, match="no JPEG at byte 4 of 8"):
        split_jpegs(START + END + b"\x00" + START + b"\x00")
    with pytest.raises(Damaged, match="the string is empty"):
        split_jpegs(b"")


def test_pictures_without_content_cannot_be_decoded():
    with pytest.raises(Damaged, match="a picture cannot be decoded"):
        decode_jpegs(START + END)


def test_a_grey_picture_is_decoded_to_three_equal_channels():
    file = io.BytesIO()
    Image.new("L", (16, 8), 77).save(file, "jpeg")
    found = decode_jpegs(file.getvalue() * 2)
    assert found.shape == (2, 8, 16, 3)
    assert np.unique(found).tolist() == [77]
