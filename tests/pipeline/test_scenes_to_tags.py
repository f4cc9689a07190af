"""From videos by scenes to tags: `extract scenes`, two stores, `fuse train`, `evaluate all`."""

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.extract.scenes.films import write_film
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.read.store_reader import open_store
from tokenreel.pipeline.cli import evaluate, extract, fuse

FILMS = {  # lengths of scenes in frames
    "train/a": [14, 16, 12],
    "train/b": [20, 13],
    "train/c": [15],
    "val/d": [12, 12, 18, 14],
}
TAGS = {"train/a": "long", "train/b": "short", "train/c": "short", "val/d": "long"}
SIZE = ["image_size=32", "weights=random:0", "blocks=3", "codec=fp16", "workers=1", "device=cpu"]
BACKBONES = {"spatial": "torchvision:resnet18", "temporal": "torchvision:r2plus1d_18"}
SMALL = ["data.num_frames=3", "encoder.width=8", "encoder.layers=1", "optim.epochs=2"]


def run(app, *words):
    result = CliRunner().invoke(app.app, list(map(str, words)))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The videos, their scenes and a store of each backbone."""
    top = tmp_path_factory.mktemp("films")
    for name, lengths in FILMS.items():
        path = top / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_film(path, lengths)
    lines = "".join(f"{name}.mp4,{tag}\n" for name, tag in TAGS.items())
    (top / "videos" / "tags.csv").write_text(f"video,tag\n{lines}")
    of = ["folder", "--root", top / "videos"]
    run(extract, "scenes", *of, "--out", top / "scenes")
    for name, backbone in BACKBONES.items():
        words = [f"frames=scenes:{top / 'scenes'}", f"backbone={backbone}", *SIZE]
        run(extract, "run", *of, "--out", top / name, *words)
    return top


@pytest.mark.slow  # three commands that start processes
def test_a_clip_of_each_number_of_scenes_is_scored_and_judged(folder):
    stores = [f"--store={name}={folder / name}" for name in BACKBONES]
    run(fuse, "train", "stan", *SMALL, *stores, "--out", folder / "run", "--device", "cpu")
    file = read_embeddings(folder / "run" / "embeddings.h5")
    assert file.class_names == ("long", "short")
    assert {clip.clip_id: clip.embeddings.shape for clip in file.clips} == {
        f"{name}.mp4": (1, 2) for name in FILMS
    }
    counts = {
        clip_id: r.num_frames for clip_id, r in open_store(folder / "spatial").records.items()
    }
    assert counts == {f"{name}.mp4": len(lengths) for name, lengths in FILMS.items()}
    assert all(np.isfinite(clip.embeddings).all() for clip in file.clips)
    printed = run(evaluate, "all", folder / "run", "--out", folder / "results", "--jobs", "1")
    assert "map" in printed
    assert "top@1" in printed


@pytest.mark.slow
def test_a_row_trains_its_cnns_from_the_pictures_that_an_extraction_keeps(folder):
    of = ["folder", "--root", folder / "videos", f"frames=scenes:{folder / 'scenes'}"]
    stores = {"spatial_pixels": "centre", "temporal_pixels": "all"}
    for name, kind in stores.items():
        words = [f"pixels={kind}", "image_size=32", "workers=1"]
        run(extract, "run", *of, "--out", folder / name, *words)
    named = [f"--store={name}={folder / name}" for name in stores]
    words = [f"{s}_cnn.{word}" for s in BACKBONES for word in ("name=small", "weights=random:0")]
    out = ["--out", folder / "large", "--device", "cpu"]
    run(fuse, "train", "stan-large", *SMALL, *words, *named, *out)
    file = read_embeddings(folder / "large" / "embeddings.h5")
    assert [clip.embeddings.shape for clip in file.clips] == [(1, 2)] * len(FILMS)
    again = run(fuse, "embed", folder / "large", *named, "--out", folder / "e.h5", *out[2:])
    assert "embeddings: " in again
    for here, there in zip(file.clips, read_embeddings(folder / "e.h5").clips, strict=True):
        np.testing.assert_array_equal(here.embeddings, there.embeddings)
