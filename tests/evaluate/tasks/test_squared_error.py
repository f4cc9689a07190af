"""Mean squared error of numbers predicted for clips, with the training mean as its control."""

import numpy as np
import pytest

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.tables.summary import rank_of, summarise

NUMBERS = {"train": [1.0, 3.0, 8.0], "test": [2.0, 6.0]}
GUESSES = {"train": [0.0, 0.0, 0.0], "test": [3.0, 2.0]}


def write(path, recipe, shift=0.0, protocol="numbers", **names):
    clips = [
        EmbeddedClip(
            f"{split}{place}",
            split,
            "",
            "",
            np.array([[guess + shift]], np.float32),
            np.array([-1], np.int16),
            np.zeros(1),
            targets=np.array([number]),
        )
        for split, numbers in NUMBERS.items()
        for place, (number, guess) in enumerate(zip(numbers, GUESSES[split], strict=True))
    ]
    provenance = {
        "recipe": recipe,
        "dataset": "lvu",
        "evaluate": {"protocol": protocol, "split": "test"},
    }
    return write_embeddings(path, clips, provenance=provenance, unit="clip", **names)


def test_the_error_is_that_of_the_split_and_the_training_mean_is_beside_it(tmp_path):
    files = [write(tmp_path / "a.h5", "a"), write(tmp_path / "b.h5", "b", shift=1.0)]
    report = evaluate_files(files, config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    assert report.exit_status == 0
    found = {(row.recipe, row.task): row.value for row in report.scores if row.status == "ok"}
    assert found["a", "mse"] == pytest.approx((1 + 16) / 2)
    assert found["b", "mse"] == pytest.approx((4 + 9) / 2)
    assert found["a", "mse-mean"] == pytest.approx((4 + 4) / 2)  # 4 is the mean of 1, 3, 8
    rows = summarise(report.scores)
    assert all(rank_of(row, rows, "mse") is None for row in rows)  # lower is better: none is best


@pytest.mark.parametrize("protocol", ["tags", ["actions", "tags"], "numbers"])
def test_numbers_are_judged_as_numbers_whatever_their_data_set_has_else(protocol, tmp_path):
    path = write(tmp_path / "a.h5", "a", protocol=protocol)
    report = evaluate_files([path], config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    found = {row.task: row.value for row in report.scores if row.recipe == "a"}
    assert found == {"mse": pytest.approx((1 + 16) / 2), "mse-mean": pytest.approx((4 + 4) / 2)}


def test_scores_of_tags_have_no_squared_error(tmp_path):
    path = write(tmp_path / "a.h5", "a", class_names=["x"])
    config = EvaluateConfig(protocol="numbers")
    report = evaluate_files([path], config=config, out=tmp_path / "out", progress=False)
    [row] = [row for row in report.scores if row.task == "mse" and row.recipe == "a"]
    assert row.status == "skipped"
    assert "no number of each clip to compare with" in row.note
