"""A folder of numbered pictures as a video, in the order of their numbers, at a given rate.

The pictures are JPEG, PNG, WebP, BMP or TIFF files of one name, one kind and one size, with numbers
without a gap: frame_1.jpg, frame_2.jpg, ... with or without zeros in front.  They are shown as EXIF
says, in any of its eight orientations.  The pixels of JPEG and PNG are those of the same pictures
packed into a video; the others are read by Pillow.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import limit_behind
from tokenreel.extract.video.rgb import rgb_of
from tokenreel.extract.video.types import DecodedFrame, VideoError, VideoInfo

CODEC_OF = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png"}
BY_PILLOW = {".webp": "webp", ".bmp": "bmp", ".tif": "tiff", ".tiff": "tiff"}
CODEC_OF |= BY_PILLOW
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")  # of 8 bits, as RGB is made
TIFF_SIZE = (0x101, 0x100)  # tags of height and width as stored
NUMBERED = re.compile(r"(.*?)([0-9]{1,18})", re.DOTALL)
LEAST_PICTURES = 2
DEFAULT_FPS = 25.0
PICTURES = "pictures"  # in place of the name of a container
ORIENTATION = 0x0112  # of EXIF
TURNED = (5, 6, 7, 8)  # orientations that swap height and width
START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def numbered_pictures(names: Sequence[str]) -> list[str]:
    """The pictures with a number among file names, by number.

    >>> numbered_pictures(["a10.jpg", "a9.jpg", "cover.jpg", "a9.txt"])
    ['a9.jpg', 'a10.jpg']
    """
    found = [(_number(name), name) for name in names if _is_numbered(name)]
    return [name for _, name in sorted(found)]


def _is_numbered(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in CODEC_OF and NUMBERED.fullmatch(path.stem) is not None


def _parts(name: str) -> tuple[str, int]:
    match = NUMBERED.fullmatch(Path(name).stem)
    assert match is not None
    return match[1], int(match[2])


def _number(name: str) -> int:
    return _parts(name)[1]


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in order.

    Raises:
        VideoError: stage "open": fewer than two, a number that is missing or taken twice, or
            pictures of several kinds or names; both are named.
    """
    try:
        names = numbered_pictures([path.name for path in folder.iterdir() if path.name[0] != "."])
    except OSError as error:
        raise VideoError((error.strerror or str(error)).lower(), stage="open") from error
    if len(names) < LEAST_PICTURES:
        raise VideoError("is a directory without numbered pictures", stage="open")
    first = names[0]
    for before, name in pairwise(names):
        if _codec(name) != _codec(first):
            raise VideoError(
                f"holds pictures of two kinds, such as {first} and {name}: keep one kind",
                stage="open",
            )
        if _parts(name)[0] != _parts(first)[0]:
            raise VideoError(
                f"holds pictures of two names, such as {first} and {name}: keep one name a folder",
                stage="open",
            )
        step = _number(name) - _number(before)
        if step == 0:
            raise VideoError(f"{before} and {name} have the same number", stage="open")
        if step > 1:
            raise VideoError(
                f"{step - 1} picture(s) are missing between {before} and {name}: number them "
                "without gaps",
                stage="open",
            )
    return [folder / name for name in names]


def _codec(name: str) -> str:
    return CODEC_OF[Path(name).suffix.lower()]


def probe_pictures(folder: Path, fps: float | None) -> VideoInfo:
    """The header of a folder of pictures: that of its first picture, and their number.

    Args:
        folder: of the pictures.
        fps: pictures a second, 25 when None.

    Raises:
        VideoError: stage "open": see list_pictures, or the first picture cannot be read.
    """
    pictures = list_pictures(folder)
    rate = Fraction(fps or DEFAULT_FPS).limit_denominator(10_000)
    (height, width), _ = _header(pictures[0], stage="open")
    return VideoInfo(
        width=width,
        height=height,
        codec=_codec(pictures[0].name),
        time_base=1 / rate,
        start_ticks=0,
        duration_seconds=float(len(pictures) / rate),
        is_duration_shared=False,
        rate=rate,
        container=PICTURES,
        header_frames=len(pictures),
    )


def read_pictures(folder: Path, info: VideoInfo) -> Iterator[DecodedFrame]:
    """Yield the pictures of a folder; each is decoded on first use of its pixels.

    Raises:
        VideoError: a picture that cannot be read, or is of another size than the first.
    """
    first: tuple[int, int] | None = None
    for index, path in enumerate(list_pictures(folder)):
        size, orientation = _header(path, frame=index)
        if orientation in TURNED:
            size = size[1], size[0]
        first = first or size
        if size != first:
            raise VideoError(
                f"{path.name} has {size[1]}x{size[0]} pixels, the pictures before it "
                f"{first[1]}x{first[0]}",
                frame=index,
            )
        yield DecodedFrame(
            partial(_decode, path, orientation, index, info.codec), size, index, index
        )


