"""The keys: the page is that of the configs, --help lists them, errors know other names."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.extract.config import ExtractConfig
from tokenreel.fuse.config import FuseConfig
from tokenreel.pipeline.cli import evaluate, extract, fuse, main
from tokenreel.pipeline.override import all_keys, apply_overrides
from tokenreel.pipeline.phases.extraction import read_words

PAGE = Path(__file__).parents[3] / "docs/keys.md"


def test_the_page_is_what_the_command_prints():
    printed = CliRunner().invoke(main.app, ["keys"]).output
    assert PAGE.read_text() == printed, "type `tokenreel keys > docs/keys.md`"


@pytest.mark.parametrize("config", [ExtractConfig, FuseConfig, EvaluateConfig])
def test_the_page_has_every_key(config):
    page = PAGE.read_text()
    for key in all_keys(config):
        assert f"| `{key}` |" in page or f"| `{key}=" in page, key


@pytest.mark.parametrize(
    ("app", "words", "keys"),
    [
        (extract.app, ["run"], ["backbone [vit_base_patch8_224.dino]", "image_size", "fps"]),
        (extract.app, ["plan"], ["weights [pretrained]"]),
        (fuse.app, ["train"], ["optim.lr [0.0001]", "loss.name=tcc", "pooling.num_entities [3]"]),
        (fuse.app, ["ablate"], ["data.batch_clips [4]"]),
        (evaluate.app, ["all"], ["tau_stride [2]", "tasks"]),
        (evaluate.app, ["frozen"], ["classifier [logistic]"]),
    ],
)
def test_help_lists_the_keys(app, words, keys):
    text = CliRunner().invoke(app, [*words, "--help"]).output
    for key in keys:
        assert f"  {key}" in text


@pytest.mark.parametrize(
    ("config", "word", "wanted"),
    [
        (ExtractConfig, "architecure=x", "backbone"),
        (ExtractConfig, "architecture=x", "backbone"),
        (ExtractConfig, "arch=x", "backbone"),
        (ExtractConfig, "model=x", "backbone"),
        (ExtractConfig, "checkpoint=x", "weights"),
        (ExtractConfig, "batch_size=8", "batch_frames"),
        (ExtractConfig, "num_workers=8", "workers"),
        (ExtractConfig, "resolution=224", "image_size"),
        (ExtractConfig, "layers=11", "blocks"),
        (ExtractConfig, "precision=fp16", "numeric"),
        (ExtractConfig, "write_thread=2", "write_threads"),
        (FuseConfig, "epochs=3", "optim.epochs"),
        (FuseConfig, "epoch=3", "optim.epochs"),
        (FuseConfig, "lr=3", "optim.lr"),
        (FuseConfig, "learning_rate=3", "optim.lr"),
        (FuseConfig, "batch_size=3", "data.batch_clips"),
        (FuseConfig, "data.batch_size=3", "data.batch_clips"),
        (FuseConfig, "num_frames=3", "data.num_frames"),
        (FuseConfig, "num_entities=3", "pooling.num_entities"),
        (FuseConfig, "temperature=3", "loss.temperature"),
        (FuseConfig, "dropout=0", "augment.dropout or temporal.dropout"),
        (FuseConfig, "optim.learning_rate=3", "optim.lr"),
        (EvaluateConfig, "metrics=tau", "tasks"),
        (EvaluateConfig, "lr=3", "learning_rate"),
        (EvaluateConfig, "stride=3", "tau_stride or retrieval_stride"),
    ],
)
def test_other_names_and_groups_are_suggested(config, word, wanted):
    with pytest.raises(UsageError) as told:
        apply_overrides(config(), [word], root="x")
    assert f": no such field, did you mean {wanted}? (has " in str(told.value)


@pytest.mark.parametrize(
    ("dataset", "word"), [("finegym", "classes=288"), ("sample", "train=2"), ("pouring", "pack=no")]
)
def test_a_key_of_the_data_set_without_data_is_told_apart(dataset, word, tmp_path):
    with pytest.raises(UsageError) as told:
        read_words(dataset, [word], root=tmp_path)
    assert f"did you mean data.{word}? It is a key of {dataset}" in str(told.value)


@pytest.mark.parametrize("words", ["protocol=crl", "protocol=", "protocol=carl,crl"])
def test_a_protocol_is_chosen_of_those_there_are(words):
    with pytest.raises(
        UsageError, match=r"^evaluate\.protocol: choose carl, tcc, finegym, tags, act"
    ):
        apply_overrides(EvaluateConfig(), [words], root="evaluate")


@pytest.mark.parametrize(
    ("config", "word", "key"),
    [
        (EvaluateConfig, "ks=", "ks"),
        (EvaluateConfig, "shots=", "shots"),
        (ExtractConfig, "blocks=", "blocks"),
        (FuseConfig, "pooling.blocks=", "pooling.blocks"),
    ],
)
def test_a_list_of_nothing_is_refused_in_plain_words(config, word, key):
    with pytest.raises(UsageError) as told:
        apply_overrides(config(), [word], root="x")
    assert str(told.value).startswith(f"x.{key}: ")
    assert "Tuple should" not in str(told.value)
