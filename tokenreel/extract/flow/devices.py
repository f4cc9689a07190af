"""Use of the machine: device, batch size, decode processes, writer threads, compilation."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.errors import MachineError, TokenReelError, UsageError
from tokenreel.extract.backbone.base import Backbone
from tokenreel.extract.backbone.cpu_threads import PART_FRAMES, num_threads
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.quantiser import Quantiser

log = logging.getLogger(__name__)

CUDA_BATCH_FRAMES = 128  # larger batches gain little
CPU_BATCH_FRAMES = 8  # at least; a batch cannot be interrupted, so a small one stops sooner
CUDA_WRITE_THREADS = 4
RESERVED_CORES = 2  # for the process that feeds the GPU and for its writers
MOST_WORKERS = 24


@dataclass(frozen=True, slots=True)
class Machine:
    """Resources of one extracting process.

    Attributes:
        device: of the backbone.
        batch_frames: frames of a batch.
        mixes: whether a batch may hold frames of several clips.
        pads: whether every batch runs at its full size, even when it is not full.
        resizes: whether frames are resized on the device rather than in decode processes.
        workers: number of decode processes.
        write_threads: number of writer threads.
    """

    device: torch.device
    batch_frames: int
    mixes: bool
    pads: bool
    resizes: bool
    workers: int
    write_threads: int

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU, where work is asynchronous."""
        return self.device.type == "cuda"


