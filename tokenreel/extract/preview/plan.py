"""Cost of an extraction before it runs: its size from video headers, its time from measurements.

Frames are not counted by decoding: counts come from the headers, which are good enough for a plan
and for nothing else.  A few seconds of measurement show how fast this machine decodes, runs the
backbone and uses its disk.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tokenreel.cache.codec import Codec, codec_from_identity, codec_identity
from tokenreel.cache.errors import StoreError, machine_error
from tokenreel.cache.files import flush
from tokenreel.cache.format.byte_arrays import byte_arrays
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.layout import (
    INDEX_BYTES,
    SEGMENT,
    ArraySpec,
    clip_arrays,
    view_arrays,
)
from tokenreel.cache.manifest import Clip, Manifest, path_below
from tokenreel.cache.read.pictures import PIXELS
from tokenreel.cache.source_state import source_state
from tokenreel.cache.write.canary import canary_frames
from tokenreel.extract.backbone.cpu_threads import in_parts, num_threads
from tokenreel.extract.backbone.families import (
    backbone_shape,
    build_backbone,
    check_weights,
    load_weights,
)
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.calibration_frames import job_for
from tokenreel.extract.decode_pool.worker import ChunkFiller, fill_chunks
from tokenreel.extract.encode.identity import identity_for
from tokenreel.extract.encode.pictures import JpegEncoder, arrays_of
from tokenreel.extract.flow.devices import machine_for, prepare_backbone
from tokenreel.extract.frame_policy import FrameList, uniform_count
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError, VideoInfo

UNKNOWN_WEIGHTS = "0" * 64
DISK_BLOCK_BYTES = 64 << 20
DISK_LIMIT_BYTES = 2 << 30
WARM_BATCHES = 2
CHUNK_FRAMES = 16  # windows decoded at once to measure pictures
LENGTH_BYTES = 8  # before each string of an array of bytes


@dataclass(frozen=True)
class HeaderSurvey:
    """Frames, seconds and bytes of a data set, by the headers of its videos.

    Attributes:
        clip_frames: frames to keep of each clip, by clip id.
        num_seconds: total duration of those clips.
        num_decoded: frames to decode for those that are kept; twice where a clip is read twice.
        video_bytes: size of the video files, and of the files in folders of pictures.
        unreadable: clip id and reason of each clip whose header cannot be read.
    """

    clip_frames: dict[str, int]
    num_seconds: float
    num_decoded: int
    video_bytes: int
    unreadable: tuple[tuple[str, str], ...]

    @property
    def num_frames(self) -> int:
        """Frames of all clips."""
        return sum(self.clip_frames.values())

    @property
    def decoded_per_frame(self) -> float:
        """Frames to decode for each that is kept."""
        return self.num_decoded / max(self.num_frames, 1)


@dataclass(frozen=True)
class StoreSize:
    """Size of a store with one codec.

    Attributes:
        codec: its name.
        frame_bytes: bytes of a frame, all blocks and views.
        num_bytes: bytes of its arrays' files.
        num_files: files of its clips.
        num_folders: that they are in; files and folders are inodes of a disk.
    """

    codec: str
    frame_bytes: float
    num_bytes: int
    num_files: int
    num_folders: int = 0


def survey_headers(manifest: Manifest, config: ExtractConfig) -> HeaderSurvey:
    """Read the header of every video once."""
    headers: dict[str, VideoInfo | str] = {}
    frames: dict[str, int] = {}
    unreadable = []
    seconds, decoded, video_bytes = 0.0, 0, 0
    count, listed = uniform_count(config), FrameList(config)
    of_scene = 1 if listed.scenes is None else planned_identity(config).frames_per_window
    for clip in manifest.clips:
        num_listed = listed.count(clip)
        if num_listed == 0:
            continue
        path = path_below(manifest.root, clip.video)
        if clip.video not in headers:
            try:
                headers[clip.video] = probe(path, picture_fps=clip.picture_fps)
                video_bytes += source_state(path).num_bytes
            except VideoError as error:
                headers[clip.video] = str(error)
        header = headers[clip.video]
        if isinstance(header, str):
            unreadable.append((clip.clip_id, header))
            continue
        length = _clip_seconds(clip, header)
        rate = float(header.rate or 25)
        kept = round(length * (rate if config.fps is None else min(rate, config.fps)))
        decoded += round(length * rate) * (1 if count is None and num_listed is None else 2)
        kept = max(kept, 1)  # a clip has a frame, or it fails
        if num_listed is not None:
            kept = num_listed * of_scene
        frames[clip.clip_id] = kept if count is None else count
        seconds += length
    return HeaderSurvey(frames, seconds, decoded, video_bytes, tuple(unreadable))


def planned_identity(config: ExtractConfig) -> StoreIdentity:
    """The identity as far as its arrays' shapes go; weights are checked, never downloaded.

    Raises:
        UsageError: the backbone, blocks or codec are impossible, or the weights do not fit.
    """
    if config.pixels is None:
        check_weights(config.backbone, config.weights, config.weights_key)
    return identity_for(config, UNKNOWN_WEIGHTS)


def store_size(
    identity: StoreIdentity,
    codec: str,
    clip_frames: Sequence[int],
    *,
    picture_bytes: float = 0.0,
) -> StoreSize:
    """Bytes and files of a store with a codec.

    Args:
        identity: of the store; its codec is replaced.
        codec: name of the codec.
        clip_frames: frames of each clip.
        picture_bytes: of a JPEG, in a store of pictures.
    """
    if arrays_of(identity):
        return _size_of_pictures(identity, clip_frames, picture_bytes)
    coder = codec_from_identity(codec_identity(codec), {})
    frames, rows = identity.frames_per_window, identity.rows_per_window
    clip_rows = [max(-(-count // frames), 1) * rows for count in clip_frames]
    sizes = [_clip_size(identity, coder, count) for count in clip_rows]
    views = [spec for v in range(identity.num_views) for spec in view_arrays(identity, coder, v, 1)]
    return StoreSize(
        codec=codec,
        frame_bytes=sum(spec.row_bytes for spec in views) * rows / frames,
        num_bytes=sum(num_bytes for num_bytes, _, _ in sizes),
        num_files=sum(num_files for _, num_files, _ in sizes),
        num_folders=sum(num_folders for _, _, num_folders in sizes),
    )


def _size_of_pictures(
    identity: StoreIdentity, clip_frames: Sequence[int], picture_bytes: float
) -> StoreSize:
    """Bytes and files of a store of pictures.

    Args:
        identity: of the store.
        clip_frames: pictures of each clip.
        picture_bytes: mean size of one.
    """
    num_bytes = num_files = num_folders = 0
    for count in clip_frames:
        rows = max(-(-count // identity.frames_per_window), 1)
        arrays = byte_arrays(arrays_of(identity), rows).values()
        specs = [*clip_arrays(rows, format_version=identity.format_version)]
        specs += [spec.sums for spec in arrays]
        shards = -(-rows // SEGMENT) * len(arrays)
        paths = [*(spec.path for spec in specs), *(spec.path for spec in arrays)]
        groups = {parent for path in paths for parent in Path(path).parents}
        num_files += len(groups) + len(paths) + shards + sum(spec.num_files for spec in specs)
        numbers = range(-(-rows // SEGMENT))
        chunks = [spec.chunk_file(n) for spec in arrays for n in numbers]
        num_folders += _num_folders([*chunks, *_chunks_of(specs)])
        num_bytes += sum(spec.num_files * (spec.rows * spec.row_bytes + 4) for spec in specs)
        num_bytes += shards * INDEX_BYTES + rows * LENGTH_BYTES
        num_bytes += round(count * picture_bytes)
    return StoreSize("jpeg", picture_bytes, num_bytes, num_files, num_folders)


def _chunks_of(specs: Iterable[ArraySpec]) -> list[str]:
    """The chunk files of the arrays of a clip."""
    return [spec.chunk_file(number) for spec in specs for number in range(spec.num_files)]


def _num_folders(files: Iterable[str]) -> int:
    """Folders of a clip, its own among them."""
    folders: set[str] = set()
    for file in files:
        parts = file.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(len(parts)))
    return len(folders)


def picture_bytes(manifest: Manifest, config: ExtractConfig, *, seconds: float) -> float:
    """Mean bytes of a picture of a store of pictures: of scenes spread over the clips.

    Args:
        manifest: the clips.
        config: with `pixels`.
        seconds: after which no more are measured.
    """
    identity = planned_identity(config)
    encoder, sizes = JpegEncoder(identity), [0.0]
    started = time.perf_counter()
    for clip in _spread(manifest.clips):
        if time.perf_counter() - started > seconds:
            break
        job = replace(job_for(clip, manifest.root, config, identity), chunk_frames=CHUNK_FRAMES)
        if not job.scenes:
            continue
        shape = (CHUNK_FRAMES * identity.frames_per_window, 1, 3, *identity.image_size)
        job = replace(job, chunk_frames=shape[0])
        slot = np.zeros(math.prod(shape), np.uint8)
        filler = ChunkFiller(job, lambda slot=slot: slot)  # type: ignore[misc]
        try:
            for is_full in fill_chunks(job, filler, lambda: None):
                if is_full:
                    count = len(filler.pts)
                    filler.empty()
                    images = slot.reshape(shape)[:count, 0]
                    rows = slice(0, count // identity.frames_per_window)
                    found = encoder.on_host({PIXELS: images}, rows)
                    sizes += [len(s) / identity.frames_per_window for s in found.strings[PIXELS]]
        except VideoError:
            continue  # the extraction reports it
    return float(np.mean(sizes[1:] or sizes))


def _clip_size(identity: StoreIdentity, codec: Codec, num_frames: int) -> tuple[int, int, int]:
    """Bytes of a clip's chunk files, and the numbers of all its files and folders."""
    specs = clip_arrays(num_frames, format_version=identity.format_version)
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
    return num_bytes, num_files, _num_folders(_chunks_of(specs))


