"""Phase 1: manifest -> token store.  Decode | backbone and codec | write, all at once.

The frames of a batch are of one clip and a fixed place in it, whatever decodes or writes beside
it: so the tokens are the same bytes for any number of workers, shards and restarts.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tokenreel.cache.codec import codec_from_recipe
from tokenreel.cache.errors import ClipFailed, TokenReelError, UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.progress import Progress
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.extract.backbone import backbone_shape, build_backbone
from tokenreel.extract.clips import ClipBook
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode import encode_batch
from tokenreel.extract.identity import (
    build_recipe,
    default_store_name,
    open_or_create,
    recipe_for,
)
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.sampling import sample_images
from tokenreel.extract.supervisor import DecodedBatch, DecodePool
from tokenreel.extract.weights import load_weights, weights_sha256
from tokenreel.extract.writing import WriteQueue

__all__ = ["ExtractReport", "build_recipe", "default_store_name", "extract_clips", "pick_device"]

log = logging.getLogger(__name__)


def extract_clips(
    manifest: Manifest,
    config: ExtractConfig,
    store: Path,
    *,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> ExtractReport:
    """Write the tokens of every clip of a manifest that the store does not hold yet.

    Args:
        manifest: the clips.
        config: the extraction.
        store: directory of the store; made when absent.
        progress: whether to draw a bar of frames.
        shard: (i, n): only every n-th clip, from the i-th on.

    Returns:
        What was done.  Clips that failed are in it, and in the store's quarantine.

    Raises:
        WrongRecipe: the store was made by another recipe.
        UsageError: the backbone, its weights or the device are not to be had.
        TokenReelError: more clips failed than config.max_failures.
    """
    started = time.monotonic()
    device = pick_device(config.device)
    state = load_weights(config.backbone, config.weights)
    planned = recipe_for(config, weights_sha256(state))
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    backbone = build_backbone(config.backbone, state, shape, numeric=config.numeric, device=device)
    is_new = not (store / "recipe.json").is_file()
    recipe, calibration = open_or_create(
        store,
        planned,
        config=config,
        dataset=manifest.dataset,
        backbone=backbone,
        samples=sample_images(manifest, config, planned) if is_new else None,
    )
    codec = codec_from_recipe(recipe.codec, calibration)
    report = ExtractReport()
    book = ClipBook(manifest, config, recipe, store, report, part=clips_of_shard(manifest, shard))
    with (
        stop_on_signals() as stopping,
        book,
        WriteQueue(report) as writes,
        Progress(desc="extract", unit="frame", enabled=progress) as bar,
        decode_pool(book.jobs(stopping), config, recipe) as pool,
    ):
        idle = time.monotonic()
        for batch in pool:
            report.seconds["wait"] += time.monotonic() - idle
            entry = book.entry(batch.position)
            if batch.end is not None:
                writes.put(book.closing(entry, batch))
            elif book.accepts(entry, batch):
                start = time.monotonic()
                images = images_of(batch, device)
                try:
                    views = encode_batch(backbone, codec, recipe, images)
                except ValueError as error:
                    writes.put(partial(book.fail, entry, "encode", str(error)))
                else:
                    writes.put(book.writing(entry, batch, views))
                report.seconds["compute"] += time.monotonic() - start
            report.seconds["decode"] += batch.seconds
            bar.update(len(batch.pts))
            bar.set_postfix_str(status(report), refresh=False)
            check_failures(report, config)
            if stopping.is_set():
                break
            idle = time.monotonic()
    report.stopped = stopping.is_set()
    report.seconds["total"] = time.monotonic() - started
    check_failures(report, config)
    return report


def pick_device(device: str) -> torch.device:
    """The device of a word of the config: "auto" is CUDA where there is one.

    Raises:
        UsageError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device!r}: auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device={device!r}: torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen


def clips_of_shard(manifest: Manifest, shard: tuple[int, int]) -> list[Clip]:
    """Every n-th clip from the i-th on."""
    part, parts = shard
    if not 0 <= part < parts:
        raise UsageError(f"shard {part}/{parts}: i/n with 0 <= i < n")
    return list(manifest.clips[part::parts])


def decode_pool(jobs: Iterator[object], config: ExtractConfig, recipe: StoreRecipe) -> DecodePool:
    """The decode processes of an extraction."""
    size = recipe.image_size[0]
    return DecodePool(
        jobs,  # type: ignore[arg-type]
        slot_shape=(config.batch_frames, recipe.num_views, 3, size, size),
        workers=config.workers,
        timeout_seconds=config.timeout_seconds,
    )


def images_of(batch: DecodedBatch, device: torch.device) -> torch.Tensor:
    """Copy a batch out of its slot, uint8 (t, V, 3, S, S), and give the slot back."""
    assert batch.images is not None
    images = torch.from_numpy(np.array(batch.images)).to(device)
    batch.release()
    return images


def status(report: ExtractReport) -> str:
    """The end of the progress bar."""
    seconds = report.seconds
    return (
        f"decode {seconds['decode']:.0f} s, compute {seconds['compute']:.0f} s, "
        f"write {seconds['write']:.0f} s, {report.num_bytes / 1e9:.2f} GB, "
        f"{len(report.failed)} failed"
    )


def check_failures(report: ExtractReport, config: ExtractConfig) -> None:
    """Raise once more clips have failed than the user allows."""
    if config.max_failures is not None and len(report.failed) > config.max_failures:
        last: ClipFailed = report.failed[-1]
        raise TokenReelError(
            f"{len(report.failed)} clips failed, more than max_failures={config.max_failures}; "
            f"the last: {last}"
        )


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Set the event on SIGTERM or SIGINT, so that the run ends at the next batch."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, _: object) -> None:
        log.warning("signal %d: stopping after this batch (%d again ends at once)", number, number)
        event.set()
        signal.signal(number, signal.SIG_DFL)

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
