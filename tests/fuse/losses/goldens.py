"""Reads the golden losses."""

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[2] / "golden"


def facts(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def arrays(name, case):
    with np.load(GOLDEN / f"{name}.npz") as file:
        prefix = f"{case}/"
        found = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    return {key: torch.from_numpy(value) for key, value in found.items()}


def assert_gradient(found, wanted):
    """Equal to 1e-5 of the largest entry of the gradient."""
    bound = 1e-5 * wanted.abs().max().item()
    torch.testing.assert_close(found, wanted.reshape(found.shape), rtol=1e-5, atol=bound)
