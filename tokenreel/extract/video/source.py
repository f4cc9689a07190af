"""Source of a clip as recorded in the store: file size, SHA-256, decoder and header."""

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.manifest import path_below
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.pictures import PICTURES
from tokenreel.extract.video.types import VideoError, VideoInfo

PACKAGE_OF = {"pyav": "av"}


class SourceFiles:
    """The videos below a root; each is hashed once for all of its clips.

    Args:
        root: of the manifest.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def examine(
        self, video: str, decoder: str, *, picture_fps: float | None = None
    ) -> tuple[SourceInfo, VideoInfo]:
        """The source that a clip's record names, and the header of the video.

        Raises:
            VideoError: stage "open": the file cannot be read, or has no video stream.
        """
        path = path_below(self._root, video)
        info = probe(path, picture_fps=picture_fps)
        status, aspect = path.stat(), info.pixel_aspect
        source = SourceInfo(
            video=video,
            num_bytes=sum(file.stat().st_size for file in _files(path)),
            sha256=self._sha256(path),
            decoder=decoder,
            decoder_version=decoder_version(decoder),
            container={
                "codec": info.codec,
                "container": info.container,
                "width": info.width,
                "height": info.height,
                "duration_seconds": info.duration_seconds,
                "header_frames": info.header_frames,
                "start_ticks": info.start_ticks,
                **_rate_of_pictures(info),
            },
            mtime_ns=max(status.st_mtime_ns, *(f.stat().st_mtime_ns for f in _files(path))),
            pixel_aspect=None if aspect is None else (aspect.numerator, aspect.denominator),
        )
        return source, info

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        key = path, status.st_size, status.st_mtime_ns
        if key not in self._hashes:
            try:
                self._hashes[key] = _hash_folder(path) if path.is_dir() else _hash_file(path)
            except OSError as error:
                raise VideoError(f"cannot be read: {error.strerror}", stage="open") from error
        return self._hashes[key]


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder of pictures in order of name."""
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_folder(folder: Path) -> str:
    """SHA-256 of name, size and bytes of each file of a folder."""
    digest = hashlib.sha256()
    for path in _files(folder):
        name = os.fsencode(path.name)
        digest.update(f"{len(name)}:{path.stat().st_size}:".encode() + name)
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _rate_of_pictures(info: VideoInfo) -> dict[str, float]:
    if info.container != PICTURES or info.rate is None:
        return {}
    return {"picture_fps": float(info.rate)}


def decoder_version(decoder: str) -> str:
    """Version of a decoder's library, "absent" where it is not installed."""
    try:
        return version(PACKAGE_OF.get(decoder, decoder))
    except PackageNotFoundError:
        return "absent"