def _clip_seconds(clip: Clip, header: VideoInfo) -> float:
    start = clip.start_seconds or 0.0
    end = header.duration_seconds if header.duration_seconds is not None else start
    stop = end if clip.stop_seconds is None else min(clip.stop_seconds, end or clip.stop_seconds)
    return max(stop - start, 0.0)


@dataclass(frozen=True)
class MachineRates:
    """Speed of this machine, measured in a few seconds.

    Attributes:
        device: of the backbone.
        decode_frames: frames a second that one process decodes and resizes; 0 if no clip could be
            decoded.
        backbone_frames: images a second through the backbone on that device.
        write_bytes, read_bytes: bytes a second of the disk, flushed and without the page cache.
    """

    device: str
    decode_frames: float
    backbone_frames: float
    write_bytes: float
    read_bytes: float

    def stage_seconds(
        self, config: ExtractConfig, *, views: int, decoded_per_frame: float = 1.0
    ) -> dict[str, float]:
        """Seconds of a frame in each stage except the disk's; stages overlap.

        On a CPU decoding and the backbone share the cores, so their times add up.

        Args:
            config: of the extraction.
            views: of a frame; it is decoded once for all of them.
            decoded_per_frame: frames that are decoded for each that is kept.
        """
        backbone = views / self.backbone_frames
        if not self.decode_frames:
            return {"backbone": backbone}
        each = decoded_per_frame / self.decode_frames
        decoding = each / machine_for(config).workers
        if self.device != "cpu":
            return {"backbone": backbone, "decoding": decoding}
        together = backbone + each / num_threads()
        return {"backbone and decoding on the same cores": together, "decoding": decoding}


