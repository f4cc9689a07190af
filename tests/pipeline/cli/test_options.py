"""What each command hands to the function behind it, and the status it ends with."""

import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.evaluate.clips import labelled_clips
from tokenreel.cache.bucket.local_cache import BYTES, FOLDER
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.errors import ClipFailed, TokenReelError, UsageError
from tokenreel.pipeline.cli import evaluate, extract, fuse, main
from tokenreel.pipeline.cli.console import take_cache_options

APPS = {"extract": extract.app, "fuse": fuse.app, "evaluate": evaluate.app, "tokenreel": main.app}
FAILED = ClipFailed("a", stage="decode", reason="torn")


def report(**fields):
    """A report of any command: every list is empty but those given."""
    names = "failed quarantined unreadable problems files left lines copied written notes facts"
    values = dict.fromkeys(names.split(), ())
    values |= {"changed": {}, "missing": {}, "differing": {}, "replaced": (), "exit_status": 0}
    values |= {"summary": "", "text": "", "table": lambda *_, **__: "", "report": None, "out": "o"}
    return SimpleNamespace(
        **(values | {"path": "p", "store": "s", "accepts_changed": True} | fields)
    )


@pytest.fixture
def call(monkeypatch):
    """Run a command whose function is replaced; returns status, output and what it was given."""

    def run(words, target, answer):
        module, _, name = target.rpartition(".")
        given = []

        def recorded(*args, **kwargs):
            given.append((args, kwargs))
            return answer

        monkeypatch.setattr(import_module(f"tokenreel.{module}"), name, recorded)
        program, *rest = words.split()
        result = CliRunner().invoke(APPS[program], rest)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output, given

    return run


TRAINING = "pipeline.phases.training"
CASES = [  # words, function, positional arguments, some of the named ones
    (
        "extract retry s device=cpu --root v --gpus 0,1 --max-failures 4 --follow-links",
        "pipeline.phases.extraction.retry_store",
        (Path("s"), ["device=cpu", "max_failures=4", "data.follow_links=yes"]),
        {"root": Path("v"), "gpus": "0,1"},
    ),
    (
        "extract scenes d a=1 --root v --out o --changed keep --follow-links",
        "pipeline.phases.scenes.scenes_of_dataset",
        ("d", ["a=1", "data.follow_links=yes"]),
        {"root": Path("v"), "out": Path("o"), "changed": "keep"},
    ),
    (
        "extract show a --scenes f --root v --out o.png --frames 5",
        "pipeline.phases.scenes.show_scenes",
        ("a", Path("f")),
        {"root": Path("v"), "out": Path("o.png"), "most": 5},
    ),
    (
        "fuse train seed=1 a=2 --store x=s --out o --device cpu --placement ram --memory 2K",
        f"{TRAINING}.train_recipe",
        ("sample", ["seed=1", "a=2"]),
        {"store": {"x": Path("s")}, "out": Path("o"), "device": "cpu", "placement": "ram"}
        | {"memory_bytes": 2000},
    ),
    (
        "fuse ablate t a=1,2 --seeds 5 --store s --splits --out o --device cpu --placement gpu",
        "pipeline.launch.tables.base.ablate",
        (("t", "a=1,2"),),
        {"seeds": 5, "stores": (Path("s"),), "splits": True, "out": Path("o"), "device": "cpu"}
        | {"placement": "gpu", "memory_bytes": None},
    ),
    (
        "evaluate all r k=1 --out o --jobs 3 --memory 1GB --spreadsheet",
        "pipeline.phases.evaluation.evaluate_words",
        (["r", "k=1"],),
        {"out": Path("o"), "jobs": 3, "memory": "1GB", "spreadsheet": True},
    ),
    (
        "evaluate frozen s k=1 --block 3 --block 7 --out o --jobs 2 --memory 3GB",
        "pipeline.phases.evaluation.evaluate_frozen",
        (Path("s"), ["k=1"]),
        {"out": Path("o"), "blocks": [3, 7], "jobs": 2, "memory": "3GB"},
    ),
    (
        "tokenreel store relabel s data.a=1 --root v --manifest m.json",
        "pipeline.phases.relabelling.renew_labels",
        (Path("s"), ["data.a=1"]),
        {"root": Path("v"), "manifest": Path("m.json")},
    ),
    (
        "tokenreel store export s o --kind npy --clip a --block 1 --layer 2 --view 3",
        "cache.tools.export.export_store",
        (Path("s"), Path("o")),
        {"kind": "npy", "clips": ["a"], "blocks": [1, 2], "view": 3},
    ),
    (
        "tokenreel store export s o",
        "cache.tools.export.export_store",
        (Path("s"), Path("o")),
        {"kind": "hdf5", "clips": None, "blocks": None, "view": 0},
    ),
    (
        "tokenreel store diff a b",
        "cache.tools.maintenance.compare_stores",
        (Path("a"), Path("b")),
        {},
    ),
    (
        "tokenreel store verify s --deep --root v",
        "cache.tools.verify.verify_store",
        (Path("s"),),
        {"deep": True, "root": Path("v")},
    ),
    (
        "tokenreel store merge a b",
        "cache.tools.copying.merge_store",
        (Path("a"), Path("b")),
        {},
    ),
    (
        "tokenreel data check d data.a=1 --root v --follow-links",
        "pipeline.datasets.check_dataset",
        ("d", Path("v"), {"a": "1", "follow_links": "yes"}),
        {},
    ),
    (
        "tokenreel fidelity s a=1 --root v --clips 7 --codec int8 --codec fp16",
        "pipeline.tools.fidelity.fidelity_of",
        ("s", ["a=1"]),
        {"root": Path("v"), "clips": 7, "codecs": ["int8", "fp16"]},
    ),
]
ENDS = {  # how a report says that something is wrong -> the status
    "data check": ({"is_complete": False}, 3),
    "store export": ({"failed": [FAILED]}, 3),
    "store relabel": ({}, 0),
    "fuse train": ({}, 0),
    "extract show": ({}, 0),
}


