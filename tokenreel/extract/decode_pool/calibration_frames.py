"""Frames of several clips to calibrate a codec on; the same frames for the same manifest."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.manifest import Clip, Manifest, path_below
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.pool import DecodedChunk, DecodePool
from tokenreel.extract.decode_pool.worker import DecodeJob
from tokenreel.extract.frame_policy import FrameList, scenes_of, times_of, uniform_count

SAMPLE_CLIPS = 8
SAMPLE_FRAMES = 8  # of a clip
SAMPLE_SECONDS = 2.0
SPARE_CLIPS = 64  # tried where none of the chosen ones can be decoded
SHOWN = 8  # reasons in a message


def job_for(
    clip: Clip, root: Path, config: ExtractConfig, identity: StoreIdentity, *, skip_frames: int = 0
) -> DecodeJob:
    """The decode job of a clip."""
    listed = FrameList(config)
    scenes = None if listed.scenes is None else scenes_of(listed.scenes, clip)
    return DecodeJob(
        path=path_below(root, clip.video),
        start_seconds=clip.start_seconds,
        stop_seconds=clip.stop_seconds,
        fps=config.fps,
        decoder=config.decoder,
        transform=identity.transform,
        views=identity.views,
        seed_text=clip.clip_id,
        chunk_frames=SAMPLE_FRAMES,
        skip_frames=skip_frames,
        num_uniform=uniform_count(config),
        times_seconds=None if listed.times is None else times_of(listed.times, clip),
        scenes=None if scenes is None else tuple(scene.times for scene in scenes),
        window_frames=identity.frames_per_window,
        picture_fps=clip.picture_fps,
        pixel_aspect=config.pixel_aspect,
    )


def sample_images(
    manifest: Manifest, config: ExtractConfig, identity: StoreIdentity
) -> NDArray[np.uint8]:
    """Up to eight frames of the first two seconds of up to eight clips, spread over the manifest.

    Where all of these fail, the next clips are tried.

    Returns:
        uint8 (F, 3, H, W), clean view, in the order of the clips; clips that fail give none.

    Raises:
        TokenReelError: no clip could be decoded; files and reasons are named.
    """
    clips = manifest.clips
    step = max(1, len(clips) // SAMPLE_CLIPS)
    chosen = range(0, len(clips), step)
    spare = [place for place in range(len(clips)) if place % step][:SPARE_CLIPS]
    reasons: dict[str, str] = {}
    for places in (chosen, spare):
        found = _decode_first([clips[p] for p in places], manifest.root, config, identity, reasons)
        if found:
            return np.concatenate([found[position] for position in sorted(found)])
    listed = "".join(f"\n  {video}: {reason}" for video, reason in [*reasons.items()][:SHOWN])
    more = f"\n  and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    raise TokenReelError(
        f"codec={config.codec} is calibrated on frames, but no clip could be decoded:{listed}{more}"
    )


def _decode_first(
    clips: Sequence[Clip],
    root: Path,
    config: ExtractConfig,
    identity: StoreIdentity,
    reasons: dict[str, str],
) -> dict[int, NDArray[np.uint8]]:
    """Frames (F, 3, H, W) of up to eight clips, by position; adds why others failed, by video."""
    jobs = []
    for clip in clips:
        stop = (clip.start_seconds or 0.0) + SAMPLE_SECONDS
        jobs.append(
            replace(
                job_for(clip, root, config, identity),
                stop_seconds=min(stop, clip.stop_seconds or float("inf")),
                fps=SAMPLE_FRAMES / SAMPLE_SECONDS,
                views=identity.views[:1],
                num_uniform=None,
                times_seconds=None,
                scenes=None,
                window_frames=1,
            )
        )
    found: dict[int, NDArray[np.uint8]] = {}
    height, width = identity.image_size
    with DecodePool(
        jobs,
        slot_shape=(SAMPLE_FRAMES, 1, 3, height, width),
        workers=1,
        timeout_seconds=config.timeout_seconds,
    ) as pool:
        for message in pool:
            position = message.attempt.position
            if isinstance(message, DecodedChunk):
                assert message.images is not None  # no frame is skipped
                if position not in found and len(found) < SAMPLE_CLIPS:
                    found[position] = np.array(message.images[:, 0])
                message.release()
            elif message.failure is not None:
                reasons[clips[position].video] = "; ".join(message.reasons)
    return found
