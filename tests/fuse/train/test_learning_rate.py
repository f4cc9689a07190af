"""The learning rate of every epoch against the official schedule."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.train.run import learning_rate, make_optimiser

GOLDEN = Path(__file__).parents[2] / "golden/losses.npz"


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


def stepped(config: OptimConfig, *, threads: int, **options: object) -> torch.Tensor:
    """Weights after some steps on gradients of many sizes, by as many threads."""
    torch.manual_seed(0)
    model = torch.nn.ModuleList([torch.nn.Linear(301, 97), torch.nn.Linear(7, 3)])
    optimiser = make_optimiser(config, list(model.parameters()))
    for group in optimiser.param_groups:
        group.update(options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for power in range(-5, 5):
        for weights in model.parameters():
            weights.grad = torch.randn(weights.shape) * 10.0**power
        optimiser.step()
    torch.set_num_threads(before)
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_fused_step_is_the_plain_one(name):
    config = OptimConfig(name=name, lr=1e-2, weight_decay=1e-2)

    fused = stepped(config, threads=1)

    torch.testing.assert_close(fused, stepped(config, threads=1, fused=False), rtol=1e-6, atol=1e-6)
    assert torch.equal(fused, stepped(config, threads=2))
