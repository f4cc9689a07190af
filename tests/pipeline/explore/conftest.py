"""Rendered clips, their store, a run on it, and the server, made once."""

import threading
from contextlib import contextmanager

import pytest

from tests.pipeline.explore import scene
from tests.pipeline.small import SMALL
from tokenreel.pipeline.explore.command import serve_store
from tokenreel.pipeline.phases.library import extract_videos, train_model


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with `videos`, and `store`: their tokens."""
    path = tmp_path_factory.mktemp("explore")
    scene.write_videos(path / "videos")
    settings = scene.EXTRACTION | {"weights": str(scene.write_weights(path / "weights.pth"))}
    report = extract_videos(path / "videos", path / "store", settings=settings)
    assert not report.failed
    return path


@pytest.fixture(scope="session")
def run(work):
    """A run on the store."""
    settings = dict(word.split("=") for word in SMALL)
    train_model(work / "store", work / "run", settings=settings, device="cpu", progress=False)
    return work / "run"


@contextmanager
def serving(*given, **options):
    """A server that answers until the end of the block."""
    made = serve_store(*given, port=0, prepare=lambda: None, **options)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join()


@pytest.fixture(scope="session")
def server(work, run):
    """The server of the store and of its run."""
    with serving(work / "store", [run], root=work / "videos") as made:
        yield made
