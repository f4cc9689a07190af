"""Phase 1: manifest -> token store.

    decode and resize | resize | backbone | quantise | copy out | checksum and write
    processes         | the device ------------------------- | threads

All of them work at once, behind short queues, so that memory does not grow with the length of a
clip.  A frame's tokens do not depend on what ran beside it (see `batching`): the store is the same
bytes for any number of workers, shards and restarts.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.progress import Progress
from tokenreel.extract.backbone.cpu_threads import in_parts, num_threads
from tokenreel.extract.backbone.timm_backbone import Backbone, backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights, weights_sha256
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.calibration_frames import sample_images
from tokenreel.extract.encode.identity import (
    build_identity,
    identity_for,
    needs_samples,
    open_or_create,
    require_same_tokens,
    store_name,
)
from tokenreel.extract.encode.quantiser import Quantiser
from tokenreel.extract.flow.clip_queue import ClipBook
from tokenreel.extract.flow.devices import compile_quantiser, machine_for, pick_device, ready
from tokenreel.extract.flow.flow import Flow, check_failures
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import stop_on_signals

__all__ = [
    "ExtractReport",
    "build_identity",
    "extract_clips",
    "pick_device",
    "prepare_store",
    "store_name",
]


VIDEOS_A_SHARD = 8  # with fewer, shards of whole videos differ too much in length


def extract_clips(
    manifest: Manifest,
    config: ExtractConfig,
    store: Path,
    *,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
    retries: bool = False,
    processes: int = 1,
    tick: Callable[[ExtractReport], None] = lambda _: None,
) -> ExtractReport:
    """Write the tokens of every clip of a manifest that the store does not hold yet.

    Args:
        manifest: the clips.
        config: the extraction.
        store: directory of the store; made when absent.
        progress: whether to draw a bar of frames.
        shard: (i, n): only every n-th clip, from the i-th on.
        retries: whether clips in quarantine are tried again; they are only reported otherwise.
        processes: that extract on this machine, this one included.
        tick: called with the report now and then.

    Returns:
        What was done.  Clips that failed are in it, and in the store's quarantine.

    Raises:
        WrongIdentity: the store was made with other settings.
        UsageError: the backbone, its weights or the device are not to be had.
        TokenReelError: more clips failed than config.max_failures.
    """
    started = time.monotonic()
    report = ExtractReport()
    backbone, identity, calibration, device = prepare_store(
        manifest, config, store, processes=processes
    )
    machine = machine_for(config, processes=processes)
    machine = ready(backbone, machine, compiles=config.compile_backbone)
    require_same_tokens(
        store, identity, backbone, batch_frames=machine.batch_frames if machine.pads else None
    )
    quantiser = Quantiser(codec_from_identity(identity.codec, calibration), identity, device)
    if config.compile_backbone:
        compile_quantiser(quantiser, backbone, machine)
    book = ClipBook(
        manifest,
        config,
        identity,
        store,
        report,
        part=clips_of_shard(manifest, shard),
        align=1 if machine.mixes else machine.batch_frames,
        retries=retries,
    )
    with ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signals())
        run = Flow(machine, config, identity, report, book, stopping)
        stack.enter_context(book)
        run.enter(stack, backbone, quantiser)
        bar = stack.enter_context(Progress(desc="extract", unit="frame", enabled=progress))

        def show() -> None:
            report.seconds["total"] = time.monotonic() - started
            run.measure()
            bar.set_postfix_str(report.status(), refresh=False)
            bar.update(report.num_appended - bar.n)
            tick(report)

        run.hear_decoders(show)
        run.finish(show)
        show()
    report.stopped = stopping.event.is_set()
    check_failures(report, config)
    return report


def prepare_store(
    manifest: Manifest, config: ExtractConfig, store: Path, *, processes: int = 1
) -> tuple[Backbone, StoreIdentity, Mapping[str, NDArray[Any]], torch.device]:
    """Open the store, or make it and calibrate its codec on frames of some clips.

    Args:
        manifest: the clips.
        config: the extraction.
        store: directory of the store; made when absent.
        processes: that extract on this machine, this one included.

    Returns:
        The backbone, the identity of the store, the calibration of its codec, and the device.

    Raises:
        WrongIdentity: the store was made with other settings.
        UsageError: the backbone, its weights or the device are not to be had.
        TokenReelError: the codec needs frames, and no clip could be decoded.
    """
    device = pick_device(config.device)
    state = load_weights(config.backbone, config.weights)
    planned = identity_for(config, weights_sha256(state))
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    backbone = build_backbone(config.backbone, state, shape, numeric=config.numeric, device=device)
    backbone = in_parts(backbone, threads=num_threads(processes))
    calibrates = needs_samples(config.codec) and not (store / "recipe.json").is_file()
    identity, calibration = open_or_create(
        store,
        planned,
        config=config,
        dataset=manifest.dataset,
        backbone=backbone,
        samples=sample_images(manifest, config, planned) if calibrates else None,
    )
    return backbone, identity, calibration, device


def clips_of_shard(manifest: Manifest, shard: tuple[int, int]) -> list[Clip]:
    """The clips of every n-th video from the i-th on, so that one shard reads a video.

    Where there are few videos for so many shards, every n-th clip instead: shares are even then.
    """
    part, parts = shard
    if not 0 <= part < parts:
        raise UsageError(f"shard {part}/{parts}: i/n with 0 <= i < n")
    videos = sorted({clip.video for clip in manifest.clips})
    if len(videos) < VIDEOS_A_SHARD * parts:
        return list(manifest.clips[part::parts])
    mine = set(videos[part::parts])
    return [clip for clip in manifest.clips if clip.video in mine]
