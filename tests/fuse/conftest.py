"""The tiny store, written once."""

import pytest

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.fuse.train.train import train


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s")


@pytest.fixture
def smaller_store(tmp_path):
    """A store of the same recipe with fewer clips."""
    return write_store(tmp_path / "smaller", train=3)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of the tiny config on the tiny store."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_config(), store=store, out=path, device="cpu", progress=False)
    return path
