"""Runs that score whole clips, of one store or of several, on new videos."""

import csv
import shutil

import numpy as np
import pytest

from tests.extract.scenes.films import write_film
from tests.fuse.systems.ftp.maps import small, write_texts
from tests.pipeline.apply.test_apply import EXTRACTION, write_video
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import ClipFailed, UsageError
from tokenreel.cache.format.store_files import create_twin
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.train.train import train
from tokenreel.pipeline.apply import apply as module_of_apply
from tokenreel.pipeline.apply import tokens
from tokenreel.pipeline.apply.apply import apply_run
from tokenreel.pipeline.phases.library import embed_store, extract_videos, train_model
from tokenreel.pipeline.phases.relabelling import renew_labels
from tokenreel.pipeline.phases.scenes import scenes_of_dataset

STREAMS = {"spatial": 11, "temporal": 5}  # the block of each store
OF_STREAMS = {
    "data.num_frames": 3,
    "encoder.width": 8,
    "encoder.layers": 1,
    "optim.epochs": 1,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Stores of labelled videos, a run on two of them, one on clip maps, and a new video."""
    path = tmp_path_factory.mktemp("scores")
    clips, tags = ["video,split,action"], ["video,tag"]
    for number, split in enumerate(("train", "train", "train", "train", "val", "val")):
        name = f"{number}.mp4"
        write_video(path / "data" / name, seed=number, num_frames=8)
        clips.append(f"{name},{split},{('jump', 'run')[number % 2]}")
        tags.append(f"{name},{('calm', 'wild')[number % 2]}")
    (path / "data" / "clips.csv").write_text("\n".join(clips))
    (path / "data" / "tags.csv").write_text("\n".join(tags))
    stores = {name: path / "stores" / name for name in STREAMS}
    for name, block in STREAMS.items():
        extract_videos(path / "data", stores[name], settings=EXTRACTION | {"blocks": (block,)})
    words = {"device": "cpu", "progress": False}
    train_model(stores, path / "tags", recipe="stan", settings=OF_STREAMS, **words)
    maps = path / "stores" / "maps"
    extract_videos(path / "data", maps, settings=EXTRACTION | {"frames": "uniform:4"})
    train(small(prompts=(), stage="classify"), store=maps, out=path / "actions", **words)
    texts = write_texts(path / "texts.h5", clips=tuple(f"{n}.mp4" for n in range(6)))
    names = write_texts(path / "names.h5", clips=("jump0", "run1"))
    align = small(texts=str(texts), stage="align", class_texts=str(names))
    train(align, store=maps, out=path / "texts", **words)
    train(align.with_(class_texts=None), store=maps, out=path / "pairs", **words)
    (path / "data" / "tags.csv").write_text(
        "\n".join(["video,tag", *(f"{number}.mp4,{number / 2}" for number in range(6))])
    )
    for store in stores.values():
        renew_labels(store, root=path / "data")
    numbers = OF_STREAMS | {"loss": "mse"}
    train_model(stores, path / "numbers", recipe="stan", settings=numbers, **words)
    write_video(path / "new" / "a.mp4", seed=9, num_frames=8)
    return path


def applied(run, work, out, **options):
    return list(apply_run(run, [work / "new"], out=out, device="cpu", progress=False, **options))


def read_scores(folder):
    with (folder / "predictions.csv").open() as file:
        return {row["name"]: float(row["score"]) for row in csv.DictReader(file)}


def named(work):
    return {name: work / "stores" / name for name in STREAMS}


def by_hand(run, stores, work, folder):
    """The embedding of the new video by the ordinary commands, with the runs' calibrations."""
    made = {name: folder / name for name in stores}
    for name, store in stores.items():
        create_twin(made[name], store)
        changes = {"blocks": (STREAMS[name],)} if name in STREAMS else {"frames": "uniform:4"}
        extract_videos(work / "new", made[name], settings=EXTRACTION | changes)
    given = made if len(made) > 1 else next(iter(made.values()))
    file = embed_store(run, given, folder / "e.h5", device="cpu", progress=False)
    return read_embeddings(file).clips[0].embeddings


@pytest.mark.parametrize(
    ("run", "classes"), [("tags", ("calm", "wild")), ("actions", ("jump", "run"))]
)
def test_scores_of_tags_and_classes_equal_those_of_extract_and_embed(
    work, tmp_path, run, classes, caplog
):
    stores = named(work) if run == "tags" else {"maps": work / "stores" / "maps"}
    kept = shutil.move(work / "stores", tmp_path / "elsewhere")  # the run keeps their twins
    try:
        [one] = applied(work / run, work, tmp_path / "out")
        [again] = applied(work / run, work, tmp_path / "out")
    finally:
        shutil.move(kept, work / "stores")
    assert one.name == "a.mp4"
    assert "since it was trained" not in caplog.text  # the clips are new, the store is no other
    [clip] = read_embeddings(one.folder / "embeddings.h5").clips
    wanted = by_hand(work / run, stores, work, tmp_path)
    np.testing.assert_array_equal(clip.embeddings, wanted)
    scores = read_scores(one.folder)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert [scores[name] for name in classes] == pytest.approx(wanted[0].tolist(), abs=1e-6)
    assert not (one.folder / "phases.mp4").exists()
    with (one.folder / "nearest.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4  # the training clips
    assert not (tmp_path / "out" / "tokens").exists()
    assert again.was_done


def test_a_run_of_regression_gives_its_number_and_one_of_texts_the_classes_they_name(
    work, tmp_path
):
    for run, names in (("numbers", ["number"]), ("texts", ["jump0", "run1"])):
        [one] = applied(work / run, work, tmp_path / run)
        [clip] = read_embeddings(one.folder / "embeddings.h5").clips
        scores = read_scores(one.folder)
        assert sorted(scores) == names
        wanted = clip.embeddings[0, -len(names) :]
        assert [scores[name] for name in names] == pytest.approx(wanted.tolist(), abs=1e-6)
        stores = named(work) if run == "numbers" else {"maps": work / "stores" / "maps"}
        by_commands = by_hand(work / run, stores, work, tmp_path / f"{run}-by-hand")
        np.testing.assert_array_equal(clip.embeddings, by_commands)
    assert -1 < read_scores(tmp_path / "numbers" / "a.mp4")["number"] < 4  # trained on 0 to 2.5


def test_a_run_that_names_nothing_gives_embeddings_and_the_nearest_clips(work, tmp_path):
    [one] = applied(work / "pairs", work, tmp_path / "out")
    assert sorted(path.name for path in one.folder.iterdir()) == [
        "applied.json",
        "embeddings.h5",
        "nearest.csv",
    ]
    with (one.folder / "nearest.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_stores_are_found_by_their_names_or_named(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(work / "tags", moved / "tags")
    shutil.rmtree(moved / "tags" / "tokens")  # an earlier version did not keep them of several
    (moved / "tags" / "run.json").write_text(
        (moved / "tags" / "run.json").read_text().replace(str(work), "/gone")
    )
    with pytest.raises(
        UsageError, match=r"reads the stores spatial, temporal.*--store spatial=PATH"
    ):
        applied(moved / "tags", work, tmp_path / "out")
    (tmp_path / "stores").symlink_to(work / "stores")
    [one] = applied(moved / "tags", work, tmp_path / "out")
    assert not one.was_done


@pytest.mark.parametrize("at_a_time", [1, 16])
def test_videos_are_taken_some_at_a_time_and_one_that_no_store_can_take_is_listed_once(
    work, tmp_path, monkeypatch, at_a_time
):
    taken = []

    class Noting(tokens.Extraction):
        def __init__(self, manifest, *args, **options):
            taken.append([clip.clip_id for clip in manifest.clips])
            super().__init__(manifest, *args, **options)

    monkeypatch.setattr(module_of_apply, "Extraction", Noting)
    monkeypatch.setattr(module_of_apply, "AHEAD_VIDEOS", at_a_time)
    videos, out = shutil.copytree(work / "new", tmp_path / "videos"), tmp_path / "out"
    (videos / "bad.mp4").write_bytes((videos / "a.mp4").read_bytes()[:700])
    shutil.copy(videos / "a.mp4", videos / "c.mp4")
    options = {"store": named(work), "device": "cpu", "progress": False}
    found, waiting = [], []
    for one in apply_run(work / "tags", [videos], out=out, **options):
        found.append(one)
        if not isinstance(one, ClipFailed):  # the first store is complete by then
            waiting.append(len(open_store(out / "tokens" / next(iter(STREAMS))).records))
    assert [one.clip_id for one in found if isinstance(one, ClipFailed)] == ["bad.mp4"]
    made = {one.name: read_scores(one.folder) for one in found if not isinstance(one, ClipFailed)}
    assert made["a.mp4"] == made["c.mp4"]
    assert waiting == ([0, 0] if at_a_time == 1 else [1, 0])
    of_all = [["a.mp4", "bad.mp4", "c.mp4"], ["a.mp4", "c.mp4"]]  # of each store
    of_each = [["a.mp4"], ["a.mp4"], ["bad.mp4"], [], ["c.mp4"], ["c.mp4"]]
    assert taken == (of_each if at_a_time == 1 else of_all)
    assert not (out / "tokens").exists()


def test_tokens_of_a_video_that_one_store_could_not_take_are_dropped(work, tmp_path, monkeypatch):
    class Failing(tokens.Extraction):
        def __iter__(self):
            for name in super().__iter__():
                odd = ClipFailed(name, stage="decode", reason="odd")
                yield odd if self._store.name == "temporal" else name

    monkeypatch.setattr(module_of_apply, "Extraction", Failing)
    [failure] = applied(work / "tags", work, tmp_path / "out", store=named(work))
    assert str(failure) == "a.mp4: decode: odd"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "jump"}, "scores whole clips, and names no phases"),
        ({"weights": "random:0"}, "reads several stores, each of its own weights"),
    ],
)
def test_words_that_mean_nothing_to_it_are_refused(work, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        applied(work / "tags", work, tmp_path / "out", store=named(work), **options)
    assert not (tmp_path / "out").exists()


def test_scenes_of_a_new_video_are_found_as_those_of_the_run(tmp_path, monkeypatch):
    films = {"train/a": [14, 16, 12], "train/b": [20, 13], "train/c": [15], "val/d": [12, 18]}
    for name, lengths in films.items():
        write_film(tmp_path / "data" / f"{name}.mp4", lengths)
    tags = {"train/a": "long", "train/b": "short", "train/c": "short", "val/d": "long"}
    lines = "".join(f"{name}.mp4,{tag}\n" for name, tag in tags.items())
    (tmp_path / "data" / "tags.csv").write_text(f"video,tag\n{lines}")
    listed = tmp_path / "listed"
    scenes_of_dataset("folder", ["min_frames=10", "workers=1"], root=tmp_path / "data", out=listed)
    stores = {name: tmp_path / "stores" / name for name in STREAMS}
    for name, block in STREAMS.items():
        settings = EXTRACTION | {"blocks": (block,), "frames": f"scenes:{listed}"}
        extract_videos(tmp_path / "data", stores[name], settings=settings)
    run = tmp_path / "run"
    words = {"device": "cpu", "progress": False}
    train_model(stores, run, recipe="stan", settings=OF_STREAMS, **words)
    write_film(tmp_path / "new" / "e.mp4", [11, 13, 12])
    find, searched = module_of_apply.find_scenes, []

    def find_and_count(known, *args, **options):
        searched.append(known)
        return find(known, *args, **options)

    monkeypatch.setattr(module_of_apply, "find_scenes", find_and_count)

    def apply(out, **options):
        new = [tmp_path / "new"]
        return list(apply_run(run, new, out=tmp_path / out, store=stores, **words, **options))

    [one] = apply("out", keep_tokens=True)
    assert sum(read_scores(one.folder).values()) > 0
    for name in STREAMS:
        store = open_store(tmp_path / "out" / "tokens" / name)
        assert store.record("e.mp4").num_frames == 3
        assert [round(25 * start) for start, _ in store.units("e.mp4")] == [0, 11, 24]
    wanted = embed_store(
        run,
        {name: tmp_path / "out" / "tokens" / name for name in STREAMS},
        tmp_path / "e.h5",
        **words,
    )
    [clip] = read_embeddings(one.folder / "embeddings.h5").clips
    np.testing.assert_array_equal(clip.embeddings, read_embeddings(wanted).clips[0].embeddings)
    assert len(searched) == 1  # of the list that both stores have
    assert (tmp_path / "out" / "scenes" / "spatial" / "scenes.csv").exists()  # as the tokens are
    (tmp_path / "bad" / "none.mp4").parent.mkdir()
    (tmp_path / "bad" / "none.mp4").write_bytes((tmp_path / "new" / "e.mp4").read_bytes()[:700])
    [failure] = apply_run(run, [tmp_path / "bad"], out=tmp_path / "bad-out", store=stores, **words)
    assert isinstance(failure, ClipFailed)
    for folder in (listed, tmp_path / "out" / "scenes" / "spatial"):  # of other videos: made anew
        config = tokens.prepare_tokens(
            run, tmp_path / "twin", stores["spatial"], scenes=folder, weights=None, device="cpu"
        )
        assert config.frames == f"scenes:{folder}"
    listed.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"add --scenes FOLDER, that of its `extract scenes`"):
        apply("other")
    [again] = apply("other", scenes=tmp_path / "elsewhere")
    assert read_scores(again.folder) == read_scores(one.folder)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["e.mp4"]
