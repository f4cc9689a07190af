"""Backbone on several CPU threads, whose number does not change the tokens.

Threads that share one matrix product split it by their number, which changes the last bits of the
tokens: bfloat16 products of a ViT were seen to differ from three threads on.  Here each thread
runs whole products on a few frames, always the same ones.  It is also faster beside other work: no
thread waits for the others in the middle of a block.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tokenreel.extract.backbone.base import Backbone, FrameTokens

PART_FRAMES = 4  # of a part: enough rows for a small ViT, and still a short wait with a large one
MOST_THREADS = 16  # a batch has a part for each thread, and three batches are in memory


def num_threads(processes: int = 1) -> int:
    """Threads of a backbone: this process's share of those that torch may use here."""
    return min(max(torch.get_num_threads() // processes, 1), MOST_THREADS)


def in_parts(backbone: Backbone, *, threads: int) -> Backbone:
    """The backbone with its batches split into parts over threads; unchanged on a GPU."""
    if backbone.device.type != "cpu":
        return backbone
    return _InParts(backbone, threads=threads)


class _InParts(Backbone):
    """Backbone whose tokens are the same bytes for any number of threads."""

    def __init__(self, whole: Backbone, *, threads: int) -> None:
        super().__init__(whole.model, whole.shape, numeric=whole.numeric)
        self._whole = whole
        frames = whole.shape.frames_per_window
        self._part_frames = max(PART_FRAMES // frames, 1) * frames
        self._pool = _single_threads(threads)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> FrameTokens:
        parts = list(self._pool.map(self._whole, images.split(self._part_frames)))
        normed = [part.cls_normed for part in parts if part.cls_normed is not None]
        return FrameTokens(
            tokens={b: torch.cat([part.tokens[b] for part in parts]) for b in parts[0].tokens},
            cls={b: torch.cat([part.cls[b] for part in parts]) for b in parts[0].cls},
            cls_normed=torch.cat(normed) if normed else None,
        )

    def run(self, images: Tensor) -> FrameTokens:
        """The whole backbone's, undivided."""
        return self._whole.run(images)


def _single_threads(count: int) -> ThreadPoolExecutor:
    """A pool whose threads compute their products alone; torch's setting elsewhere is unchanged."""
    all_here = threading.Barrier(count)
    before = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # torch initialises this thread now, not after the next line
        torch.set_num_threads(1)
        all_here.wait()

    pool = ThreadPoolExecutor(count, "backbone", initializer=begin)
    for started in [pool.submit(int) for _ in range(count)]:
        started.result()
    torch.set_num_threads(before)  # the setting is also the default of new threads
    return pool
