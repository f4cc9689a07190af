"""FTP's tables: every row is a recipe with the numbers that the paper prints, and trains.

The numbers are typed from the paper, not taken from the recipes.
"""

import csv
import json
import logging
import re
import shutil

import numpy as np
import pytest

from tests.fuse.systems.ftp.maps import write_maps, write_texts
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.evaluate.protocol import EvaluateConfig, resolve
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.fuse.train.train import Job, train_together
from tokenreel.pipeline.phases.ablation import (
    ablate,
    plan_first_runs,
    plan_jobs,
    plan_rows,
    rows_on_every_split,
    split_stores,
)
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.phases.relabelling import renew_labels
from tokenreel.pipeline.phases.texts import embed_dataset_texts
from tokenreel.pipeline.phases.training import make_job
from tokenreel.pipeline.recipes import RECIPES, TABLES, WITHOUT_RECIPE, get_recipe

NAMES = [name for name in RECIPES if name.startswith("ftp-")]
SMALL = [
    "data.num_frames=3",
    "data.batch_clips=4",
    "optim.epochs=2",
    "align.optim.epochs=2",
    "align.batch_clips=4",
    "head_channels=4",
]
TABLE7 = """
    A: 88.6 98.2 89.9 98.2 69.4 92.1 98.2 83.8 | B: 89.0 98.4 90.5 98.8 71.2 92.8 98.6 86.0
    C: 88.8 98.2 89.4 98.0 72.0 93.9 98.4 86.8 | D: 88.5 98.2 90.0 98.2 71.0 92.8 98.2 85.6
    AB: 91.3 98.9 91.7 99.0 72.3 93.9 99.0 87.2 | AC: 90.9 98.9 91.3 99.0 73.3 94.2 99.0 88.3
    AD: 90.2 98.6 90.7 98.8 71.9 93.8 98.9 86.8 | BC: 92.3 99.0 92.7 99.1 75.3 95.2 99.3 89.5
    BD: 91.5 98.9 91.9 99.0 74.7 94.8 99.2 89.1 | CD: 91.9 98.9 92.3 99.1 75.0 95.0 99.2 89.2
    ABC: 92.5 99.0 92.9 99.3 78.9 98.5 99.4 90.7 | ABD: 93.2 99.3 93.3 99.3 77.8 97.3 99.6 89.7
    ACD: 92.9 99.1 93.0 99.3 78.0 97.4 99.5 90.3 | BCD: 92.6 99.1 92.9 99.3 79.1 98.6 99.4 90.8
    ABCD: 93.4 99.3 93.8 99.4 79.8 98.9 99.7 91.5 | : 87.5 97.6 89.0 98.0 66.7 91.3 97.8 80.5
"""
COLUMNS = {  # of the values of a row
    "kinetics400": {"top@1": 0, "top@5": 1},
    "kinetics600": {"top@1": 2, "top@5": 3},
    "ssv2": {"top@1": 4, "top@5": 5},
    "ucf101": {"top@1": 6},
    "hmdb51": {"top@1": 7},
}


def values_of(name):
    return {task: value for task, (value, _) in get_recipe(name).published.items()}