def _header(
    path: Path, *, stage: str = "decode", frame: int | None = None
) -> tuple[tuple[int, int], int]:
    """Height and width as stored, and the orientation of EXIF, 1 where there is none.

    Raises:
        VideoError: not a whole picture of the kind that its name says.
    """
    data = _read(path, stage, frame)
    if _codec(path.name) in BY_PILLOW.values():
        with _opened(path, data, stage, frame) as picture:
            held = getattr(picture, "tag_v2", {})  # Pillow may have turned a TIFF already
            tags = [held.get(tag) for tag in TIFF_SIZE]
            stored = (tags[0], tags[1]) if tags[0] and tags[1] else picture.size[::-1]
            return stored, _checked(picture.getexif().get(ORIENTATION, 1))
    try:
        size, exif = (_png if _codec(path.name) == "png" else _jpeg)(data)
    except (ValueError, struct.error, IndexError) as error:
        reason = str(error) if type(error) is ValueError else "is cut short"
        raise VideoError(f"{path.name} {reason}", stage=stage, frame=frame) from error
    return size, _orientation(exif)


def _read(path: Path, stage: str, frame: int | None) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error, stage, frame) from error


def _unreadable(path: Path, error: OSError, stage: str, frame: int | None) -> VideoError:
    return VideoError(f"{path.name}: {(error.strerror or '').lower()}", stage=stage, frame=frame)


def _jpeg(data: bytes) -> tuple[tuple[int, int], bytes]:
    """Size and EXIF of a JPEG.

    Raises:
        ValueError: no JPEG, or one without its end, which decoders fill up with grey.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("is no JPEG picture")
    # A thumbnail in the header has an end, too, so it is looked for after the last scan.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("is cut short")
    at, exif = 2, b""
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = data[at + 4 : at + 2 + length]
        if marker in START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return (height, width), exif
        at += 2 + length
    raise ValueError("is a damaged JPEG picture")


def _png(data: bytes) -> tuple[tuple[int, int], bytes]:
    """Size and EXIF of a PNG, each of whose chunks is checked.

    Raises:
        ValueError: no PNG, or a chunk that is damaged or missing.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("is no PNG picture")
    at, exif, size, kind = 8, b"", (0, 0), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(data[at + 4 : at + 8 + length]) != checksum:
            raise ValueError(f"is damaged: the checksum of {ascii(kind)[2:-1]} is wrong")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, at + 8)
            size = height, width
        if kind == b"eXIf":
            exif = b"Exif\0\0" + data[at + 8 : at + 8 + length]
        at += 12 + length
    return size, exif


def _orientation(exif: bytes) -> int:
    if not exif:
        return 1
    from PIL import Image

    held = Image.Exif()
    try:
        held.load(exif)
        value = held.get(ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, struct.error, OSError, KeyError):
        return 1  # readers of pictures pass over EXIF that is damaged
    return _checked(value)


def _checked(orientation: Any) -> int:
    return orientation if orientation in range(1, 9) else 1


@contextmanager
def _opened(path: Path, data: bytes, stage: str, frame: int | None) -> Iterator[Any]:
    """A picture that Pillow reads; its header is read, its pixels are on first use.

    Raises:
        VideoError: not one whole picture of the kind that its name says, or of other pixels than
            8 bits a channel in grey, RGB or a palette.
    """
    from PIL import Image, UnidentifiedImageError

    kind = _codec(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, and of odd metadata
            with Image.open(io.BytesIO(data), formats=[kind]) as picture:
                if (count := getattr(picture, "n_frames", 1)) != 1:
                    raise ValueError(f"holds {count} pictures: a numbered picture is one")
                if picture.mode not in MODES:
                    raise ValueError(
                        f"has pixels of mode {picture.mode}: save it as RGB or grey of 8 bits"
                    )
                yield picture
    except UnidentifiedImageError as error:
        reason = f"is no {kind.upper()} picture that Pillow can read"
        raise VideoError(f"{path.name} {reason}", stage=stage, frame=frame) from error
    except (ValueError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if limit := limit_behind(error):
            raise limit from error
        reason = str(error) if type(error) is ValueError else f"cannot be decoded: {error}"
        raise VideoError(f"{path.name} {reason}", stage=stage, frame=frame) from error


def _decode(path: Path, orientation: int, index: int, codec: str) -> NDArray[np.uint8]:
    """RGB, uint8 (H, W, 3), turned and mirrored as EXIF says."""
    import av

    data = _read(path, "decode", index)
    if codec in BY_PILLOW.values():
        from PIL import ImageOps

        with _opened(path, data, "decode", index) as picture:
            picture.load()
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    context: Any = av.CodecContext.create(codec, "r")
    context.options = {"err_detect": "explode"}  # else what is damaged is filled with grey
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path.name} cannot be decoded: {reason}", frame=index) from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise VideoError(f"{path.name} cannot be decoded", frame=index)
    return orient(rgb_of(frames[0]), orientation)


def orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) upright, from one of EXIF's orientations, 1 to 8.

    >>> orient(np.arange(4, dtype=np.uint8).reshape(2, 2, 1), 6)[..., 0].tolist()
    [[2, 0], [3, 1]]
    """
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
