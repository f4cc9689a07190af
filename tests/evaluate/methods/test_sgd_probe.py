"""FineGym's probe against the official code: its data, first weights and order of clips."""

import json
from pathlib import Path

import numpy as np
import pytest

from tokenreel.evaluate.methods.sgd_probe import Layer, train_layer

GOLDEN = Path(__file__).parents[2] / "golden"
WANTED = json.loads((GOLDEN / "finegym_linear_eval.json").read_text())["cases"]
RUNS = [key for key in WANTED if "/" in key]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "finegym_linear_eval.npz") as file:
        return {name: file[name] for name in file.files}


def side(arrays, split):
    """Embeddings and classes of each clip, frames without a label left out."""
    edges = np.cumsum(arrays[f"data/{split}/lens"])[:-1]
    clips = np.split(arrays[f"data/{split}/embs"], edges)
    labels = np.split(arrays[f"data/{split}/labels"].astype(np.int64), edges)
    kept = [one >= 0 for one in labels]
    return (
        [clip[keep] for clip, keep in zip(clips, kept, strict=True)],
        [one[keep] for one, keep in zip(labels, kept, strict=True)],
    )


@pytest.mark.parametrize("run", RUNS)
def test_the_layer_and_its_accuracy_are_the_official_ones(arrays, run):
    setting = WANTED[run.partition("/")[0]]
    clips, labels = side(arrays, "train")
    layer = train_layer(
        clips,
        labels,
        num_classes=len(arrays[f"{run}/init_bias"]),
        learning_rate=setting["lr"],
        epochs=setting["epochs"],
        first=Layer(arrays[f"{run}/init_weight"], arrays[f"{run}/init_bias"]),
        orders=arrays[f"{run}/train_video_order_per_epoch"],
    )
    np.testing.assert_allclose(layer.weight, arrays[f"{run}/final_weight"], atol=1e-4)
    np.testing.assert_allclose(layer.bias, arrays[f"{run}/final_bias"], atol=1e-4)
    val, val_labels = (np.concatenate(part) for part in side(arrays, "val"))
    accuracy = 100 * float((layer.predict(val) == val_labels).mean())
    assert accuracy == pytest.approx(WANTED[run]["val_acc_last_epoch_percent"], abs=1e-4)


@pytest.mark.parametrize("num_classes", [99, 288])
def test_a_layer_for_all_classes_learns_the_same_from_the_same_seed(num_classes):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, num_classes, 12)
    clips = [np.eye(num_classes, dtype=np.float32)[[label] * 3] for label in classes]
    labels = [np.full(3, label) for label in classes]
    first = train_layer(clips, labels, num_classes=num_classes, epochs=20, seed=1)
    again = train_layer(clips, labels, num_classes=num_classes, epochs=20, seed=1)
    other = train_layer(clips, labels, num_classes=num_classes, epochs=20, seed=2)
    assert first.weight.shape == (num_classes, num_classes)
    np.testing.assert_array_equal(first.predict(np.concatenate(clips)), np.repeat(classes, 3))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert np.abs(first.weight - other.weight).max() > 0.1


def test_fewer_clips_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="9 labelled clips to learn from, a batch holds 10"):
        train_layer([np.ones((2, 3), np.float32)] * 9, [np.zeros(2, int)] * 9, num_classes=2)


def test_clips_that_fill_no_batch_are_left_out_of_an_epoch():
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(12)]
    labels = [rng.integers(0, 3, 3) for _ in range(12)]
    whole, cut = (
        train_layer(clips, labels, num_classes=3, epochs=2, orders=[range(count)] * 2)
        for count in (12, 10)
    )
    np.testing.assert_array_equal(whole.weight, cut.weight)