@pytest.mark.parametrize("dataset", COLUMNS)
def test_table_7_has_the_numbers_that_the_paper_prints_for_each_subset(dataset):
    printed = {}
    for part in TABLE7.replace("\n", "|").split("|"):
        if part.strip():
            prompts, _, numbers = part.strip().partition(":")
            printed[prompts] = [float(number) for number in numbers.split()]
    assert len(printed) == 16
    names = TABLES[f"ftp-table7-{dataset}"]
    assert [get_recipe(name).fuse.prompts for name in names[:2]] == [(), ("A",)]
    found = {"".join(get_recipe(name).fuse.prompts): values_of(name) for name in names}
    assert found == {
        prompts: {task: numbers[place] for task, place in COLUMNS[dataset].items()}
        for prompts, numbers in printed.items()
    }
    assert [int(name.rpartition("-")[2]) for name in names] == [*range(1, 12), *range(13, 18)]
    assert get_recipe(names[0]).source == "FTP, Table 7"


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("ftp-table1", "91.9 98.9 93.4 99.3 94.3 99.4"),
        ("ftp-table2", "77.3 96.7 79.8 98.9"),
        ("ftp-table3", "98.7 99.7 83.9 91.5"),
        ("ftp-tableb4", "92.2 98.9 93.0 99.0 93.8 99.4 94.4 99.3"),
        ("ftp-tablec5", "91.9 92.5 93.4 93.2"),
        ("ftp-table5-kinetics400", "91.2 98.9 92.8 98.9 93.1 99.2 93.3 99.3 93.4 99.3 93.4 99.3"),
        ("ftp-table5-kinetics600", "91.3 98.9 91.7 99.0 93.2 99.1 93.6 99.2 93.4 99.2 93.8 99.4"),
        ("ftp-table5-ssv2", "70.2 91.8 77.1 95.4 73.3 94.1 73.6 94.0 79.6 98.6 79.8 98.9"),
        ("ftp-table5-ucf101", "98.4 99.1 99.1 99.6 99.4 99.7"),
        ("ftp-table5-hmdb51", "88.5 90.7 89.7 91.5 90.3 91.5"),
        (
            "ftp-table6-kinetics400",
            "81.6 95.1 84.8 95.8 82.7 95.5 85.7 97.0 85.2 96.8 88.3 97.6 87.7 97.4 89.6 98.3",
        ),
        (
            "ftp-table6-kinetics600",
            "83.5 96.2 85.7 96.5 84.0 96.5 86.2 97.3 86.1 97.0 89.0 98.2 88.3 97.7 90.1 98.3",
        ),
        (
            "ftp-table6-ssv2",
            "67.5 91.0 68.9 91.4 69.6 92.7 70.6 92.0 75.4 95.2 77.0 95.9 72.2 93.7 73.1 94.5",
        ),
    ],
)
def test_a_table_has_the_numbers_that_the_paper_prints(table, wanted):
    found = [f"{value:.1f}" for name in TABLES[table] for value in values_of(name).values()]
    assert " ".join(found) == wanted


def test_rows_that_cannot_be_run_are_listed_with_why():
    for number in ("88.7", "91.0", "89.1", "91.4", "89.3", "93.4"):
        assert number in WITHOUT_RECIPE["ftp-table6"]
    for table in ("ftp-table4", "ftp-table5", "ftp-table6", "ftp-table7"):
        assert "no detection head yet" in WITHOUT_RECIPE[table]


def test_recipes_name_what_the_paper_leaves_open_and_are_evaluated_by_actions():
    text = " ".join(RECIPES["ftp-table7-hmdb51-17"].__doc__.split())
    for words in ("alpha 0.7", "stand-in", "temperature learned from 0.07", "800 epochs"):
        assert words in text
    assert "runs of ftp-align-a, ftp-align-b, ftp-align-c, ftp-align-d" in text
    for name in NAMES:
        [settings] = resolve(EvaluateConfig(), get_recipe(name).evaluate)
        assert settings.protocol == ("pairs" if name.startswith("ftp-align") else "actions")
    preset = get_recipe("ftp-appendix").fuse
    assert (preset.optim.lr, preset.repeats * preset.data.batch_clips) == (1e-5, 128)
    assert (preset.label_smoothing, preset.mixup, preset.head_width) == (0.1, 0.8, 2048)
    main = get_recipe("ftp-table7-hmdb51-17").fuse
    assert (main.optim.lr, main.data.batch_clips, main.optim.epochs) == (1.5e-6, 512, 40)
    align = main.align.optim
    assert (align.lr, align.betas, align.weight_decay) == (1e-5, (0.9, 0.95), 0.05)
    assert (align.epochs, align.warmup_epochs, main.align.batch_clips) == (800, 5, 512)


