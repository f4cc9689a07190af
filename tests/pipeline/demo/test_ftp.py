"""The demo of captions to actions: what it measures and says, and a small run of all of it."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.text_file import read_text_file
from tokenreel.pipeline.datasets.captioned import captioned, draw_clip, write_script
from tokenreel.pipeline.demo import ftp as demo
from tokenreel.pipeline.demo import run_named
from tokenreel.pipeline.demo.ftp import Measured, findings
from tokenreel.pipeline.phases import training
from tokenreel.pipeline.phases.reporting import stored_frames
from tokenreel.pipeline.recipes.captioned import ALIGN, ALIGNED, CAPTIONED, SHUFFLED, UNALIGNED

SMALL = [
    "data.train=16",
    "data.val=4",
    "data.test=16",
    "encoder=hashed-words",
    "optim.epochs=1",
    "optim.warmup_epochs=0",
    "align.optim.epochs=1",
    "align.optim.warmup_epochs=0",
]


def measured(aligned, unaligned, found=0.3, lost=0.02):
    rows = {
        (ALIGNED, "top@1"): (aligned, 1 / 16),
        (UNALIGNED, "top@1"): (unaligned, 1 / 16),
        (ALIGN, "t2v-C@1"): ((found,), 0.02),
        (SHUFFLED, "t2v-C@1"): ((lost,), 0.02),
    }
    return [Measured(*key, tuple(values), chance) for key, (values, chance) in rows.items()]


def test_the_sentence_says_what_comes_out_whatever_it_is():
    text = findings(measured((0.5, 0.5, 0.5), (0.3, 0.35, 0.25)))
    assert "a gain of 20.0, larger than both spreads" in text
    assert "15.0 times chance (at least 10 times); after shuffled captions 1.0 times" in text
    text = findings(measured((0.3, 0.4, 0.5), (0.3, 0.35, 0.25), found=0.1))
    assert "a gain of 10.0, NOT larger than both spreads" in text
    assert "5.0 times chance (NOT 10 times)" in text


def test_clips_show_what_their_captions_say():
    facts = {write_script("train", index).action for index in range(16)}
    assert len(facts) == 16  # four things to do, four colours
    script = write_script("train", 3)
    assert (script.does, script.colour) == ("blink", "red")
    assert script.captions["A"] == "Something appears and disappears again and again."
    assert script.captions["B"] == f"There is a red {script.shape}."
    frames = np.stack(list(draw_clip(script))).astype(int)
    red = (frames[..., 0] > 190) & (frames[..., 1] < 70) & (frames[..., 2] < 70)
    area = red.sum(axis=(1, 2))
    assert (area[1::2] > 100).all()
    assert (area[::2] < 100).all()
    assert np.array_equal(frames, np.stack(list(draw_clip(script))))


def test_a_root_of_other_counts_is_refused(tmp_path):
    (tmp_path / "captioned.json").write_text(json.dumps({"version": 1, "train": 1}))
    with pytest.raises(UsageError, match="use another --root"):
        captioned(tmp_path, {})
    with pytest.raises(UsageError, match=r"data.val is a number of clips"):
        captioned(tmp_path, {"val": "some"})


def test_the_whole_demo_at_a_small_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SEEDS", (0,))  # of three: the time of a test
    monkeypatch.setattr(training, "num_processors", lambda: 1)  # no process for each run
    assert run_named(["ftp", *SMALL]) == 0
    [out] = (tmp_path / "results").iterdir()
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["recipe"] for row in rows} == set(CAPTIONED)
    assert {row["seeds"] for row in rows} == {"1"}
    page = (out / "index.html").read_text()
    assert re.search(r"captioned-aligned [^<]* against <[^>]*><[^>]*>captioned-unaligned ", page)
    assert "a gain of" in capsys.readouterr().out
    true, other = (read_text_file(out / name) for name in ("texts.h5", "shuffled.h5"))
    held = np.array([clip.startswith("train") for clip in true.clip_ids])
    assert (true.rows[~held] == other.rows[~held]).all()
    assert (true.rows[held] != other.rows[held]).any(axis=1).mean() > 0.5
    assert sorted(map(tuple, true.rows[held])) == sorted(map(tuple, other.rows[held]))
    file = read_embeddings(out / "runs" / f"{ALIGNED}-seed0" / "embeddings.h5")
    assert len(file.class_names) == 16
    clip = stored_frames([file])(file.clips[0])  # of which the file has one row
    assert (len(file.clips[0].times_seconds), len(clip.times_seconds)) == (1, 8)
    assert clip.frame_index.tolist() == list(range(8))
    assert clip.times_seconds == pytest.approx(np.arange(8) / 8)
    assert stored_frames([replace(file, provenance={})])(clip) is clip  # of no known store
