"""Source of a clip as recorded in the store: file size, SHA-256, decoder and header."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenreel.cache.format.clip import SourceInfo
from tokenreel.extract.video.decoders import probe
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

    def examine(self, video: str, decoder: str) -> tuple[SourceInfo, VideoInfo]:
        """The source that a clip's record names, and the header of the video.

        Raises:
            VideoError: stage "open": the file cannot be read, or has no video stream.
        """
        path = self._root / video
        info = probe(path)
        status, aspect = path.stat(), info.pixel_aspect
        source = SourceInfo(
            video=video,
            num_bytes=status.st_size,
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
            },
            mtime_ns=status.st_mtime_ns,
            pixel_aspect=None if aspect is None else (aspect.numerator, aspect.denominator),
        )
        return source, info

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        key = path, status.st_size, status.st_mtime_ns
        if key not in self._hashes:
            try:
                with path.open("rb") as file:
                    self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise VideoError(f"cannot be read: {error.strerror}", stage="open") from error
        return self._hashes[key]


def decoder_version(decoder: str) -> str:
    """Version of a decoder's library, "absent" where it is not installed."""
    try:
        return version(PACKAGE_OF.get(decoder, decoder))
    except PackageNotFoundError:
        return "absent"