@pytest.mark.parametrize(
    ("name", "segments", "told"),
    [
        ("ftp-table1-b", 4, "averages 4 x 3 views, as a store of `frames=uniform:32 crops=3`"),
        ("ftp-table1-l336", 2, "averages 2 x 3 views, as a store of `frames=uniform:128 crops=3`"),
        ("ftp-table2-l", 1, "averages 1 x 3 views, as a store of `frames=uniform:32 crops=3`"),
        ("ftp-tableb4-b280", 4, "averages 4 x 3 views"),
        ("ftp-table3-hmdb51-b", 1, "the views of a test on hmdb51 are not printed: one"),
    ],
)
def test_a_row_is_tested_on_the_views_that_the_paper_prints(name, segments, told):
    recipe = get_recipe(name)
    assert recipe.fuse.segments == segments
    assert told in " ".join(RECIPES[name].__doc__.split())


def test_a_store_with_fewer_frames_than_the_segments_of_a_test_is_told(store, tmp_path, caplog):
    config = get_recipe("ftp-table1-b").fuse
    config = config.with_(prompts=(), head_channels=4, optim=config.optim.with_(epochs=0))
    job = Job(config, store, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        assert train_together([job], device="cpu", progress=False)[0].error is None
    assert "up to 24 frames of a clip, so that the 4 segments of a test of 8 frames" in caplog.text
    assert "frames=uniform:32" in caplog.text


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    fields = {"first_frames": 3, "image_size": (32, 32), "blocks": (1,)}
    return write_maps(tmp_path_factory.mktemp("maps") / "maps", **fields)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return str(write_texts(tmp_path_factory.mktemp("texts") / "t.h5", prompts=tuple("ABCD")))


def test_table_7_trains_each_prompt_once_and_16_subsets_in_lock_step(store, texts, tmp_path):
    report = ablate(
        ["ftp-table7-kinetics400", f"texts={texts}", *SMALL],
        seeds=1,
        stores=[store],
        out=tmp_path / "table",
        device="cpu",
        progress=False,
    )
    runs = sorted((tmp_path / "table" / "runs").iterdir())
    first = [run for run in runs if run.name.startswith("ftp-align")]
    assert (len(first), len(runs)) == (4, 20)
    lines = report.text.splitlines()
    assert [line.split()[0] for line in lines[1:17]] == [str(n) for n in range(1, 17)]
    assert lines[16].split()[-1] == "99.30"
    last = next(run for run in runs if run.name.startswith("ftp-table7-kinetics400-17"))
    config = read_provenance(last)["config"]
    assert sorted(config["processors"]) == sorted(map(str, first))
    with (tmp_path / "table" / "ablation.csv").open() as file:
        tasks = {line["task"] for line in csv.DictReader(file)}
    assert {"top@1", "mean-class"} <= tasks
    began = [(run / "checkpoint.pt").stat().st_mtime_ns for run in first]
    ablate(
        ["ftp-table7-kinetics400-9", f"texts={texts}", *SMALL],
        seeds=1,
        stores=[store],
        out=tmp_path / "table",
        device="cpu",
        progress=False,
    )
    assert [(run / "checkpoint.pt").stat().st_mtime_ns for run in first] == began


def test_a_row_without_texts_says_what_makes_them(store, tmp_path):
    with pytest.raises(
        UsageError, match=r"no row can be trained:\n.*starts from a run of ftp-align"
    ):
        ablate(
            ["ftp-table7-hmdb51-2", *SMALL],
            seeds=1,
            stores=[store],
            out=tmp_path,
            device="cpu",
            progress=False,
        )
    rows = plan_rows(["ftp-table7-hmdb51-2", *SMALL])
    jobs, problems = plan_first_runs(rows, 1, [store], tmp_path)
    assert (jobs, len(problems)) == ([], 1)
    assert "set texts=FILE; `extract text DATASET --from prompts.jsonl" in problems[0]


def test_rows_with_texts_of_their_own_have_runs_of_stage_1_of_their_own(store, texts, tmp_path):
    rows = plan_rows(["ftp-tablec5-1", "ftp-tablec5-3", "ftp-tablec5-5", *SMALL])
    _, problems = plan_first_runs(rows, 1, [store], tmp_path)
    assert {f"texts/kinetics400-k{k}.h5" in text for k in (1, 3, 5) for text in problems} == {
        True,
        False,
    }
    given = plan_rows(["ftp-tablec5-1", "ftp-tablec5-3", f"texts={texts}", *SMALL])
    jobs, problems = plan_first_runs(given, 2, [store], tmp_path)
    assert (len(jobs), problems) == (4 * 2, [])  # texts=FILE is of both rows


def train_each_kind(store, texts, folder, *, left_out=()):
    """Train the recipes of all tables, those of one config once; their embedding files."""
    words = [word for word in SMALL if "batch" not in word] + ["data.batch_clips=4"]
    first = make_job(
        "ftp-align-a",
        [f"texts={texts}", *SMALL, "prompts=A,B,C,D"],
        store=store,
        out=folder / "a",
    )
    assert [r.error for r in train_together([first], device="cpu", progress=False)] == [None]
    alike = {}
    for name in NAMES:  # those of a stage 1 are trained above
        if not name.startswith("ftp-align"):
            alike.setdefault(get_recipe(name).fuse.model_dump_json(), name)
    jobs = [
        make_job(
            name,
            [
                *words,
                *([f"processors={folder / 'a'}"] if get_recipe(name).first_runs else []),
            ],
            store=store,
            out=folder / "runs" / name,
        )
        for name in alike.values()
        if not any(part in name for part in left_out)
    ]
    results = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in results] == [None] * len(jobs)
    return [result.embeddings for result in results]


