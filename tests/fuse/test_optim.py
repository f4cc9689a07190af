"""The learning rate of every epoch against the official schedule."""

from pathlib import Path

import numpy as np
import pytest

from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.optim import learning_rate

GOLDEN = Path(__file__).parents[1] / "golden/losses.npz"


@pytest.mark.parametrize("epochs", [10, 300, 500, 1000])
def test_the_cosine_is_the_official_one(epochs):
    with np.load(GOLDEN) as file:
        wanted = file[f"lr/cosine_{epochs}"]
    config = OptimConfig(lr=1e-4, epochs=epochs)

    found = [learning_rate(config, epoch) for epoch in range(epochs)]

    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_warm_up_is_linear_and_ends_at_the_highest_rate():
    config = OptimConfig(lr=1.0, epochs=10, warmup_epochs=4)
    found = [learning_rate(config, epoch) for epoch in range(10)]

    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert (np.diff(found[4:]) < 0).all()
    assert found[-1] > 0
