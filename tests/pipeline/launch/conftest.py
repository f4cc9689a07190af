"""Videos of which one is long, and the store that the local engine makes of them."""

import pytest

from tests.extract.extraction import write_video
from tests.programs import call

WORDS = ("backbone=test_vit", "weights=random:0", "image_size=96", "blocks=1,5", "device=cpu")
WORDS += ("batch_frames=4", "codec=int8")


@pytest.fixture(scope="session")
def words():
    return WORDS


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    (folder / "videos").mkdir()
    for name, frames in (("a", 30), ("b", 400), ("c", 70)):
        write_video(folder / "videos" / f"{name}.mp4", frames)
    words = ["--root", "videos", "--out", "local", "--engine", "local", *WORDS]
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    assert status == 0, printed
    return folder