def test_every_recipe_of_another_kind_trains_two_epochs_and_scores_clips(tmp_path, texts):
    store = write_maps(tmp_path / "views", views=2, first_frames=3)
    files = train_each_kind(store, texts, tmp_path, left_out=["table7"])  # which is trained above
    assert all(path.exists() for path in files)


@pytest.mark.slow
def test_the_recipes_of_every_table_train_two_epochs_on_rendered_clips(tmp_path):
    data = ["data.train=16", "data.val=4", "data.test=4"]
    maps = ["backbone=test_vit", "weights=random:0", "blocks=5", "image_size=64", "views=2"]
    root, out = tmp_path / "videos", tmp_path / "maps"
    words = ["frames=uniform:3", "transform=stretch", "codec=fp16", *maps, *data]
    report, store = extract_dataset("captioned", words, root=root, out=out)
    report.require_reached()
    texts = tmp_path / "texts.h5"
    words = ["encoder=hashed-words", *data]
    embed_dataset_texts("captioned", words, root / "captions.jsonl", root=root, out=texts)
    files = train_each_kind(store, texts, tmp_path)
    for path in files:
        clips = read_embeddings(path).clips
        assert len(clips) == 24
        assert {clip.embeddings.shape for clip in clips} == {(1, 16)}
    tables = [name for name in TABLES if name.startswith("ftp-")]
    trained = {get_recipe(path.parent.name).fuse for path in files}
    for table in tables:
        assert {get_recipe(name).fuse for name in TABLES[table]} <= trained


