"""The engines of this machine hand over what the command says, and nothing else."""

from pathlib import Path

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.launch import local
from tokenreel.pipeline.launch.base import Extraction, Placement
from tokenreel.pipeline.launch.tables import local as tables
from tokenreel.pipeline.launch.tables.base import TableRequest


def test_the_engine_of_this_machine_extracts_what_the_words_say(monkeypatch):
    given = []

    def extract(*words, **options):
        given.append((words, options))
        return "report", Path("store")

    monkeypatch.setattr(local, "extract_dataset", extract)
    wanted = Extraction("gym", ("blocks=1",), Path("videos"), Path("out"), "1/2", 3, "keep")
    done = local.launch(wanted, Placement(gpus="0,1"))
    assert (done.report, done.store, done.lines) == ("report", Path("store"), ())
    options = {"root": Path("videos"), "out": Path("out"), "shard": "1/2", "gpus": "0,1"}
    assert given == [(("gym", ("blocks=1",)), options | {"limit": 3, "changed": "keep"})]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("nodes", 2),
        ("cpus", 1),
        ("address", "auto"),
        ("time", "90"),
        ("array_parallelism", 3),
        ("sbatch", ("a=b",)),
        ("dry_run", True),
    ],
)
def test_options_of_other_engines_are_refused_here(option, value):
    typed = "--" + option.replace("_", "-")
    why = f"{typed} is not an option of --engine local, which takes"
    with pytest.raises(UsageError, match=f"{why} --gpus$"):
        local.launch(Extraction("gym"), Placement(**{option: value}))
    with pytest.raises(UsageError, match=f"{why} none$"):
        tables.launch(TableRequest((), 1), Placement(**{option: value}))


def test_a_table_is_made_with_all_that_the_command_says(monkeypatch):
    given = []
    where = "tokenreel.pipeline.launch.tables.base.ablate"
    monkeypatch.setattr(where, lambda *words, **options: given.append((words, options)) or "table")
    wanted = TableRequest(("t",), 3, ("s",), True, Path("out"), "cuda", "disk", 7)
    assert tables.launch(wanted, Placement()).report == "table"
    options = {"seeds": 3, "stores": ("s",), "splits": True, "out": Path("out"), "device": "cuda"}
    options |= {"placement": "disk", "memory_bytes": 7, "progress": True, "train": None}
    assert given == [((("t",),), options)]
    wanted.make("train", progress=False)
    assert given[1][1] == options | {"progress": False, "train": "train"}
