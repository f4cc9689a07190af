"""Rendered clips and their store, made once."""

import pytest

from tests.pipeline.explore import scene
from tokenreel.pipeline.phases.library import extract_videos


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with `videos`, and `store`: their tokens."""
    path = tmp_path_factory.mktemp("explore")
    scene.write_videos(path / "videos")
    report = extract_videos(path / "videos", path / "store", settings=scene.EXTRACTION)
    assert not report.failed
    return path
