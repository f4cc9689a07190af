"""The break-even of a plan is arithmetic that can be done by hand."""

from pathlib import Path

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.plan import HeaderSurvey, StoreSize
from tokenreel.extract.rates import MachineRates
from tokenreel.pipeline.planning import Plan, break_even
from tokenreel.pipeline.recipes import get_recipe

MANIFEST = Manifest("sample", Path(), (Clip("a", "a.mp4"), Clip("b", "b.mp4", split="val")))
SURVEY = HeaderSurvey({"a": 100, "b": 100}, 8.0, 1000, ())
SIZE = StoreSize("int8", 1000.0, 200_000, 20)


def even(read_bytes: float):
    rates = MachineRates("cpu", 100.0, 50.0, 1e6, read_bytes)
    (row,) = break_even(MANIFEST, ExtractConfig(), SURVEY, rates, SIZE, recipe="sample")
    return row


def test_caching_pays_after_extraction_divided_by_the_gain_of_an_epoch():
    row = even(1e6)
    frames = 2 * get_recipe("sample").fuse.data.num_frames  # two views of the one training clip
    assert row.epoch_frames == frames
    assert row.online_seconds == pytest.approx(frames / 50)
    assert row.cached_seconds == pytest.approx(frames * 1000 / 1e6)
    extraction = 200 / 50  # slower than 200 kB at 1 MB/s
    assert row.epochs == pytest.approx(extraction / (row.online_seconds - row.cached_seconds))


def test_on_a_disk_slower_than_the_backbone_caching_never_pays():
    assert even(read_bytes=1000.0).epochs is None


def test_a_disk_that_cannot_take_the_tokens_is_named_before_the_extraction():
    rates = MachineRates("cpu", 100.0, 50.0, write_bytes=1000.0, read_bytes=1e6)
    plan = Plan("sample", ExtractConfig(), SURVEY, rates, (SIZE,), (), free_bytes=100)
    assert "no: the disk is the limit" in plan.text()
    assert plan.limit.startswith("disk")
    assert "NOT ENOUGH" in plan.text()


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="no recipe 'sampel'"):
        break_even(MANIFEST, ExtractConfig(), SURVEY, MachineRates("cpu", 1, 1, 1, 1), SIZE,
                   recipe="sampel")  # fmt: skip
