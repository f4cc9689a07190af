"""`key=value` words: what they set, and what they are told when they are wrong."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tokenreel.cache.codec import codec_identity
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.fuse.config import FixedWidthConfig, FuseConfig, LavConfig, LstpConfig, MaxConfig
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.override import apply_overrides, expand_grid
from tokenreel.pipeline.phases.extraction import configure_extraction, data_options
from tokenreel.pipeline.phases.training import apply_words
from tokenreel.pipeline.recipes.extraction import extraction_for


class Pooling(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    num_entities: int = Field(default=3, gt=0)
    blocks: tuple[int, ...] = (3, 7, 11)


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int = 0
    name: Literal["a", "b"] = "a"
    fps: float | None = None
    weights: str = "pretrained"
    pooling: Pooling = Pooling()


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("seed=7", "seed", 7),
        ("fps=25", "fps", 25.0),
        ("fps=null", "fps", None),
        ("weights=random:0", "weights", "random:0"),
        ("name=b", "name", "b"),
    ],
)
def test_a_word_sets_its_field(word, field, value):
    assert getattr(apply_overrides(Config(), [word], root="fuse"), field) == value


@pytest.mark.parametrize("text", ["9,10,11", "[9,10,11]"])
def test_a_sequence_may_be_written_with_commas_or_as_json(text):
    config = apply_overrides(Config(), [f"pooling.blocks={text}"], root="fuse")
    assert config.pooling.blocks == (9, 10, 11)


def test_a_sequence_of_one_needs_no_comma():
    assert apply_overrides(Config(), ["pooling.blocks=11"], root="fuse").pooling.blocks == (11,)


def test_the_config_given_is_not_changed():
    config = Config()
    apply_overrides(config, ["pooling.num_entities=6"], root="fuse")
    assert config == Config()


@pytest.mark.parametrize(
    ("word", "words_of_error"),
    [
        ("pooling.num_entitis=3", r"fuse\.pooling\.num_entitis: no such field, did you mean num_e"),
        ("sed=3", r"fuse\.sed: no such field, did you mean seed\?"),
        ("seed", "'seed' is not key=value"),
        ("seed=many", r"fuse\.seed: Input should be a valid integer.*got 'many'"),
        ("name=c", r"fuse\.name: Input should be 'a' or 'b', got 'c'"),
        ("pooling.num_entities=0", r"fuse\.pooling\.num_entities: .*greater than 0, got 0"),
        ("pooling=3", r"fuse\.pooling is a group of fields: set one of num_entities, blocks"),
        ("seed.low=3", r"fuse\.seed has no fields"),
    ],
)
def test_a_wrong_word_is_told_what_is_wrong(word, words_of_error):
    with pytest.raises(UsageError, match=words_of_error):
        apply_overrides(Config(), [word], root="fuse")


def test_a_loss_is_chosen_by_its_name_wherever_the_word_is():
    words = ["loss.gamma=0.5", "loss.name=lav"]
    config = apply_overrides(FuseConfig(), words, root="fuse")

    assert config.loss == LavConfig(gamma=0.5)
    again = apply_overrides(config, ["loss.name=lav", "loss.margin=1"], root="fuse")
    assert again.loss == LavConfig(gamma=0.5, margin=1)


def test_a_grid_is_split_wherever_its_field_is():
    one = ("loss.gamma=0.1,1", ["loss.gamma=0.1", "loss.gamma=1"])  # a field of LAV, not of SCL
    lists = ("sal.hidden=8,4/16,8", ["sal.hidden=8,4/16,8"])  # no such field
    of_lists = ("loss.hidden=8,4/16,8", ["loss.hidden=8,4", "loss.hidden=16,8"])  # of SaL
    blocks = ("pooling.blocks=[3, 7], [11]", ["pooling.blocks=[3, 7]", "pooling.blocks=[11]"])
    truth = ("pooling.disjoint=true,false", ["pooling.disjoint=true", "pooling.disjoint=false"])
    for word, words in (one, lists, of_lists, blocks, truth):
        assert expand_grid(FuseConfig(), word) == words


def test_a_field_of_another_loss_and_an_unknown_loss_are_refused():
    told = r"fuse.loss.gamma: no such field of name=scl, but of name=lav"
    with pytest.raises(UsageError, match=told):
        apply_overrides(FuseConfig(), ["loss.gamma=0.5"], root="fuse")
    with pytest.raises(UsageError, match=r"fuse.loss.name: no loss 'tccc', did you mean tcc\?"):
        apply_overrides(FuseConfig(), ["loss.name=tccc"], root="fuse")


def test_a_value_of_a_loss_is_told_by_the_name_that_is_typed():
    with pytest.raises(UsageError, match=r"^fuse\.loss\.temperature: Input should be greater"):
        apply_overrides(FuseConfig(), ["loss.temperature=0"], root="fuse")


def test_fields_that_do_not_fit_together_are_told_without_all_the_others():
    with pytest.raises(UsageError) as told:
        apply_overrides(FuseConfig(), ["pooling.kind=grid"], root="fuse")
    assert str(told.value) == (
        "fuse: temporal.kind=transformer with pooling.kind=grid: conv3d convolves over the grid "
        "that pooling.kind=grid leaves whole"
    )


@pytest.mark.parametrize(
    ("words", "words_of_error"),
    [
        (
            ["pooling.kind=mean", "pooling.num_entities=7"],
            r"^fuse\.pooling\.num_entities: no such field of kind=mean, but of kind=lstp, k",
        ),
        (
            ["pooling.kind=cls", "augment.crop=.5"],
            r"^fuse: augment changes tokens \(crop 0\.5\), pooling\.kind=cls pools none: set a",
        ),
        (["pooling.kind=meen"], r"no pooling 'meen', did you mean mean\? \(there is: lstp, mean"),
        (["pooling.num_entitis=3"], r"num_entitis: no such field, did you mean num_entities\?"),
        (
            ["pooling.num_entities=17"],
            r"^fuse\.pooling\.num_entities: Input should be less.*got 17",
        ),
        (["pooling.num_entities=0"], r"^fuse\.pooling: no entities: set num_entities, or num_d"),
    ],
)
def test_a_field_of_another_pooling_is_refused(words, words_of_error):
    with pytest.raises(UsageError, match=words_of_error):
        apply_overrides(FuseConfig(), words, root="fuse")


def test_another_kind_keeps_the_fields_that_both_have_from_a_common_base():
    config = FuseConfig(pooling=LstpConfig(blocks=(3,), num_entities=5, num_dynamic=2))
    for kind, wanted in (
        ("max", MaxConfig(blocks=(3,))),
        ("fixed_width", FixedWidthConfig(num_entities=5)),
        ("lstp", config.pooling),
    ):
        assert apply_overrides(config, [f"pooling.kind={kind}"], root="fuse").pooling == wanted


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("fuse.sed=3", r"did you mean seed\?"),
        ("fuse.num_entities=3", r"did you mean pooling\.num_entities\?"),
        ("fuse.pooling.num_entities=3", r"write pooling\.num_entities"),
    ],
)
def test_a_key_as_errors_name_it_is_told_how_to_write_it(word, meant):
    with pytest.raises(UsageError, match=meant):
        apply_overrides(Config(), [word], root="fuse")


@pytest.mark.parametrize(
    ("read", "words", "key"),
    [
        (lambda words: configure_extraction(extraction_for("folder"), words), "fps=5 fps=6", "fps"),
        (lambda words: configure_extraction(extraction_for("folder"), words), "fps=5 fps=", "fps"),
        (data_options, "data.classes=99 fps=1 data.classes=288", "classes"),
        (data_options, "data.picture_fps=10 picture_fps=12", "picture_fps"),
        (lambda words: apply_words("sample", words), "loss.name=tcc loss.name=scl", "loss.name"),
        (lambda words: apply_words("sample", words), "optim.lr=1 seed=1 optim.lr=2", "optim.lr"),
        (lambda words: apply_overrides(EvaluateConfig(), words, root="x"), "ks=1 ks=5,10", "ks"),
    ],
)
def test_a_key_with_two_values_is_refused_naming_both(read, words, key):
    first, *_, last = [word for word in words.split() if f"{key}=" in word]
    with pytest.raises(UsageError, match=f"{first} and {last}: {key} is given twice"):
        read(words.split())
    read([word for word in words.split() if word != last] + [first])  # one value, said twice


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000])
def test_what_is_no_whole_number_of_a_word_is_refused_by_one_sentence(text, tmp_path):
    for read in (
        lambda: load_dataset("sample", tmp_path, {"train": text}),
        lambda: codec_identity(f"pca:{text}+int8"),
        lambda: configure_extraction(extraction_for("folder"), [f"frames=uniform:{text}"]),
        lambda: load_dataset("mmx", tmp_path, {"split_seed": text}),
    ):
        with pytest.raises(UsageError):
            read()
