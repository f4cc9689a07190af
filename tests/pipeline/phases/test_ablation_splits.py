"""Rows of an ablation on the splits of a data set: which have a mean, and what is refused."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fuse.tiny import write_store
from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.phases import ablation
from tokenreel.pipeline.phases.ablation import (
    AblationReport,
    count_parameters,
    name_backbones,
    of_split_run,
    plan_jobs,
    rows_of_splits,
    rows_on_every_split,
    split_stores,
    substitutes,
)
from tokenreel.pipeline.phases.ablation_table import AblationRow
from tokenreel.pipeline.phases.training import make_job
from tokenreel.pipeline.recipes import CONTROLS, get_recipe

ROW = AblationRow("r", (), "ours", {"tau": (0.9, None)}, "a doubt")


@dataclass(frozen=True)
class Job:
    out: Path
    provenance: dict


def job(split, seed):
    return Job(Path(split) / f"r-seed{seed}-{split}", {"recipe": "r"})


def test_a_report_with_problems_ends_with_3():
    assert AblationReport("", Path(), ()).exit_status == 0
    assert AblationReport("", Path(), ("torn",)).exit_status == 3


def test_a_run_of_a_split_has_its_own_folder_and_recipe():
    plain = Job(Path("runs/s1/r-seed0"), {"recipe": "r a=1", "commit": "c"})
    assert of_split_run(plain, "") is plain
    found = of_split_run(plain, "s1")
    assert found.out == Path("runs/s1/r-seed0-s1")
    assert found.provenance == {"recipe": "r a=1 split=s1", "commit": "c"}


def test_a_row_has_a_mean_where_its_runs_of_a_seed_ended_on_every_split():
    jobs = [(ROW, seed, job(split, seed)) for split in ("s1", "s2") for seed in (0, 1)]
    ended = {own.out for _, _, own in jobs} - {Path("s2/r-seed1-s2")}
    found, lacking = rows_on_every_split(jobs, ended, 2)
    assert found == {"r-seed0-s1": (ROW, 0), "r-seed0-s2": (ROW, 0)}
    assert lacking == ["ours, seed 1: no mean over the splits, it ended on 1 of 2"]
    assert rows_on_every_split(jobs, {own.out for _, _, own in jobs}, 2)[1] == []
    assert len(rows_on_every_split(jobs, ended, 3)[1]) == 2


def test_rows_of_splits_have_no_published_values():
    found = rows_of_splits([(ROW, 0, job("s1", 0)), (ROW, 0, job("s2", 0)), (ROW, 1, job("s1", 1))])
    assert list(found) == [ROW]
    assert {name: (row.label, row.published, row.caveat) for name, row in found[ROW].items()} == {
        name: (f"ours, {name}", {}, "") for name in ("s1", "s2")
    }


@pytest.fixture
def stores(monkeypatch):
    """Path -> (identity, splits of clips a and b)."""
    known = {}

    def opened(path):
        identity, splits = known[str(path)]
        records = {
            name: SimpleNamespace(clip_id=name, split=split)
            for name, split in zip("ab", splits, strict=True)
        }
        return SimpleNamespace(identity=identity, records=records)

    monkeypatch.setattr(ablation, "open_store", opened)
    return known


def test_splits_are_stores_of_the_same_tokens_with_other_splits(stores):
    stores.update({"x/s1": (1, ("train", "val")), "x/s2": (1, ("val", "train"))})
    paths = [Path("x/s1"), Path("x/s2")]
    assert split_stores(paths) == {"s1": [paths[0]], "s2": [paths[1]]}
    for few in (paths[:1], [*paths, Path("y/s1")], [*paths, {"a": Path("s3")}]):
        with pytest.raises(
            UsageError, match=rf"in folders of different names \(given {len(few)}\)"
        ):
            split_stores(few)
    stores["x/s2"] = (1, ("train", "val"))
    with pytest.raises(UsageError, match="x/s2 and x/s1 have the same splits of clips"):
        split_stores(paths)
    stores["x/s2"] = (2, ("val", "train"))
    with pytest.raises(UsageError, match="x/s2 and x/s1 hold tokens of different recipes"):
        split_stores(paths)


def test_a_row_that_is_trained_for_no_epoch_trains_no_parameters(tmp_path):
    store, small = write_store(tmp_path / "store"), ["temporal.layers=1", "optim.warmup_epochs=0"]

    def count(epochs):
        words = [*small, f"optim.epochs={epochs}"]
        return count_parameters([(ROW, 0, make_job("late-fusion", words, store=store))])

    assert count(0) == {ROW: 0}
    assert count(1)[ROW] > 1000


def test_a_control_among_the_rows_is_no_run_and_no_problem(tmp_path):
    store = write_store(tmp_path / "store")
    control = AblationRow(next(iter(CONTROLS)), (), "control", {})
    trained = AblationRow("late-fusion", (), "late", {})
    jobs, problems = plan_jobs([control, trained], 1, [store], tmp_path / "runs")
    assert ([row for row, _, _ in jobs], problems) == ([trained], [])


def test_rows_on_their_own_backbone_are_both_run_and_only_published_ones_are_substitutes(tmp_path):
    store = write_store(tmp_path / "store", architecture="vit_base_patch8_224.dino")
    names = ("late-fusion", "mvformer-table4-5")  # of any backbone, and of this one
    assert [get_recipe(name).backbone for name in names] == ["", "vit_base_patch8_224.dino"]
    rows = [AblationRow(name, (), name, {}) for name in names]
    job = make_job("late-fusion", [], store=store)
    jobs = [(row, 0, job) for row in rows]
    assert name_backbones(rows, jobs) == (rows, jobs, [])
    assert substitutes(jobs) == []
    [note] = substitutes([*jobs, (replace(rows[1], label="ours", published=ROW.published), 0, job)])
    assert note.startswith("ours: published on penn_action, here on tiny")