def machine_for(config: ExtractConfig, *, processes: int = 1, window_frames: int = 1) -> Machine:
    """Resources for one of `processes` on this machine: those of the config, else defaults.

    On a CPU there are as many decode processes as threads of the backbone.  A process that waits
    for a queue takes no time, so the cores serve the slower side: large frames or a large model.
    A batch holds whole windows of `window_frames` frames.

    Raises:
        UsageError: the device does not exist.
    """
    device = pick_device(config.device)
    is_cuda = device.type == "cuda"
    threads = num_threads(processes)
    cpu_batch_frames = max(CPU_BATCH_FRAMES, PART_FRAMES * threads)
    decoders = (
        max(len(os.sched_getaffinity(0)) // processes - RESERVED_CORES, 1) if is_cuda else threads
    )
    default = CUDA_BATCH_FRAMES if is_cuda else cpu_batch_frames
    batch_frames = config.batch_frames or default
    return Machine(
        device=device,
        batch_frames=-(-batch_frames // window_frames) * window_frames,
        mixes=is_cuda,
        pads=is_cuda,
        resizes=is_cuda,
        workers=config.workers or min(decoders, MOST_WORKERS),
        write_threads=config.write_threads or (CUDA_WRITE_THREADS if is_cuda else 1),
    )


def prepare_backbone(backbone: Backbone, machine: Machine, *, compiles: bool) -> Machine:
    """Compile the backbone if requested, and test whether batches may be filled across clips.

    Returns:
        The machine; without mixing where a row's tokens depend on its place in a batch.

    Raises:
        MachineError: not enough GPU memory for a batch.
    """
    with named_failures(machine):
        if compiles and machine.is_cuda:
            compile_blocks(backbone, _noise(backbone, machine))
        elif compiles:
            log.info("compile_backbone is ignored on %s: only for GPUs", machine.device)
        if machine.mixes and not is_place_free(backbone, machine):
            log.warning(
                "%s: tokens depend on a frame's place in a batch, so a batch holds frames of one "
                "clip only; extraction will be slower",
                machine.device,
            )
            return replace(machine, mixes=False, resizes=False)
    return machine


def compile_quantiser(quantiser: Quantiser, backbone: Backbone, machine: Machine) -> None:
    """Quantiser.compile on a GPU; nothing on a CPU.

    Raises:
        MachineError: not enough GPU memory for a batch.
    """
    if machine.is_cuda:
        with named_failures(machine):
            quantiser.compile(backbone(_noise(backbone, machine)))


def compile_blocks(backbone: Backbone, images: Tensor) -> None:
    """torch.compile each block of a ViT or part of a ResNet: elementwise work in few kernels.

    The blocks of a ViT share one graph, made once, for the only batch size.  Where compilation
    fails, for example without a compiler, a warning is logged and they run uncompiled.

    Args:
        backbone: on its device.
        images: a batch, uint8 (B, 3, H, W), of the size of all later ones.
    """
    from torch._dynamo.exc import TorchDynamoException

    model: Any = backbone.model
    parts = model.blocks if hasattr(model, "blocks") else [m for _, m in model.named_children()]
    for part in parts:
        part.compile(dynamic=False)
    try:
        with warnings.catch_warnings():  # "TensorFloat32 is not enabled": on purpose
            warnings.filterwarnings("ignore", message="TensorFloat32")
            backbone(images)
    except TorchDynamoException as error:
        for part in parts:
            part._compiled_call_impl = None
        log.warning("the backbone runs uncompiled and slower: %s", _first_line(error))


def is_place_free(backbone: Backbone, machine: Machine) -> bool:
    """Whether frames give the same bytes in every place of a batch: tested in three orders."""
    images = _noise(backbone, machine)
    draw = np.random.default_rng(1)
    wanted = backbone(images)
    shape = backbone.shape
    windows = len(images) // shape.frames_per_window
    for places in (draw.permutation(windows), np.roll(np.arange(windows), 1)):
        frames, order = (
            torch.from_numpy((places[:, None] * size + np.arange(size)).ravel()).to(machine.device)
            for size in (shape.frames_per_window, shape.rows_per_window)
        )
        found = backbone(images[frames])
        pairs = [(wanted.tokens[b], found.tokens[b]) for b in wanted.tokens]
        pairs += [(wanted.cls[b], found.cls[b]) for b in wanted.cls]
        if wanted.cls_normed is not None and found.cls_normed is not None:
            pairs.append((wanted.cls_normed, found.cls_normed))
        if not all(torch.equal(plain[order], shuffled) for plain, shuffled in pairs):
            return False
    return True


def _noise(backbone: Backbone, machine: Machine) -> torch.Tensor:
    """A full batch of random images, uint8 (B, 3, H, W), to test a backbone with."""
    shape = (machine.batch_frames, 3, *backbone.shape.image_size)
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.integers(0, 256, shape, np.uint8)).to(machine.device)


@contextmanager
def named_failures(machine: Machine) -> Iterator[None]:
    """Turn failures of a GPU into errors that say what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{machine.device}: not enough memory for a batch of {machine.batch_frames} frames; "
            f"set batch_frames={max(machine.batch_frames // 2, 1)}, or free memory that others use "
            f"({_first_line(error)})"
        ) from error
    except torch.AcceleratorError as error:
        raise TokenReelError(
            f"{machine.device} failed: {_first_line(error)}; committed clips are kept, rerun to "
            "resume"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def pick_device(device: str) -> torch.device:
    """The device that a config names; "auto" is a GPU where there is one.

    A GPU always has its number, which torch.cuda.set_device needs.

    Raises:
        UsageError: the device does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device!r}: not auto, cpu, cuda or cuda:N") from error
    if chosen.type not in {"cpu", "cuda"}:
        raise UsageError(f"device={device!r}: not auto, cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return chosen
    chosen = torch.device("cuda", chosen.index or 0)
    if chosen.index >= torch.cuda.device_count():
        raise UsageError(f"device={device!r}: torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen


def pick_gpus(words: str) -> tuple[str, ...]:
    """The devices that `--gpus` names: "all", how many, or numbers separated by commas.

    >>> pick_gpus("cpu,cpu")
    ('cpu', 'cpu')

    Raises:
        UsageError: none of these, or a GPU does not exist.
    """
    count = torch.cuda.device_count()
    parts = words.split(",")
    if words == "all":
        chosen = [f"cuda:{number}" for number in range(count)]
    elif is_whole_number(words) and int(words) > 0:
        chosen = [f"cuda:{number}" for number in range(int(words))]
    elif all(part == "cpu" for part in parts):
        chosen = parts
    elif all(is_whole_number(part) for part in parts if part) and "," in words:
        chosen = [f"cuda:{int(part)}" for part in parts if part]
    else:
        raise UsageError(f"--gpus is all, how many, or numbers such as 0,1; got {words!r}")
    missing = [d for d in chosen if d != "cpu" and int(d.removeprefix("cuda:")) >= count]
    if missing or not chosen:
        raise UsageError(f"--gpus {words}: torch sees {count} CUDA devices")
    return tuple(chosen)
