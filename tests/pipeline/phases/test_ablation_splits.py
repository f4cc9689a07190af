"""Rows of an ablation on the splits of a data set: which have a mean, and what is refused."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.phases import ablation
from tokenreel.pipeline.phases.ablation import (
    AblationReport,
    of_split_run,
    rows_of_splits,
    rows_on_every_split,
    split_stores,
)
from tokenreel.pipeline.phases.ablation_table import AblationRow

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