@pytest.fixture(scope="module")
def splits(store, tmp_path_factory):
    """The store with three divisions of its clips into training and test."""
    folder = tmp_path_factory.mktemp("splits")
    for number in range(3):
        path = folder / f"hmdb51-{number + 1}"
        shutil.copytree(store, path)
        clips = [f"train{n}" for n in range(8)] + [f"val{n}" for n in range(4)]
        tested = clips[4 * number : 4 * number + 4]
        labels = [{"clip_id": c, "split": "test" if c in tested else "train"} for c in clips]
        (folder / "labels.json").write_text(json.dumps({"clips": labels}))
        renew_labels(path, manifest=folder / "labels.json")
    return [folder / f"hmdb51-{number}" for number in (1, 2, 3)]


def accuracy_of(run):
    """Share of the test clips whose action has the highest score, in percent."""
    file = read_embeddings(run / "embeddings.h5")
    tested = [clip for clip in file.clips if clip.split == "test"]
    hits = [file.class_names[int(np.argmax(c.embeddings[0]))] == c.action for c in tested]
    assert len(hits) == 4
    return 100 * np.mean(hits)


def test_the_splits_of_a_data_set_are_averaged_and_shown_one_by_one(splits, texts, tmp_path):
    report = ablate(
        ["ftp-table7-hmdb51-1", "ftp-table7-hmdb51-2", f"texts={texts}", *SMALL],
        seeds=1,
        stores=splits,
        splits=True,
        out=tmp_path / "table",
        device="cpu",
        progress=False,
    )
    assert report.problems == ()
    runs = tmp_path / "table" / "runs"
    with (tmp_path / "table" / "ablation.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["task"] == "top@1"]
    for group, label in enumerate(("group 1: no prompts", "group 2: prompts A"), start=1):
        row = f"{label} on tiny"  # the store's backbone
        wanted = []
        for split in ("hmdb51-1", "hmdb51-2", "hmdb51-3"):
            [run] = (runs / split).glob(f"ftp-table7-hmdb51-{group}-*")
            wanted.append(accuracy_of(run))
            [line] = [line for line in lines if line["row"] == f"{row}, {split}"]
            assert float(line["mean"]) == pytest.approx(wanted[-1])
        [line] = [line for line in lines if line["row"] == row]
        assert (float(line["mean"]), line["seeds"]) == (pytest.approx(np.mean(wanted)), "1")
        shown = f"{row}: top@1 by split: " + ", ".join(
            f"hmdb51-{n} {value:.2f}" for n, value in enumerate(wanted, start=1)
        )
        assert shown in report.text
        assert re.search(rf"{re.escape(row)} +{np.mean(wanted):.2f} ", report.text)
    for split in splits:  # a stage 1 that has seen no test clip of it
        [first] = (runs / split.name).glob("ftp-align-a-*")
        clips = read_embeddings(first / "embeddings.h5").clips
        records = open_store(split).records
        assert {c.clip_id: c.split for c in clips} == {i: r.split for i, r in records.items()}


def test_a_row_that_failed_on_a_split_has_no_mean(splits, tmp_path):
    rows = plan_rows(["ftp-table7-hmdb51-1", *SMALL])
    jobs = []
    for store in splits:
        jobs += plan_jobs(rows, 2, [store], tmp_path / store.name)[0]
    ended = {job.out for _, _, job in jobs} - {jobs[-1][2].out}
    found, lacking = rows_on_every_split(jobs, ended, 3)
    assert [seed for _, seed in found.values()] == [0]
    assert lacking == ["group 1: no prompts, seed 1: no mean over the splits, it ended on 2 of 3"]


def test_stores_that_are_no_splits_of_one_data_set_are_refused(splits, store, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(splits[0], again)
    with pytest.raises(UsageError, match=r"have the same splits of clips: .* `tokenreel store re"):
        split_stores([splits[0], again])
    with pytest.raises(UsageError, match=r"two or more, in folders of different names \(given 1"):
        split_stores([splits[0]])
    other = write_maps(tmp_path / "other", first_frames=3, image_size=(32, 32))
    with pytest.raises(UsageError, match=r"hold tokens of different recipes: `tokenreel store di"):
        split_stores([splits[0], other])
