"""The tiny store, written once."""

import pytest

from tests.fuse.tiny import write_store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s")


@pytest.fixture
def smaller_store(tmp_path):
    """A store of the same recipe with fewer clips."""
    return write_store(tmp_path / "smaller", train=3)
