"""A backbone on a CPU: a few frames to each thread, so that the number of threads changes no bit.

Threads that share one matrix product cut it by how many they are, and the last bits of the tokens
follow: bfloat16 products of a ViT were seen to differ from three threads on.  Here each thread
computes products of its own, of frames that are always cut in the same way.  It is also faster
beside other work: no thread waits for the others in the middle of a block.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tokenreel.extract.backbone.timm_backbone import Backbone, FrameTokens

__all__ = ["PART_FRAMES", "in_parts", "num_threads"]

PART_FRAMES = 4  # of a thread's share: enough rows for a small ViT, one slow wait for a large one
MOST_THREADS = 16  # a batch, of a part for each, is held three times


def num_threads(processes: int = 1) -> int:
    """Threads of a backbone: this process's share of those that torch may use here."""
    return min(max(torch.get_num_threads() // processes, 1), MOST_THREADS)


def in_parts(backbone: Backbone, *, threads: int) -> Backbone:
    """The backbone, its batches cut into parts for so many threads; on a GPU as it is."""
    if next(backbone.model.parameters()).device.type != "cpu":
        return backbone
    return _InParts(backbone, threads=threads)


class _InParts(Backbone):
    """Gives the same bytes for any number of threads."""

    def __init__(self, whole: Backbone, *, threads: int) -> None:
        super().__init__(whole.model, whole.shape, numeric=whole.numeric)
        self._pool = _single_threads(threads)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> FrameTokens:
        parts = list(self._pool.map(super().forward, images.split(PART_FRAMES)))
        normed = [part.cls_normed for part in parts if part.cls_normed is not None]
        return FrameTokens(
            tokens={b: torch.cat([part.tokens[b] for part in parts]) for b in parts[0].tokens},
            cls={b: torch.cat([part.cls[b] for part in parts]) for b in parts[0].cls},
            cls_normed=torch.cat(normed) if normed else None,
        )


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads whose products are computed by one thread each; other threads keep their number."""
    all_here = threading.Barrier(count)
    before = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # makes torch set up this thread, which it would else do later
        torch.set_num_threads(1)
        all_here.wait()

    pool = ThreadPoolExecutor(count, "backbone", initializer=begin)
    for started in [pool.submit(int) for _ in range(count)]:
        started.result()
    torch.set_num_threads(before)  # for threads to come: the setting is also the process's
    return pool
