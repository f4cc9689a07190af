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
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.extraction import config_of
from tokenreel.pipeline.phases.planning import Plan, break_even, plan_dataset
from tokenreel.pipeline.recipes import get_recipe
from tokenreel.pipeline.recipes.extraction import extraction_for

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
