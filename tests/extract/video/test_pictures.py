"""Folders of numbered pictures as videos: order, rate, orientation, and what is refused by name."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.pictures import orient
from tokenreel.extract.video.types import VideoError

ORIENTATION = 0x0112


def picture(number: int, *, width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def write_pictures(folder: Path, names: list[str], **options: int) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        picture(number, **options).save(folder / name)
    return folder


def pixels_of(folder: Path) -> list[np.ndarray]:
    return [frame.pixels for frame in decode(folder)]


def test_unpadded_numbers_are_in_the_order_of_numbers(tmp_path):
    folder = write_pictures(tmp_path / "clip", [f"f{number}.png" for number in range(12)])
    (folder / "cover.png").write_bytes(b"no picture of the clip")
    found = pixels_of(folder)
    assert len(found) == 12
    for number, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, np.asarray(picture(number)))


def test_the_rate_gives_the_times(tmp_path):
    folder = write_pictures(tmp_path / "clip", ["7.png", "8.png", "9.png"])
    info = probe(folder, picture_fps=30000 / 1001)
    assert (info.rate, info.time_base) == (Fraction(30000, 1001), Fraction(1001, 30000))
    assert (info.container, info.codec, info.width, info.height) == ("pictures", "png", 60, 40)
    assert info.duration_seconds == pytest.approx(3 * 1001 / 30000)
    assert probe(folder).rate == 25
    assert [frame.ticks for frame in decode(folder, picture_fps=2)] == [0, 1, 2]
    assert [f.index for f in decode(folder, picture_fps=2, from_seconds=0.5)] == [1, 2]
    assert [f.index for f in decode(folder, picture_fps=2, until_seconds=0.5)] == [0]


@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpegs_have_the_pixels_of_the_same_jpegs_in_a_video(tmp_path, subsampling):
    folder = tmp_path / "clip"
    folder.mkdir()
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height = 60, 40
        stream.pix_fmt = "yuvj444p" if subsampling == 0 else "yuvj420p"
        for number in range(3):
            data = io.BytesIO()
            picture(number).save(data, "jpeg", quality=90, subsampling=subsampling)
            (folder / f"{number:03}.JPG").write_bytes(data.getvalue())
            packet = av.Packet(data.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux_one(packet)
    video = pixels_of(tmp_path / "clip.mkv")
    for mine, packed in zip(pixels_of(folder), video, strict=True):
        np.testing.assert_array_equal(mine, packed)


QUALITY = {"jpg": {"quality": 95, "subsampling": 0}, "png": {}, "webp": {"quality": 95}, "tif": {}}


@pytest.mark.parametrize("ending", QUALITY)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_shown_as_exif_says(tmp_path, orientation, ending):
    folder = tmp_path / "clip"
    folder.mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    plain = np.asarray(picture(0))
    for number in (1, 2):
        picture(0).save(folder / f"{number}.{ending}", exif=exif, **QUALITY[ending])
    (first, _) = list(decode(folder))
    info = probe(folder)
    assert (info.width, info.height) == (60, 40)  # as stored
    assert first.size == first.pixels.shape[:2]
    np.testing.assert_array_equal(
        orient(plain, orientation),
        np.asarray(ImageOps.exif_transpose(_tagged(plain, orientation))),
    )
    with Image.open(folder / f"1.{ending}") as file:
        upright = np.asarray(ImageOps.exif_transpose(file)).astype(int)
    assert np.abs(first.pixels - upright).mean() < (3 if ending == "jpg" else 1e-9)
    assert np.abs(upright - orient(plain, orientation)).mean() < 10


def _tagged(pixels: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    return image


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["1.png", "2.png", "5.png"], r"2 picture\(s\) are missing between 2\.png and 5\.png"),
        (["01.png", "1.png"], r"01\.png and 1\.png have the same number"),
        (["1.png", "2.jpg"], r"pictures of two kinds, such as 1\.png and 2\.jpg: keep one kind"),
        (["a1.png", "b2.png"], r"of two names, such as a1\.png and b2\.png: keep one name"),
        (["1.png"], "is a directory without numbered pictures"),
        (["cover.png", "back.png"], "is a directory without numbered pictures"),
    ],
)
def test_a_folder_that_is_no_sequence_is_refused_by_name(tmp_path, names, reason):
    folder = write_pictures(tmp_path / "clip", names)
    with pytest.raises(VideoError, match=reason):
        probe(folder)


def test_pictures_of_two_sizes_are_refused_by_name(tmp_path):
    folder = write_pictures(tmp_path / "clip", ["1.png", "2.png"])
    picture(2, width=64).save(folder / "3.png")
    with pytest.raises(VideoError, match=r"3\.png has 64x40 pixels, .* before it 60x40"):
        pixels_of(folder)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("part", ["half", "header", "nothing", "text", "flipped"])
def test_a_damaged_picture_is_named(tmp_path, ending, part):
    folder = write_pictures(tmp_path / "clip", [f"{n}.{ending}" for n in range(3)])
    path = folder / f"1.{ending}"
    data = bytearray(path.read_bytes())
    if part == "flipped" and ending != "png":
        pytest.skip("only PNG has checksums")
    if part == "flipped":
        data[len(data) // 2] ^= 16
    else:
        data = {"half": data[: len(data) // 2], "header": data[:10], "nothing": b""}.get(
            part, b"<html>not found</html>" * 10
        )
    path.write_bytes(data)
    with pytest.raises(VideoError, match=rf"1\.{ending} (is|cannot)") as raised:
        pixels_of(folder)
    assert raised.value.frame == 1


KINDS = {  # ending -> how a grey, a palette and a picture with an alpha channel are saved
    "webp": {"lossless": True, "exact": True},
    "bmp": {},
    "tif": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1"])
def test_pixels_of_webp_bmp_and_tiff_are_those_of_the_same_png(tmp_path, ending, mode):
    for kind in ("png", ending):
        (tmp_path / kind).mkdir()
        for number in (1, 2):
            options = KINDS.get(kind, {})
            picture(number).convert(mode).save(tmp_path / kind / f"{number}.{kind}", **options)
    assert probe(tmp_path / ending).codec == {"tif": "tiff"}.get(ending, ending)
    for mine, png in zip(pixels_of(tmp_path / ending), pixels_of(tmp_path / "png"), strict=True):
        np.testing.assert_array_equal(mine, png)


def test_what_is_no_picture_of_8_bits_or_holds_several_is_refused(tmp_path):
    folder = write_pictures(tmp_path / "clip", ["1.tif", "2.tif", "3.tif"])
    Image.fromarray(np.full((40, 60), 40_000, np.uint16)).save(folder / "2.tif")
    with pytest.raises(
        VideoError, match=r"^2\.tif has pixels of mode I;16: save it as RGB or grey"
    ):
        pixels_of(folder)
    picture(1).save(folder / "2.tif", save_all=True, append_images=[picture(2)])
    with pytest.raises(VideoError, match=r"^2\.tif holds 2 pictures: a numbered picture is one"):
        pixels_of(folder)
    picture(1).save(folder / "2.tif", "png")
    with pytest.raises(VideoError, match=r"^2\.tif is no TIFF picture that Pillow can read"):
        pixels_of(folder)


def test_decord_leaves_pictures_to_pyav(tmp_path):
    folder = write_pictures(tmp_path / "clip", ["1.png", "2.png"])
    with pytest.raises(VideoError, match="does not read folders of pictures: use pyav") as raised:
        list(decode(folder, decoder="decord"))
    assert not raised.value.final
