"""Images and weights that tests draw are the same in any order of the tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
