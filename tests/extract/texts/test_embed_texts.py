"""Texts of clips as vectors: what is encoded, counted and refused."""

import json

import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.text_file import read_text_file
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.texts.config import TextConfig
from tokenreel.extract.texts.embed_texts import embed_texts
from tokenreel.extract.texts.encoders import load_encoder

WORDS = TextConfig(encoder="hashed-words")


def manifest(root, *clips):
    return Manifest("mine", root, tuple(Clip(name, f"{name}.mp4") for name in clips))


def write(path, *lines):
    keys = ("clip", "prompt", "text", "model")
    rows = [
        line if isinstance(line, dict) else dict(zip(keys, line, strict=False)) for line in lines
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_clip_and_prompt_has_the_vector_of_its_text(tmp_path):
    path = write(
        tmp_path / "t.jsonl",
        ("b", "A", "pour tea", "m"),
        ("a", "A", "lift a box", "m"),
        ("a", "D", "pour tea", "m"),
    )
    report = embed_texts(manifest(tmp_path, "b", "a"), path, WORDS)
    file = read_text_file(tmp_path / "t-hashed-words.h5")
    assert report.out == file.path
    assert (file.clip_ids, file.prompts, file.texts) == (
        ("a", "b"),
        ("A", "D"),
        ("lift a box", "pour tea"),
    )
    assert file.rows.tolist() == [[0, 1], [1, -1]]
    (tea,) = load_encoder("hashed-words").encode(["pour tea"])
    assert (file.pooled[file.rows_of("A", ["b"])] == tea.pooled).all()
    assert (file.encoder, file.models, file.has_tokens) == ("hashed-words", ("m",), False)
    assert report.missing == {"D": ["b"]}
    assert file.provenance["counts"]["missing"] == {"D": 1}
    assert report.lines() == ["prompt D: 1 of 2 clips have no text, such as b"]


def test_tokens_are_kept_on_request(tmp_path):
    path = write(tmp_path / "t.jsonl", ("a", "A", "pour tea"), ("b", "A", "one two three"))
    config = WORDS.model_copy(update={"tokens": True})
    file = read_text_file(embed_texts(manifest(tmp_path, "a", "b"), path, config).out)
    vectors, mask = file.tokens_of(file.rows_of("A", ["a", "b"]))
    assert mask.tolist() == [[True, True, False], [True] * 3]
    wanted = {each.place: each.tokens for each in load_encoder("hashed-words").encode(file.texts)}
    assert np.abs(vectors[0, :2] - wanted[1]).max() == 0
    assert file.models == ("",)


def test_long_repeated_foreign_and_ended_texts_are_counted(tmp_path):
    path = write(
        tmp_path / "t.jsonl",
        ("a", "A", "word " * 10_000),
        ("a", "B", "\u043d\u0430\u043b\u0438\u0432\u0430\u0435\u0442 \u0447\u0430\u0439"),
        ("a", "C", "tea"),
        ("a", "C", "tea"),
        ("a.mp4", "D", "by the name of its video"),
        ("elsewhere", "A", "tea"),
        {"clip": "b", "prompt": "A", "text": "ended", "is_cut": True},
    )
    report = embed_texts(manifest(tmp_path, "a", "b"), path, WORDS)
    counts = read_text_file(report.out).provenance["counts"]
    assert counts == {
        "clips": 2,
        "texts": 5,
        "missing": {"B": 1, "C": 1, "D": 1},
        "clips_of_others": 1,
        "repeated": 1,
        "ended_by_model": 1,
        "cut": 1,
        "not_latin": 1,
    }
    text = "\n".join(report.lines())
    for words in (
        "1 clips of the texts are not of this data set, such as elsewhere",
        "1 lines repeat another",
        "1 texts were ended by their model",
        "1 texts are longer than the encoder takes: their ends are cut: 'word",
        "1 texts are in another script than Latin",
    ):
        assert words in text


def test_a_cut_text_has_the_vector_of_its_beginning():
    encoder = load_encoder("hashed-words", max_tokens=2)
    long, short = encoder.encode(["pour tea slowly", "pour tea"])
    assert (long.pooled == short.pooled).all()
    assert (long.is_cut, short.is_cut) == (True, False)


TWICE = [("a", "A", "tea"), ("a", "B", "x"), ("a", "A", "coffee")]
FRAMES = [{"clip": "a", "prompt": "A", "text": f"{n}", "times_seconds": [0] * n} for n in (3, 5)]
PICTURES = [{"clip": "a", "prompt": "A", "text": p, "picture": p} for p in "xy"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (TWICE, "t.jsonl:1 and :3: clip a, prompt A is 'tea' and 'coffee': remove one"),
        (FRAMES, "of 3 and 5 key frames: keep a file for each number"),
        (PICTURES, "of two pictures of the clip"),
        ([("a", "A", "x", "m"), ("a", "B", "y")], r"texts of 2 models, unknown \(1\), m \(1\)"),
        ([("z", "A", "x")], r"none of its texts is of a clip of mine: they are of 'z'"),
        ([("a", "A", "  ")], "t.jsonl:1: text is missing or empty"),
        ([], "none of its texts"),
    ],
)
def test_texts_that_contradict_or_say_nothing_are_refused(tmp_path, lines, reason):
    path = write(tmp_path / "t.jsonl", *lines)
    with pytest.raises(UsageError, match=reason):
        embed_texts(manifest(tmp_path, "a"), path, WORDS)
    assert list(tmp_path.iterdir()) == [path]


def test_one_of_several_models_is_chosen_by_its_name(tmp_path):
    path = write(tmp_path / "t.jsonl", ("a", "A", "x", "m"), ("a", "A", "y", "n"))
    chosen = WORDS.model_copy(update={"model": "n"})
    file = read_text_file(embed_texts(manifest(tmp_path, "a"), path, chosen).out)
    assert (file.texts, file.models) == (("y",), ("n",))
    with pytest.raises(UsageError, match=r"model=o: .* has texts of m, n"):
        embed_texts(manifest(tmp_path, "a"), path, WORDS.model_copy(update={"model": "o"}))


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    path = write(tmp_path / "t.jsonl", ("a", "A", "x"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists and is no file of text vectors"):
        embed_texts(manifest(tmp_path, "a"), path, WORDS, out=path)
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="is a folder"):
        embed_texts(manifest(tmp_path, "a"), path, WORDS, out=tmp_path)
    out = embed_texts(manifest(tmp_path, "a"), path, WORDS, out=tmp_path / "x.h5").out
    embed_texts(manifest(tmp_path, "a"), path, WORDS, out=out)
