"""Source of a clip as recorded in the store: file size, SHA-256, decoder and header."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.path import is_bucket
from tokenreel.cache.errors import ServiceError
from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.manifest import path_below
from tokenreel.cache.source_state import (
    TAG,
    SourceState,
    describe_source,
    source_sha256,
    source_state,
)
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.pictures import PICTURES
from tokenreel.extract.video.types import VideoError, VideoInfo

LOOKS = 3  # at a video that changes while it is looked at
PACKAGE_OF = {"pyav": "av"}


class SourceFiles:
    """The videos below a root; each is hashed once for all of its clips.

    Args:
        root: of the manifest.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hashes: dict[tuple[Path, SourceState], str] = {}

    def examine_settled(
        self, video: str, decoder: str, *, picture_fps: float | None = None
    ) -> tuple[SourceInfo, VideoInfo, SourceState]:
        """As examine, with the state that the file had before and after it was looked at.

        Raises:
            VideoError: stage "open": as examine, or it is being written meanwhile.
        """
        for _ in range(LOOKS):
            before = self._state(video)
            source, info = self.examine(video, decoder, picture_fps=picture_fps)
            after = self._state(video)
            if before.seems(after):
                return source, info, before
        raise VideoError("is being written: extract it when it is whole", stage="open")

    def is_recent(self, video: str) -> bool:
        """Whether a video was written within the last seconds."""
        state = self.state(video)
        return state is not None and state.is_recent

    def change_since(self, source: SourceInfo, state: SourceState) -> str:
        """What a video is now, in words, unless it holds the bytes that were extracted: then "".

        A video with another time, or one that took its place, is hashed again.

        Args:
            source: as its clip's record describes it.
            state: of examine_settled.
        """
        try:
            now = self._state(source.video)
            if state.seems(now) and not state.is_recent:
                return ""
            if is_bucket(self._root):  # its state says whether another object took its place
                same = state.seems(now)
                return "" if same else describe_source(now.num_bytes, now.mtime_ns, "", now.tag)
            sha256 = source_sha256(path_below(self._root, source.video))
        except ServiceError:
            raise
        except (OSError, VideoError) as error:
            return f"unreadable: {getattr(error, 'strerror', None) or error}".lower()
        if (now.num_bytes, sha256) == (source.num_bytes, source.sha256):
            return ""
        return describe_source(now.num_bytes, now.mtime_ns, sha256)

    def state(self, video: str) -> SourceState | None:
        """The state of a video's file; None where it cannot be looked at."""
        try:
            return self._state(video)
        except VideoError:
            return None

    def is_still(self, video: str, held: Mapping[str, Any] | None) -> bool:
        """Whether a video is, or is missing, as `state_fields` said; one out of reach is.

        One with another time alone is hashed, where its hash is known.
        """
        now = self.state(video)
        if now is None or held is None:
            return now is None
        if (now.num_bytes, now.mtime_ns) == (held["num_bytes"], held["mtime_ns"]):
            return bool(now.tag == held.get(TAG, now.tag))
        if now.num_bytes != held["num_bytes"] or not held["sha256"]:
            return False
        try:
            return self._sha256(path_below(self._root, video)) == held["sha256"]
        except VideoError:
            return True

    def _state(self, video: str) -> SourceState:
        try:
            return source_state(path_below(self._root, video))
        except ServiceError:  # no fault of the video
            raise
        except OSError as error:
            raise VideoError((error.strerror or str(error)).lower(), stage="open") from error

    def examine(
        self, video: str, decoder: str, *, picture_fps: float | None = None
    ) -> tuple[SourceInfo, VideoInfo]:
        """The source that a clip's record names, and the header of the video.

        Raises:
            VideoError: stage "open": the file cannot be read, or has no video stream.
        """
        path = path_below(self._root, video)
        info = probe(path, picture_fps=picture_fps)
        state, aspect = self._state(video), info.pixel_aspect
        source = SourceInfo(
            video=video,
            num_bytes=state.num_bytes,
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
                **({TAG: state.tag} if state.tag else {}),
            },
            mtime_ns=state.mtime_ns,
            pixel_aspect=None if aspect is None else (aspect.numerator, aspect.denominator),
        )
        return source, info

    def _sha256(self, path: Path) -> str:
        """The hash of a video; "" of one on a bucket, which would have to be read whole."""
        if is_bucket(path):
            return ""
        try:
            key = path, replace(source_state(path), is_recent=False)
            if key not in self._hashes:
                self._hashes[key] = source_sha256(path)
        except OSError as error:
            raise VideoError(f"cannot be read: {error.strerror}", stage="open") from error
        return self._hashes[key]


def _rate_of_pictures(info: VideoInfo) -> dict[str, float]:
    if info.container != PICTURES or info.rate is None:
        return {}
    return {"picture_fps": float(info.rate)}


def state_fields(state: SourceState | None, sha256: str = "") -> dict[str, object] | None:
    """The state of a video as the record of a failure has it; "" for a hash that is not known."""
    if state is None:
        return None
    fields = {"num_bytes": state.num_bytes, "mtime_ns": state.mtime_ns, "sha256": sha256}
    return {**fields, TAG: state.tag} if state.tag else fields


def decoder_version(decoder: str) -> str:
    """Version of a decoder's library, "absent" where it is not installed."""
    try:
        return version(PACKAGE_OF.get(decoder, decoder))
    except PackageNotFoundError:
        return "absent"
