"""Codecs of another package: a quantiser that does not fold, and a reducer with a torch step."""

from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.codec.base import Encoded, Reducer, Terminal


class Squares(Terminal):
    """int16 codes of signed square roots in steps of 1/1024: no channel scale undoes them."""

    dtype = np.dtype("<i2")
    fill_value = -32768
    packing = "squares"

    def __init__(self, parameter, calibration):
        self.steps = float(parameter or 1024)

    def encode(self, tokens, *, block):
        roots = np.rint(np.sign(tokens) * np.sqrt(np.abs(tokens)) * self.steps)
        if np.abs(roots).max(initial=0) > 32767:
            raise ValueError(f"block {block}: a value beyond {(32767 / self.steps) ** 2}")
        return Encoded(roots.astype(np.int16))

    def decode(self, encoded, *, block):
        roots = encoded.codes.astype(np.float32) / np.float32(self.steps)
        return np.sign(roots) * np.square(roots)


class Backwards(Reducer):
    """The channels in reverse; what takes them back is its calibration."""

    needs_calibration = True
    torch_step = "tests.extract.encode.plugin:BACKWARDS"

    def __init__(self, parameter, calibration):
        self.calibration = calibration

    def fit(self, tokens, *, block):
        return {f"backwards/{block}": np.eye(tokens.shape[-1], dtype=np.float32)[::-1].copy()}

    def shape(self, num_tokens, dim, grid):
        return num_tokens, dim, grid

    def apply(self, tokens, *, block, grid):
        return np.ascontiguousarray(tokens[..., ::-1])

    def rotation(self, block):
        return self.calibration[f"backwards/{block}"]


class Bare:
    """No codec."""

    def __init__(self, parameter, calibration):
        pass

    def encode(self, tokens, *, block):
        return Encoded(tokens)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the codecs of this module those of an installed package."""
    info = folder / "codecs_of_others-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: codecs-of-others\nVersion: 0.3\n")
    kinds = {"squares": "Squares", "backwards": "Backwards", "bare": "Bare", "gone": "Gone"}
    points = [f"{name} = tests.cache.codec.plugin:{kind}" for name, kind in kinds.items()]
    (info / "entry_points.txt").write_text("\n".join(["[tokenreel.codecs]", *points]) + "\n")
    monkeypatch.syspath_prepend(folder)
