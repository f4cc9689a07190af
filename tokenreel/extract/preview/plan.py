"""`extract plan`: what an extraction will take, from the headers of its videos.

No frame of the data set is counted by decoding it: counts come from the headers, which are good
enough for a plan and for nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.codec import Codec, codec_from_identity, codec_identity
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.layout import INDEX_BYTES, clip_arrays, view_arrays
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import identity_for
from tokenreel.extract.video.decode import VideoError, VideoInfo, probe

__all__ = [
    "HeaderSurvey",
    "StoreSize",
    "planned_identity",
    "store_size",
    "survey_headers",
]

UNKNOWN_WEIGHTS = "0" * 64


@dataclass(frozen=True)
class HeaderSurvey:
    """What the headers of a data set's videos say.

    Attributes:
        clip_frames: frames of each clip that would be kept, by clip id.
        num_seconds: length of those clips together.
        video_bytes: size of the video files.
        unreadable: clip id and reason of each clip whose header could not be read.
    """

    clip_frames: dict[str, int]
    num_seconds: float
    video_bytes: int
    unreadable: tuple[tuple[str, str], ...]

    @property
    def num_frames(self) -> int:
        """Frames of all clips."""
        return sum(self.clip_frames.values())


@dataclass(frozen=True)
class StoreSize:
    """A store with one codec.

    Attributes:
        codec: its name.
        frame_bytes: bytes of a frame, all blocks and views.
        num_bytes: bytes of its arrays' files.
        num_files: files of its clips, which are inodes too.
    """

    codec: str
    frame_bytes: float
    num_bytes: int
    num_files: int


def survey_headers(manifest: Manifest, config: ExtractConfig) -> HeaderSurvey:
    """Read the header of every video once."""
    headers: dict[str, VideoInfo | str] = {}
    frames: dict[str, int] = {}
    unreadable = []
    seconds, video_bytes = 0.0, 0
    for clip in manifest.clips:
        path = manifest.root / clip.video
        if clip.video not in headers:
            try:
                headers[clip.video] = probe(path)
                video_bytes += path.stat().st_size
            except VideoError as error:
                headers[clip.video] = str(error)
        header = headers[clip.video]
        if isinstance(header, str):
            unreadable.append((clip.clip_id, header))
            continue
        length = _clip_seconds(clip, header)
        rate = float(header.rate or 25)
        frames[clip.clip_id] = round(
            length * (rate if config.fps is None else min(rate, config.fps))
        )
        seconds += length
    return HeaderSurvey(frames, seconds, video_bytes, tuple(unreadable))


def planned_identity(config: ExtractConfig) -> StoreIdentity:
    """The identity as far as its arrays' shapes go; no weights are looked for."""
    return identity_for(config, UNKNOWN_WEIGHTS)


def store_size(identity: StoreIdentity, codec: str, clip_frames: Sequence[int]) -> StoreSize:
    """Bytes and files of a store with a codec.

    Args:
        identity: of the store; its codec is replaced.
        codec: name of the codec.
        clip_frames: frames of each clip.
    """
    coder = codec_from_identity(codec_identity(codec), {})
    sizes = [_clip_size(identity, coder, max(count, 1)) for count in clip_frames]
    views = [spec for v in range(identity.num_views) for spec in view_arrays(identity, coder, v, 1)]
    return StoreSize(
        codec=codec,
        frame_bytes=sum(spec.row_bytes for spec in views),
        num_bytes=sum(num_bytes for num_bytes, _ in sizes),
        num_files=sum(num_files for _, num_files in sizes),
    )


def _clip_size(identity: StoreIdentity, codec: Codec, num_frames: int) -> tuple[int, int]:
    """Bytes of a clip's chunk files, and the number of all its files."""
    specs = clip_arrays(num_frames)
    for view in range(identity.num_views):
        specs += view_arrays(identity, codec, view, num_frames)
    groups = {parent for spec in specs for parent in Path(spec.path).parents}
    num_files = len(groups) + sum(1 + spec.num_files for spec in specs)  # one zarr.json each
    num_bytes = 0
    for spec in specs:
        if spec.sharded:
            num_bytes += num_frames * spec.row_bytes + spec.num_files * INDEX_BYTES
        else:  # the last chunk is as long as the others, and each has its crc32c
            num_bytes += spec.num_files * (spec.rows * spec.row_bytes + 4)
    return num_bytes, num_files


def _clip_seconds(clip: Clip, header: VideoInfo) -> float:
    start = clip.start_seconds or 0.0
    end = header.duration_seconds if header.duration_seconds is not None else start
    stop = end if clip.stop_seconds is None else min(clip.stop_seconds, end or clip.stop_seconds)
    return max(stop - start, 0.0)
