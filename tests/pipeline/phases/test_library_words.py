"""The functions of the library hand over what they are given."""

from pathlib import Path

from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.phases import library

RECORDED = library


def test_videos_of_a_data_set_or_a_manifest_are_extracted(record):
    given = record("extract_dataset", ("report", "store"))
    settings = {"blocks": (3, 11), "fps": None, "compile_backbone": True, "codec": "int8"}
    words = ["blocks=3,11", "fps=null", "compile_backbone=true", "codec=int8"]
    made = library.extract_videos("v", "s", dataset="finegym", settings=settings, changed="replace")
    assert made == "report"
    assert given == [
        (("finegym", words), {"root": Path("v"), "out": Path("s"), "changed": "replace"})
    ]
    manifest = Manifest("mine", Path("v"), (Clip("a", "a.mp4"),), unreadable=("b: gone",))
    report = ExtractReport()
    given = record("extract_on_gpus", report)
    found = library.extract_videos(manifest, "s", settings={"device": "cpu"}, changed="keep")
    [(args, named)] = given
    assert (args[0], args[1], args[2].device, args[3]) == (["cpu"], manifest, "cpu", Path("s"))
    assert (found, found.unreadable, named) == (report, ["b: gone"], {"changed": "keep"})


def test_a_run_is_trained_embedded_and_evaluated(record):
    given = record("train_recipe", "result")
    made = library.train_model(
        {"frames": "a", "clips": Path("b")},
        "r",
        recipe="late-fusion",
        settings={"optim.epochs": 10, "pooling.blocks": [(1, 2), (3,)]},
        device="cpu",
        progress=False,
    )
    assert made == "result"
    [(args, named)] = given
    assert args == ("late-fusion", ["optim.epochs=10", "pooling.blocks=1,2,3"])
    assert named == {
        "store": {"frames": Path("a"), "clips": Path("b")},
        "out": Path("r"),
        "device": "cpu",
        "progress": False,
    }
    given = record("embed_with", (Path("e.h5"), []))
    assert library.embed_store("r", "s", "e.h5", device="cpu", progress=False) == Path("e.h5")
    library.embed_store("r", "s")
    assert given[0] == (
        (Path("r"), Path("s")),
        {"out": Path("e.h5"), "device": "cpu", "progress": False},
    )
    assert given[1][1]["out"] is None
    given = record("evaluate_words", "report")
    library.evaluate_files(["a", Path("b")], "o", settings={"protocol": "tcc"}, jobs=3)
    assert given == [
        ((["a", "b", "protocol=tcc"],), {"out": Path("o"), "jobs": 3, "progress": True})
    ]