def measure_machine(
    manifest: Manifest, config: ExtractConfig, folder: Path, *, device: torch.device, seconds: float
) -> MachineRates:
    """Measure decoding, the backbone and the disk, a third of the time each.

    Args:
        manifest: clips to decode from.
        config: of the extraction; random weights are used, as they run as fast.
        folder: an existing folder on the disk of the store.
        device: of the backbone.
        seconds: total time of the measurement.
    """
    share = seconds / 3
    write, read = disk_rates(folder, share)
    return MachineRates(
        device=str(device),
        decode_frames=_decode_rate(manifest, config, share),
        backbone_frames=_backbone_rate(config, device, share),
        write_bytes=write,
        read_bytes=read,
    )


def _decode_rate(manifest: Manifest, config: ExtractConfig, seconds: float) -> float:
    transform = planned_identity(config).transform
    count = 0
    start = time.perf_counter()
    for clip in _spread(manifest.clips):
        try:
            frames = decode(
                path_below(manifest.root, clip.video),
                decoder=config.decoder,
                pixel_aspect=config.pixel_aspect,
                picture_fps=clip.picture_fps,
            )
            for frame in frames:
                apply_transform(frame.pixels, transform)
                count += 1
                if time.perf_counter() - start > seconds:
                    return count / (time.perf_counter() - start)
        except VideoError:
            continue  # survey_headers and the extraction report it; a rate needs only intact clips
    spent = time.perf_counter() - start
    return count / spent if count else 0.0


