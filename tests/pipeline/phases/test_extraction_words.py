"""Words of an extraction, and the extraction that a store says it was made by."""

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import identity_for
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.phases import extraction
from tokenreel.pipeline.phases.extraction import (
    check_limit,
    config_of,
    data_options,
    extract_dataset,
    parse_shard,
    retry_store,
)

BASE = {"backbone": "vit_tiny_patch16_224", "weights": "random:3", "blocks": (3, 11)}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"image_size": 32, "fps": 5.0, "codec": "pool2+int8", "numeric": "bfloat16"},
        {"image_size": (32, 64), "transform": "stretch"},
        {"views": 2, "view_seed": 7},
        {"crops": 3, "transform": "cover", "image_size": 32},
        {"frames": "uniform:8"},
        {"pixel_aspect": "ignore"},
        {"weights": "w.pth", "weights_key": "teacher", "compile_backbone": True},
    ],
)
def test_a_store_says_the_extraction_that_made_it(fields):
    config = ExtractConfig(**(BASE | fields))
    identity = identity_for(config, "0" * 64)
    made_with = {name: getattr(config, name) for name in ("weights", "weights_key", "frames")}
    made_with["compile_backbone"] = config.compile_backbone
    found = config_of(identity, made_with)
    assert identity_for(found, "0" * 64) == identity
    for name in made_with:
        assert getattr(found, name) == getattr(config, name)
    del made_with["weights_key"], made_with["compile_backbone"]  # of older versions
    assert identity_for(config_of(identity, made_with), "0" * 64) == identity
    with pytest.raises(UsageError, match="does not say how it was extracted: 'weights'"):
        config_of(identity, {})


def test_options_of_a_data_set_are_told_from_those_of_the_extraction():
    words = ["data.a=1", "picture_fps=5", "blocks=3", "data.a=1"]
    assert data_options(words) == ({"a": "1", "picture_fps": "5"}, ["blocks=3"])
    for words in (["data.a=1", "data.a=2"], ["picture_fps=5", "data.picture_fps=6"]):
        with pytest.raises(UsageError, match="is given twice, leave one out"):
            data_options(words)
    with pytest.raises(UsageError, match=r"'data\.a' is not data\.key=value"):
        data_options(["data.a"])


def test_limits_and_shards_that_leave_nothing_are_refused():
    check_limit(None)
    check_limit(1)
    for limit in (0, -1):
        with pytest.raises(UsageError, match=f"--limit {limit}: give the number of clips"):
            check_limit(limit)
    assert parse_shard("3/4") == (3, 4)
    for text in ("4/4", "5/4", "0/0", "-1/4", "1", "1/2/3", ""):
        with pytest.raises(UsageError, match="--shard is i/n with 0 <= i < n"):
            parse_shard(text)


def test_what_was_left_out_and_could_not_be_read_is_in_the_report(tmp_path, monkeypatch):
    clips = [
        Clip(f"{split}{n}", "a.mp4", split=split) for split in ("train", "val") for n in range(3)
    ]
    manifest = Manifest("d", tmp_path, tuple(clips), unreadable=("x: gone",))
    config = ExtractConfig(**BASE, device="cpu")
    given = {}

    def extract(devices, part, used, store, **options):
        given.update(options, devices=devices, store=store)
        return ExtractReport()

    monkeypatch.setattr(extraction, "read_words", lambda *_, **__: (manifest, config))
    monkeypatch.setattr("tokenreel.extract.flow.gpus.extract_on_gpus", extract)
    report, store = extract_dataset(
        "d", [], out=tmp_path / "s", shard="1/3", limit=2, changed="keep"
    )
    assert store == tmp_path / "s"
    assert (report.num_over_limit, report.unreadable) == (2, ["x: gone"])
    assert given == {
        "devices": ["cpu"],
        "store": store,
        "shard": (1, 3),
        "limit": 2,
        "changed": "keep",
    }


def test_a_wrong_path_is_no_store_without_failures(tmp_path):
    with pytest.raises(Exception, match="nowhere"):
        retry_store(tmp_path / "nowhere")
