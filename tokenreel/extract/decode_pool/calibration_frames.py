"""Frames of several clips to calibrate a codec on; the same frames for the same manifest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.pool import DecodedChunk, DecodePool
from tokenreel.extract.decode_pool.worker import DecodeJob
from tokenreel.extract.frame_policy import listed_times, times_of, uniform_count

SAMPLE_CLIPS = 8
SAMPLE_FRAMES = 8  # of a clip
SAMPLE_SECONDS = 2.0


def job_for(
    clip: Clip, root: Path, config: ExtractConfig, identity: StoreIdentity, *, skip_frames: int = 0
) -> DecodeJob:
    """The decode job of a clip."""
    listed = listed_times(config)
    return DecodeJob(
        path=root / clip.video,
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
        times_seconds=None if listed is None else times_of(listed, clip),
        window_frames=identity.frames_per_window,
    )


def sample_images(
    manifest: Manifest, config: ExtractConfig, identity: StoreIdentity
) -> NDArray[np.uint8]:
    """Up to eight frames of the first two seconds of up to eight clips, spread over the manifest.

    Returns:
        uint8 (F, 3, H, W), clean view, in the order of the clips; clips that fail give none.
    """
    step = max(1, len(manifest.clips) // SAMPLE_CLIPS)
    jobs = []
    for clip in manifest.clips[::step]:
        stop = (clip.start_seconds or 0.0) + SAMPLE_SECONDS
        jobs.append(
            replace(
                job_for(clip, manifest.root, config, identity),
                stop_seconds=min(stop, clip.stop_seconds or float("inf")),
                fps=SAMPLE_FRAMES / SAMPLE_SECONDS,
                views=identity.views[:1],
                num_uniform=None,
                times_seconds=None,
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
        for chunk in pool:
            if isinstance(chunk, DecodedChunk):
                position = chunk.attempt.position
                assert chunk.images is not None  # no frame is skipped
                if position not in found and len(found) < SAMPLE_CLIPS:
                    found[position] = np.array(chunk.images[:, 0])
                chunk.release()
    if not found:
        return np.zeros((0, 3, height, width), np.uint8)
    return np.concatenate([found[position] for position in sorted(found)])