def _spread(clips: Sequence[Clip]) -> Iterator[Clip]:
    """Clips spread over the manifest: the first, the middle one, the quarters, ..."""
    step = len(clips)
    seen: set[int] = set()
    while step >= 1:
        for place in range(0, len(clips), step):
            if place not in seen:
                seen.add(place)
                yield clips[place]
        step //= 2


def _backbone_rate(config: ExtractConfig, device: torch.device, seconds: float) -> float:
    if config.pixels is not None:
        return _jpeg_rate(config, seconds)
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    state = load_weights(config.backbone, "random:0")
    backbone = build_backbone(config.backbone, state, shape, numeric=config.numeric, device=device)
    backbone = in_parts(backbone, threads=num_threads())
    machine = machine_for(config, window_frames=shape.frames_per_window)
    prepare_backbone(backbone, machine, compiles=config.compile_backbone)
    size = (machine.batch_frames, 3, *shape.image_size)
    images = torch.zeros(size, dtype=torch.uint8, device=device)

    def run() -> None:
        backbone(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM_BATCHES if device.type == "cuda" else 1):
        run()
    return machine.batch_frames * _repeat(run, seconds)


def _jpeg_rate(config: ExtractConfig, seconds: float) -> float:
    """Frames a second that one thread encodes as JPEG."""
    identity = planned_identity(config)
    encoder, count = JpegEncoder(identity), identity.frames_per_window
    images = [apply_transform(f, identity.transform) for f in canary_frames(224)]
    outputs = {PIXELS: np.stack([images[place % 2].numpy() for place in range(count)])}
    return count * _repeat(lambda: encoder.on_host(outputs, slice(0, 1)), seconds)


def _repeat(work: Callable[[], object], seconds: float) -> float:
    """Calls of `work` a second."""
    start = time.perf_counter()
    count = 0
    while count == 0 or time.perf_counter() - start < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - start)


def disk_rates(folder: Path, seconds: float) -> tuple[float, float]:
    """Bytes a second written and flushed, and read back without the page cache.

    A block at least is written and read, however short the time.

    Raises:
        StoreError: the folder is gone.
        MachineError: it cannot be written.
    """
    block = np.random.default_rng(0).bytes(DISK_BLOCK_BYTES)
    try:
        limit = min(DISK_LIMIT_BYTES, max(shutil.disk_usage(folder).free // 2, 1))
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            start, spent = time.perf_counter(), 0.0
            while file.tell() == 0 or (file.tell() < limit and spent < seconds / 2):
                file.write(block)
                flush(file.fileno(), folder)
                spent = time.perf_counter() - start
            num_bytes, written = file.tell(), file.tell() / spent
            file.seek(0)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start, spent = time.perf_counter(), 0.0
            while file.tell() == 0 or (file.tell() < num_bytes and spent < seconds / 2):
                file.read(DISK_BLOCK_BYTES)
                spent = time.perf_counter() - start
            return written, file.tell() / spent
    except OSError as error:
        what = f"{folder}: cannot be written"
        raise machine_error(error, what) or StoreError(f"{what}: {error.strerror}") from error
