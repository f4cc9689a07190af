"""Which files are videos: by name where only videos have such names, else by content.

A file whose name says video is one even if it is damaged or empty: its clip then fails by name,
and is not passed over.  Any other file is a video if FFmpeg opens it as one of two frames or more.
"""

import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tokenreel.cache.errors import limit_behind
from tokenreel.cache.manifest import path_below
from tokenreel.extract.video.decoders import opened, packets_of
from tokenreel.extract.video.types import VideoError

# Saves opening each file.  A list of names is no rule: what it lacks is opened and looked at.
NAMED_VIDEOS = {
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx"),
    *(".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".m2v", ".m1v", ".vob", ".m2ts", ".mxf", ".ogv"),
    *(".ogm", ".y4m", ".nut", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".rmvb"),
}
NAMED_LIKE_TEXT = (".ts", ".mts")  # MPEG transport streams, and TypeScript
# What FFmpeg shows as video and nobody filmed: pictures, text art, and lists of other files.
NOT_FILMED = {
    *("image2", "image2pipe", "alias_pix", "brender_pix", "tty", "bin", "xbin", "adf", "idf"),
    *("hls", "concat", "dash", "imf", "sdp"),
}
OTHER_FILES = (  # first bytes of what FFmpeg need not look at
    *(b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b", b"\x89HDF\r\n", b"%PDF-", b"\x7fELF"),
    *(b"SQLite format 3", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"),
)
PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
HEAD_BYTES = 4096
LEAST_FRAMES = 2
THREADS = 16


@dataclass
class VideoFiles:
    """The videos among files.

    Attributes:
        videos: their names, in order.
        others: ending, in lower case, -> number of files that are no videos.
        unreadable: (name, reason) of files that could be videos and cannot be read.
    """

    videos: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def describe_others(self) -> str:
        """The files that are no videos, counted by ending.

        >>> VideoFiles(others=Counter({".txt": 2, "": 1})).describe_others()
        '3 file(s) are no videos: 2 .txt, 1 without ending'
        """
        counts = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        parts = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in counts)
        return f"{self.others.total()} file(s) are no videos: {parts}"


def find_videos(root: Path, names: Sequence[str]) -> VideoFiles:
    """The videos among files below a folder; those not named as videos are opened, in threads.

    Args:
        root: the folder.
        names: texts of paths below it.
    """
    found = VideoFiles()

    def look(name: str) -> bool | OSError:
        try:
            return is_video(path_below(root, name))
        except OSError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        doubtful = [name for name in names if not is_named_video(name)]
        seen = dict(zip(doubtful, pool.map(look, doubtful), strict=True))
    for name in names:
        verdict = seen.get(name, True)
        if isinstance(verdict, OSError):
            if limit := limit_behind(verdict):
                raise limit
            found.unreadable.append((name, (verdict.strerror or str(verdict)).lower()))
        elif verdict:
            found.videos.append(name)
        else:
            found.others[_ending(name)] += 1
    return found


def is_named_video(name: str) -> bool:
    """Whether only videos have such a name."""
    return _ending(name) in NAMED_VIDEOS


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def is_video(path: Path) -> bool:
    """Whether a file is a video by its content; a damaged one named .ts or .mts is one, too.

    Raises:
        OSError: the file cannot be read.
    """
    ending = path.suffix.lower()
    if not stat.S_ISREG(path.stat().st_mode):
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if ending in NAMED_LIKE_TEXT:
        return not head or not _is_text(head)
    if not head or head.startswith(OTHER_FILES) or (_is_text(head) and head[:9] != b"YUV4MPEG2"):
        return False
    if ending in PICTURE_SUFFIXES and head.startswith(PICTURES) and b"acTL" not in head:
        return False
    return _shows_frames(path)


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text in UTF-8 without control characters."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < HEAD_BYTES:
            return False
        text = head[: error.start].decode()
    return not any(ord(letter) < 32 and letter not in "\t\n\r\f\v\x1b" for letter in text)


def _shows_frames(path: Path) -> bool:
    """Whether FFmpeg opens a file as a film of at least two frames."""
    import av

    num_frames = 0
    try:
        with opened(path) as (container, stream):
            name = container.format.name
            if name in NOT_FILMED or name.endswith("_pipe") or not stream.codec_context.width:
                return False
            for packet in packets_of(container, stream):
                num_frames += packet.size > 0
                if num_frames >= LEAST_FRAMES:
                    return True
    except (VideoError, av.FFmpegError, ValueError):
        return False
    return False
