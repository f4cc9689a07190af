"""The break-even of a plan is arithmetic that can be done by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import identity_for
from tokenreel.extract.preview import plan as plan_module
from tokenreel.extract.preview.plan import HeaderSurvey, MachineRates, StoreSize
from tokenreel.pipeline.defaults import SAMPLE
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases import planning
from tokenreel.pipeline.phases.extraction import config_of
from tokenreel.pipeline.phases.planning import Plan, break_even, plan_dataset
from tokenreel.pipeline.recipes import get_recipe
from tokenreel.pipeline.recipes.extraction import extraction_for

INT8 = ExtractConfig(device="cpu")
MANIFEST = Manifest("sample", Path(), (Clip("a", "a.mp4"), Clip("b", "b.mp4", split="val")))
SURVEY = HeaderSurvey({"a": 100, "b": 100}, 8.0, 200, 1000, ())
SIZE = StoreSize("int8", 1000.0, 200_000, 20)


def even(read_bytes: float):
    rates = MachineRates("cuda:0", 100.0, 50.0, 1e6, read_bytes)
    (row,) = break_even(MANIFEST, ExtractConfig(), SURVEY, rates, SIZE, recipe="sample")
    return row


def test_caching_pays_after_extraction_divided_by_the_gain_of_an_epoch():
    row = even(1e6)
    frames = 2 * get_recipe("sample").fuse.data.num_frames  # two views of the one training clip
    assert row.epoch_frames == frames
    assert row.online_seconds == pytest.approx(frames / 50)
    assert row.cached_seconds == pytest.approx(frames * 1000 / 1e6)
    extraction = 200 / 50  # slower than 200 kB at 1 MB/s, and than decoding
    assert row.epochs == pytest.approx(extraction / (row.online_seconds - row.cached_seconds))


def test_on_a_disk_slower_than_the_backbone_caching_never_pays():
    assert even(read_bytes=1000.0).epochs is None


def test_a_plan_names_the_codecs_with_which_caching_loses():
    rates = MachineRates("cuda:0", 1e6, 100.0, write_bytes=1e9, read_bytes=1e8)  # 10 ms a frame
    sizes = tuple(StoreSize(*each, 1, 1) for each in (("fp16", 1.26e6), ("int8", 0.63e6)))
    plan = Plan("sample", ExtractConfig(), SURVEY, rates, sizes, (), free_bytes=10)
    assert (
        "caching loses: a frame is computed anew in 10.00 ms, and read from this disk in: fp16 "
        "12.60 ms; take int8, or keep the store in memory" in plan.text()
    )
    slow = replace(rates, read_bytes=1e7)
    assert "fp16 126.00 ms, int8 63.00 ms; train online" in replace(plan, rates=slow).text()
    of_three = ExtractConfig(crops=3)  # three crops are stored, one is read
    assert "caching loses" not in replace(plan, config=of_three).text()


def test_a_disk_that_cannot_take_the_tokens_is_named_before_the_extraction():
    rates = MachineRates("cpu", 100.0, 50.0, write_bytes=1000.0, read_bytes=1e6)
    plan = Plan("sample", ExtractConfig(), SURVEY, rates, (SIZE,), (), free_bytes=100)
    assert "no: the disk is the limit" in plan.text()
    assert plan.limit.startswith("disk")
    assert "NOT ENOUGH" in plan.text()


def test_on_a_cpu_the_plan_adds_up_what_shares_the_cores(monkeypatch):
    monkeypatch.setattr(plan_module, "num_threads", lambda: 2)
    rates = MachineRates("cpu", 100.0, 50.0, write_bytes=1e9, read_bytes=1e6)
    own = ExtractConfig(device="cpu", workers=2)
    assert rates.stage_seconds(own, views=1) == {
        "backbone and decoding on the same cores": 1 / 50 + 1 / (2 * 100),
        "decoding": 1 / (2 * 100),
    }
    on_gpu = MachineRates("cuda:0", 100.0, 50.0, write_bytes=1e9, read_bytes=1e6)
    assert on_gpu.stage_seconds(own, views=5) == {"backbone": 5 / 50, "decoding": 1 / 200}
    plan = Plan("sample", own, SURVEY, rates, (SIZE,), (), free_bytes=10**9)
    assert plan.limit.startswith("backbone and decoding on the same cores")


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="no recipe 'sampel'"):
        plan_dataset("sample", [], recipe="sampel")


@pytest.mark.parametrize(
    ("device", "numeric"),
    [("cuda:0", "on cuda:0 (bfloat16, compiled)"), ("cpu", "on cpu (bfloat16)")],
)
def test_a_plan_says_in_which_precision_and_whether_compiled(device, numeric):
    config = extraction_for("finegym").model_copy(update={"device": "cpu"})
    rates = MachineRates(device, 100.0, 50.0, write_bytes=1e9, read_bytes=1e9)
    plan = Plan("finegym", config, SURVEY, rates, (SIZE,), (), free_bytes=10**9)
    assert numeric in plan.text()


@pytest.mark.parametrize("dataset", ["finegym", "penn_action", "pouring", "kinetics400"])
def test_the_papers_data_sets_are_extracted_in_bfloat16_unless_a_word_says_otherwise(dataset):
    config = extraction_for(dataset)
    assert (config.numeric, config.compile_backbone) == ("bfloat16", True)
    own = apply_overrides(config, ["numeric=float32"], root="extract")
    assert (own.numeric, own.compile_backbone) == ("float32", True)
    recipe = identity_for(config, "0" * 64)
    assert [row[0] for row in recipe.differences(identity_for(own, "0" * 64))] == ["numeric"]
    assert recipe.fingerprint != identity_for(own, "0" * 64).fingerprint
    made_with = {"weights": "pretrained", "compile_backbone": True}
    again = config_of(recipe, made_with)
    assert again == config.model_copy(
        update={"image_size": 224, "transform": recipe.transform["name"]}
    )
    assert identity_for(again, "0" * 64) == recipe


def test_stored_views_are_computed_and_written_once_and_read_one_at_a_time():
    config = ExtractConfig(views=1)
    rates = MachineRates("cuda:0", 100.0, 50.0, 1e6, 1e6)
    plan = Plan("sample", config, SURVEY, rates, (SIZE,), (), free_bytes=10**9)
    assert plan.backbone_hours == 200 * 2 / 50 / 3600
    cells = plan.text().split("int8", 1)[1].split()
    assert cells[:5] == ["1000", "100000", "0.00", "20", "0.000"]
    large = replace(SIZE, frame_bytes=1e6)
    assert "  0.025  " in replace(plan, sizes=(large,)).text()  # at 25 frames a second
    (row,) = break_even(MANIFEST, config, SURVEY, rates, SIZE, recipe="sample")
    assert row.cached_seconds == pytest.approx(row.epoch_frames * 1000 / 2 / 1e6)


def test_the_break_even_is_of_the_recipes_of_the_data_set():
    rates = MachineRates("cuda:0", 100.0, 50.0, 1e6, 1e6)
    manifest = replace(MANIFEST, dataset=SAMPLE)
    rows = break_even(manifest, ExtractConfig(), SURVEY, rates, SIZE)
    names = [name for row in rows for name in row.recipes]
    assert "sample" in names
    assert {get_recipe(name).dataset for name in names} == {SAMPLE}
    assert len(set(names)) == len(names)


def test_frames_are_decoded_as_often_as_the_headers_say():
    assert HeaderSurvey({"a": 100, "b": 0}, 4.0, 250, 1, ()).decoded_per_frame == 2.5
    assert HeaderSurvey({}, 0.0, 0, 0, ()).decoded_per_frame == 0


def test_a_plan_has_each_codec_once_and_counts_what_the_limit_leaves_out(monkeypatch, tmp_path):
    clips = tuple(
        Clip(f"{split}{n}", "a.mp4", split=split) for split in ("train", "val") for n in "ab"
    )
    monkeypatch.setattr(
        planning, "read_words", lambda *_, **__: (Manifest("sample", tmp_path, clips), INT8)
    )
    rates = MachineRates("cpu", 100.0, 50.0, 1e6, 1e6)
    for name, answer in {
        "measure_machine": rates,
        "planned_identity": None,
        "survey_headers": SURVEY,
    }.items():
        monkeypatch.setattr(plan_module, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(
        plan_module, "store_size", lambda _, name, *__, **___: StoreSize(name, 1.0, 1, 1)
    )
    found = plan_dataset("sample", [], out=tmp_path, limit=1)
    assert [size.codec for size in found.sizes] == [
        "int8",
        "fp16",
        "int4",
        "pool2+int8",
        "pool2+int4",
    ]
    assert found.num_over_limit == 2
    assert "; 2 clips left out by --limit" in found.text()
