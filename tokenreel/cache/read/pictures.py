"""Pictures of units: the array of bytes `pixels`, one or more JPEGs end to end for each unit."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.read.store_reader import Store

PIXELS = "pixels"  # name of the array
ARCHITECTURE = "pixels:"  # what the architecture of such a store begins with

STANDALONE = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a length
START, END, SCAN = 0xD8, 0xD9, 0xDA


def split_jpegs(data: bytes) -> list[bytes]:
    """The pictures of a string of JPEGs end to end, as in Motion JPEG.

    Raises:
        Damaged: it is none.
    """
    found, start = [], 0
    while start < len(data):
        stop = _end_of(data, start)
        found.append(data[start:stop])
        start = stop
    if not found:
        raise Damaged("no JPEG: the string is empty")
    return found


def _end_of(data: bytes, start: int) -> int:
    """Where the JPEG that begins at `start` ends."""
    if data[start : start + 2] != b"\xff\xd8":
        raise Damaged(f"no JPEG at byte {start} of {len(data)}")
    at = start + 2
    while at + 2 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:
            break
        if marker == END:
            return at + 2
        at += 2 if marker in STANDALONE else 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == SCAN:  # coded data, in which FF is followed by 0 or by a restart marker
            at = data.find(b"\xff", at)
            while 0 <= at < len(data) - 1 and (data[at + 1] == 0 or data[at + 1] in STANDALONE):
                at = data.find(b"\xff", at + 2)
            if at < 0:
                break
    raise Damaged(f"the JPEG at byte {start} of {len(data)} is cut short or damaged")


def decode_jpegs(data: bytes) -> NDArray[np.uint8]:
    """RGB of the pictures of a string, uint8 (F, H, W, 3).

    Raises:
        Damaged: it is none, or a picture of it cannot be decoded.
    """
    from PIL import Image

    pictures = []
    for picture in split_jpegs(data):
        try:
            with Image.open(io.BytesIO(picture)) as opened:
                pictures.append(np.asarray(opened.convert("RGB")))
        except (OSError, ValueError, SyntaxError) as error:
            raise Damaged(f"a picture cannot be decoded: {error}") from error
    return np.stack(pictures)


def read_pictures(store: Store, clip_id: str, units: Any = None) -> list[NDArray[np.uint8]]:
    """The pictures of units, each uint8 (F, H, W, 3).

    Args:
        store: of pictures.
        clip_id: the clip.
        units: as `frames` of Store.read; None: all.

    Raises:
        UsageError: the store has no pictures.
        ClipNotFound, Damaged: as Store.read_bytes.
    """
    if PIXELS not in store.record(clip_id).byte_arrays:
        raise UsageError(
            f"{store.path} keeps no pictures: `extract run DATASET frames=scenes:FOLDER "
            "pixels=centre` (or pixels=all) makes a store of them"
        )
    return [decode_jpegs(data) for data in store.read_bytes(clip_id, PIXELS, units)]