@pytest.mark.parametrize(("words", "target", "args", "kwargs"), CASES)
@pytest.mark.parametrize("is_well", [True, False])
def test_options_reach_the_function_and_its_status_is_the_commands(
    call, monkeypatch, words, target, args, kwargs, is_well
):
    monkeypatch.setattr("tokenreel.pipeline.tools.fidelity.fidelity_table", lambda _: "")
    wrong, status = next(
        (end for command, end in ENDS.items() if command in words), ({"exit_status": 4}, 4)
    )
    fields = {"is_complete": True} | ({} if is_well else wrong)
    answer = report(**fields)
    if "data check" in words:
        answer.text = lambda: ""
    if "extract scenes" in words:
        answer = answer, Path("f")
    if "extract show" in words:
        answer = "f.png"
    found, _, [(given, named)] = call(words, target, answer)
    assert found == (0 if is_well else status)
    assert given == args
    assert {name: named[name] for name in kwargs} == kwargs


def test_extract_run_hands_over_the_extraction_and_the_place(call, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    words = (
        "extract run d a=1 --root v --out o --shard auto --gpus 2 --max-failures 3 --limit 5 "
        "--follow-links --changed replace"
    )
    target = "pipeline.launch.local.launch"
    done = SimpleNamespace(lines=["started"], report=None, store="s")
    found, printed, [((extraction, place), _)] = call(words, target, done)
    assert (found, printed) == (0, "started\n")
    assert (extraction.dataset, extraction.words) == (
        "d",
        ("a=1", "max_failures=3", "data.follow_links=yes"),
    )
    assert (extraction.root, extraction.out, extraction.shard) == (Path("v"), Path("o"), "2/4")
    assert (extraction.limit, extraction.changed, place.gpus) == (5, "replace", "2")
    done.report = report(
        quarantined=["q"],
        unreadable=["u"],
        changed={"c": "new bytes"},
        missing={f"m{n}": "gone" for n in range(7)},
        exit_status=3,
    )
    found, printed, _ = call(words, target, done)
    assert found == 3
    for line in ("in quarantine: q", "cannot be read: u", "changed: new bytes", "store: s"):
        assert line in printed
    assert printed.count("video missing: ") == 5


@pytest.mark.parametrize(
    ("of_survey", "of_data", "status"), [((), (), 0), (("a",), (), 3), ((), ("a",), 3)]
)
def test_a_plan_ends_with_3_where_a_header_or_a_folder_cannot_be_read(
    call, of_survey, of_data, status
):
    answer = SimpleNamespace(
        text=lambda: "", survey=SimpleNamespace(unreadable=of_survey), unreadable=of_data
    )
    words = "extract plan d a=1 --root v --out o --recipe r --seconds 2 --limit 4"
    found, _, [(args, named)] = call(words, "pipeline.phases.planning.plan_dataset", answer)
    assert (found, args) == (status, ("d", ["a=1"]))
    assert named == {"root": Path("v"), "out": Path("o"), "recipe": "r", "seconds": 2, "limit": 4}


def test_compare_keeps_the_order_of_its_runs_and_ends_with_3_for_a_file_left_out(call, monkeypatch):
    monkeypatch.setattr("tokenreel.pipeline.phases.evaluation.format_differences", lambda _: "")
    words = "evaluate compare one two k=1 --resamples 150 --seed 9 --out o.csv"
    target = "pipeline.phases.evaluation.compare_words"
    found, printed, [(args, named)] = call(words, target, ([], ["torn"]))
    assert (found, args) == (3, ("one", "two", ["k=1"]))
    assert named == {"resamples": 150, "seed": 9, "out": Path("o.csv")}
    assert "problem: torn" in printed
    assert call(words, target, ([], []))[0] == 0


def test_report_hands_over_what_the_page_shows(call):
    words = (
        "evaluate report r --out o --root v --actions 2 --recipes 3 --projection tsne --title T "
        "--jobs 2 --memory 1GB"
    )
    answer = ("p", report(exit_status=3))
    found, _, [(args, named)] = call(words, "pipeline.phases.reporting.report_words", answer)
    assert (found, args) == (3, (["r"],))
    config = named.pop("config")
    assert (config.actions, config.recipes, config.projection, config.title) == (2, 3, "tsne", "T")
    assert named == {"out": Path("o"), "root": Path("v"), "jobs": 2, "memory": "1GB"}


def test_check_prints_facts_and_notes_and_ends_with_3(call, tmp_path):
    (tmp_path / "e.h5").touch()
    words = f"evaluate check {tmp_path}/e.h5"
    for is_good, status in ((True, 0), (False, 3)):
        answer = report(facts=["fact"], notes=["odd"], problems=["torn"], is_good=is_good)
        found, printed, _ = call(words, "evaluate.commands.check.check_file", answer)
        assert found == status
        assert printed.startswith("fact\nnote: odd\nproblem: torn\n")


def test_attend_explain_and_embed_end_with_3_where_a_clip_failed(call):
    good = SimpleNamespace(
        clip_id="b",
        grid="g",
        movie="m",
        numbers="n",
        unseen_reason="gone",
        decided="x",
        picture="p",
    )
    good.without_maps = ()
    attend = "pipeline.phases.attention.attend_clips"
    found, printed, [(args, named)] = call(
        "fuse attend r --clips a,,b --store s --root v --out o --device cpu", attend, [FAILED, good]
    )
    assert (found, args) == (3, (Path("r"), ["a", "b"]))
    assert named == {"store": Path("s"), "root": Path("v"), "out": Path("o"), "device": "cpu"}
    assert "no frames: gone" in printed
    explain = "pipeline.apply.explanation.explain_clips"
    found, _, [(args, named)] = call(
        "fuse explain r --clips a,b --threshold 0.7 --device cpu", explain, [good, FAILED, good]
    )
    assert (found, args, named["threshold"]) == (3, (Path("r"), ["a", "b"]), 0.7)
    embed = f"{TRAINING}.embed_with"
    words = "fuse embed r --store s --out o.h5 --device cpu"
    found, printed, [(args, named)] = call(words, embed, ("e.h5", ["torn"]))
    assert (found, args) == (TokenReelError.exit_status, (Path("r"), Path("s")))
    assert "store verify --deep --repair s" in printed
    assert call(words, embed, ("e.h5", []))[0] == 0


def test_apply_takes_videos_or_a_folder_to_watch(call):
    done = SimpleNamespace(name="a", folder="f", was_done=True, unseen_reason="")
    target = "pipeline.apply.apply.apply_run"
    words = "fuse apply r a.mp4 --out o --action x --weights w --no-movies --keep-tokens"
    found, printed, [(args, named)] = call(f"{words} --device cpu", target, [done])
    assert (found, args, printed) == (0, (Path("r"), [Path("a.mp4")]), "a: f (was done)\n")
    assert (named["action"], named["weights"], named["out"]) == ("x", "w", Path("o"))
    assert (named["movies"], named["keep_tokens"], named["device"]) == (False, True, "cpu")
    assert call("fuse apply r a.mp4", target, [FAILED])[0] == 3
    for wrong in ("fuse apply r", "fuse apply r a.mp4 --watch w"):
        with pytest.raises(UsageError, match="name videos, or a folder with --watch, and not both"):
            call(wrong, target, [])


def test_show_draws_the_frames_and_the_view_that_are_named(call, monkeypatch):
    store = SimpleNamespace(record=lambda _: SimpleNamespace(key="a-1"))
    monkeypatch.setattr("tokenreel.cache.read.store_reader.open_store", lambda _: store)
    monkeypatch.setattr("tokenreel.pipeline.defaults.videos_of_store", lambda _, root: root)
    monkeypatch.setattr("tokenreel.extract.preview.show.draw_clip", lambda _, out: out)
    picture = SimpleNamespace(unseen_reason="gone")
    words = "extract show a --store s --root v --frames 5 --view 1"
    found, printed, [(args, named)] = call(words, "extract.preview.show.look_at_clip", picture)
    assert (found, args) == (0, (store, "a"))
    assert named == {"root": Path("v"), "num_frames": 5, "view": 1}
    assert printed.splitlines()[1] == "picture: a-1.png"
    assert "without frames: gone" in printed


def test_info_says_where_labels_and_tokens_come_from(call, monkeypatch):
    facts = SimpleNamespace(former_fingerprints=("f" * 4,), root="/v", extra={"b": 1, "a": 2})
    store = SimpleNamespace(made_with={"weights": "w"}, facts=facts, num_relabelled=3)
    monkeypatch.setattr("tokenreel.cache.read.store_reader.open_store", lambda _: store)
    target = "cache.tools.maintenance.store_info"
    words = "tokenreel store info s"
    assert call(words, target, report())[1].splitlines() == [
        "",
        "made with       weights w",
        "migrated from   ffff",
        "relabelled      3 clips, by `store relabel`",
        "videos were in  /v",
        "extra field     a",
        "extra field     b",
    ]
    facts.root, facts.extra, facts.former_fingerprints, store.num_relabelled = "", {}, (), 0
    assert call(words, target, report())[1].splitlines() == ["", "made with       weights w"]


def test_doctor_writes_nothing_where_it_is_told_so(call, monkeypatch):
    monkeypatch.setattr("tokenreel.pipeline.tools.doctor.report", lambda _: "fine")
    target = "pipeline.tools.doctor.examine"
    for words, measure in (("--no-measure", False), ("--measure", True), ("", True)):
        given = call(f"tokenreel doctor --folder f {words}", target, None)[2]
        assert given == [((Path("f"),), {"measure": measure})]


def test_a_repaired_store_is_verified_again_as_deep_as_before(call, monkeypatch):
    target = "cache.tools.verify.verify_store"
    repaired = []

    def repair(store, found, words, *, root):
        repaired.append((store, words, root))
        return report(require_reached=lambda: repaired.append("reached"))

    monkeypatch.setattr("tokenreel.pipeline.phases.extraction.repair_store", repair)
    words = "tokenreel store verify s device=cpu --deep --repair --root v"
    found, printed, given = call(words, target, report(problems=["torn"], exit_status=5))
    assert (found, repaired) == (5, [(Path("s"), ["device=cpu"], Path("v")), "reached"])
    assert given == [((Path("s"),), {"deep": True, "root": Path("v")})] * 2
    assert "after the repair: " in printed
    repaired.clear()
    assert call(words, target, report())[0] == 0
    assert call("tokenreel store verify s", target, report(problems=["torn"]))[0] == 0
    assert repaired == []


def test_show_takes_a_store_or_scenes():
    for wrong in ("show a", "show a --store s --scenes f"):
        found = CliRunner().invoke(extract.app, wrong.split())
        assert isinstance(found.exception, UsageError)


@pytest.mark.parametrize("count", [2, 7])
def test_retrieve_lists_as_many_frames_as_k(monkeypatch, tmp_path, count):
    file = EmbeddingFile(tmp_path / "e.h5", {}, tuple(labelled_clips()))
    monkeypatch.setattr(evaluate, "_read_run", lambda _: file)
    words = ["retrieve", "act/v0", "3", "--run", "r", "--out", str(tmp_path), "--k", str(count)]
    found = CliRunner().invoke(evaluate.app, words)
    assert found.exit_code == 0
    table = found.output.splitlines()[2:-1]
    assert [line.split()[0] for line in table] == [str(rank + 1) for rank in range(count)]


def test_status_is_printed_until_the_store_is_complete(call, monkeypatch):
    waits = []
    monkeypatch.setattr(main, "time", SimpleNamespace(sleep=waits.append))
    states = iter([False, False, True])

    class State:
        workers, exit_status = (), 3

        def lines(self):
            return ["one"]

        @property
        def is_complete(self):
            return next(states)

    found, printed, given = call(
        "tokenreel status s --watch --seconds 4", "cache.tools.status.store_status", State()
    )
    assert (found, waits, len(given)) == (3, [4, 4], 3)
    assert printed == "one\n\none\n\none\n"


def test_the_clips_of_a_worker_are_two_and_dots():
    note = SimpleNamespace(
        host="h", pid=7, device="cpu", num_committed=5, num_failed=1, frames_per_second=2.25
    )
    workers = [
        SimpleNamespace(note=note, state="works", age_seconds=3.4, clips=list("abc")[:count])
        for count in (2, 3)
    ]
    rows = main.worker_table(workers).splitlines()[1:]
    assert rows[0].endswith("a, b")
    assert rows[1].endswith("a, b, ...")
    assert rows[0].split()[:9] == ["h:7", "cpu", "works", "3", "s", "ago", "5", "1", "2.2"]


def test_similar_hands_over_its_clicks_and_ends_with_3_where_clips_were_left_out(call, monkeypatch):
    monkeypatch.setattr("tokenreel.cache.read.store_reader.open_store", lambda path: path)
    monkeypatch.setattr("tokenreel.pipeline.phases.attention.find_clips", lambda _, words: words)
    words = (
        "tokenreel similar s --clip a --frame 4 --patch 27 --patch 1,2 --negative 3,3 --block 7 "
        "--view 1 --count 5 --out o.png --root v"
    )
    made = SimpleNamespace(table="t", unseen_reason="gone")
    made.found = SimpleNamespace(speed="fast", left_out=["torn"])
    found, printed, [(args, named)] = call(words, "pipeline.explore.strip.find_similar", made)
    store, clicks = args
    assert (found, store) == (3, Path("s"))
    assert [(click.frame, click.is_positive) for click in clicks] == [
        (4, True),
        (4, True),
        (4, False),
    ]
    assert named == {"out": Path("o.png"), "root": Path("v"), "block": 7, "view": 1, "count": 5}
    assert "left out: torn" in printed
    made.found.left_out = []
    assert call(words, "pipeline.explore.strip.find_similar", made)[0] == 0


def test_gc_counts_hours_and_deletes_only_when_told(call):
    target = "cache.tools.maintenance.collect_garbage"
    found = call("tokenreel store gc s --older-than 2", target, [("x", 3_000_000)])
    assert found[2] == [((Path("s"),), {"older_than_seconds": 7200, "delete": False})]
    assert "1 leftovers, 3.0 MB, would be deleted by --yes" in found[1]
    found = call("tokenreel store gc s --yes", target, [])
    assert found[2][0][1] == {"older_than_seconds": 86400, "delete": True}
    assert found[1] == "nothing to delete\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("store migrate s --format 1 o", "--format 1: a store can be written in 2"),
        ("store migrate s o --format 2 --codec int4", "give --format or --codec"),
        ("store migrate s o", "a new store needs OUT and one of --format and --codec"),
        ("store migrate s --codec int4", "a new store needs OUT and one of"),
        ("store export s o --kind csv", "--kind 'csv': hdf5 or npy"),
        ("store import f s", "--statement FILE is missing"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, message):
    found = CliRunner().invoke(main.app, words.split())
    assert isinstance(found.exception, UsageError)
    assert message in str(found.exception)


def test_import_says_what_was_left_and_hands_over_the_statement(call, monkeypatch):
    monkeypatch.setattr("tokenreel.cache.tools.import_features.read_statement", lambda path: path)
    target = "cache.tools.import_features.import_features"
    answer = report(
        written=["a"], replaced=["a"], left=["b"], changed={"c": "bytes"}, exit_status=3
    )
    answer.accepts_changed = False
    words = "tokenreel store import f s --statement t.json --recipe old.json --changed keep"
    found, printed, [(args, named)] = call(words, target, answer)
    assert (found, args) == (3, (Path("f"), Path("s"), Path("t.json")))
    assert named == {"changed": "keep"}
    for line in (
        "1 clips written to s, 1 of them replaced",
        "changed: c: bytes",
        "--changed replace imports them again, --changed keep keeps them",
        "1 clip(s) of the store have no file here and stay",
    ):
        assert line in printed


@pytest.mark.parametrize(
    ("words", "left", "folder", "num_bytes"),
    [
        ("fuse train --cache-dir a --epochs 2", "fuse train --epochs 2", "a", None),
        ("store --cache-bytes=0 verify --cache-dir=b", "store verify", "b", "0"),
        ("--cache-bytes 1.5TB", "", None, "1.5TB"),
        ("verify s --deep", "verify s --deep", None, None),
    ],
)
def test_any_command_says_where_and_how_much_of_buckets_is_kept(
    monkeypatch, words, left, folder, num_bytes
):
    for name in (FOLDER, BYTES):
        monkeypatch.setenv(name, "before")  # so that both are as they were afterwards
        monkeypatch.delenv(name)
    assert take_cache_options(words.split()) == left.split()
    assert (os.environ.get(FOLDER), os.environ.get(BYTES)) == (folder, num_bytes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--cache-dir", "--cache-dir needs a value: --cache-dir FOLDER"),
        ("--cache-dir s3://a/b", "--cache-dir s3://a/b: name a folder on a disk of this machine"),
        ("--cache-dir=gs:/a", "--cache-dir gs://a: name a folder on a disk of this machine"),
        ("--cache-bytes=", "--cache-bytes needs a value"),
        ("--cache-bytes much", "--cache-bytes 'much' is not a size such as 2GB"),
        ("--cache-bytes -1", "--cache-bytes '-1' is not a size"),
    ],
)
def test_options_of_the_cache_that_mean_nothing_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        take_cache_options(words.split())
