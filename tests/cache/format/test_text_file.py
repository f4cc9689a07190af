"""The file of text vectors: written, read, refused."""

import h5py
import numpy as np
import pytest

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.embeddings import BLOCK, sum_after_block
from tokenreel.cache.errors import EmbeddingFileError, UsageError
from tokenreel.cache.format.text_file import MAGIC, read_text_file, write_text_file

POOLED = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
ROWS = np.array([[0, 2], [1, -1], [0, -1]])
TOKENS = [np.full((count, 4), count, np.float32) for count in (1, 3, 2)]
PROVENANCE = {"encoder": {"name": "e", "sha256": "ab" * 32}, "models": ["m"], "counts": {"cut": 0}}


def write(path, **changes):
    values = {
        "clip_ids": ["a", "b", "c"],
        "prompts": ["A", "D"],
        "texts": ["pour", "lift", "in a kitchen"],
        "pooled": POOLED,
        "rows": ROWS,
        "tokens": TOKENS,
        "provenance": PROVENANCE,
    }
    return write_text_file(path, **(values | changes))


@pytest.fixture
def file(tmp_path):
    return read_text_file(write(tmp_path / "new" / "t.h5"))


def test_what_is_written_is_read(file):
    assert (file.clip_ids, file.prompts) == (("a", "b", "c"), ("A", "D"))
    assert file.texts == ("pour", "lift", "in a kitchen")
    assert (file.pooled == POOLED).all()
    assert (file.rows == ROWS).all()
    assert (file.encoder, file.encoder_sha256, file.models) == ("e", "ab" * 32, ("m",))
    assert file.provenance == PROVENANCE
    assert (file.dim, file.has_tokens) == (2, True)


def test_clips_of_one_text_have_one_row_and_a_missing_text_is_minus_1(file):
    assert file.rows_of("A", ["c", "b", "a", "x"]).tolist() == [0, 1, 0, -1]
    assert file.rows_of("D", ["a", "b"]).tolist() == [2, -1]
    assert file.missing(["a", "b", "x"]) == {"A": ["x"], "D": ["b", "x"]}
    assert file.missing(["a"], ["A", "D"]) == {}
    with pytest.raises(UsageError, match=r"no texts of prompt 'B' \(it has A, D\)"):
        file.rows_of("B", ["a"])


def test_tokens_are_padded_with_their_mask(file):
    vectors, mask = file.tokens_of([2, 0])
    assert vectors.tolist() == [[[2] * 4] * 2, [[1] * 4, [0] * 4]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert file.tokens_of([])[0].shape == (0, 0, 4)
    with pytest.raises(UsageError, match="missing"):
        file.tokens_of([0, -1])


def test_a_file_without_tokens_says_how_to_get_them(tmp_path):
    file = read_text_file(write(tmp_path / "t.h5", tokens=None))
    assert not file.has_tokens
    with pytest.raises(UsageError, match="tokens=true"):
        file.tokens_of([0])


def test_texts_of_another_encoder_are_refused_by_name(file):
    file.require_encoder("e")
    file.require_encoder("e", "ab" * 32)
    with pytest.raises(UsageError, match=r"the encoder e \(abababababab\), wanted minilm"):
        file.require_encoder("minilm")
    with pytest.raises(UsageError, match=r"wanted e \(cdcdcdcdcdcd\)"):
        file.require_encoder("e", "cd" * 32)


def test_the_same_texts_give_the_same_bytes_and_another_file_another_sum(tmp_path):
    one, two, other = (tmp_path / name for name in ("1.h5", "2.h5", "3.h5"))
    write(one), write(two), write(other, pooled=POOLED * 2)
    assert one.read_bytes() == two.read_bytes()
    assert read_text_file(one).sha256 == read_text_file(two).sha256 != read_text_file(other).sha256


def test_every_flipped_or_lost_byte_is_noticed(tmp_path):
    data = write(tmp_path / "t.h5").read_bytes()
    rng = np.random.default_rng(0)
    places = {*rng.integers(len(MAGIC) + 64, len(data), 40).tolist(), 0, 30, BLOCK, len(data) - 1}
    for place in places - set(range(len(MAGIC) + 64, BLOCK)):  # of zeros that mean nothing
        broken = bytearray(data)
        broken[place] ^= 1
        (tmp_path / "b.h5").write_bytes(broken)
        with pytest.raises(EmbeddingFileError, match=r"torn or damaged|not a file of text vectors"):
            read_text_file(tmp_path / "b.h5")
    (tmp_path / "b.h5").write_bytes(data[:-1])
    with pytest.raises(EmbeddingFileError, match="torn or damaged"):
        read_text_file(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no such file of text vectors"),
        (b'{"clip": "a"}', "looks like texts, which `extract text` reads"),
        (b"tokenreel-embeddings sha256 ", "was not made by `extract text`"),
        (b"", "was not made by"),
    ],
)
def test_another_file_is_refused_with_what_it_is(tmp_path, data, reason):
    if data is not None:
        (tmp_path / "t.h5").write_bytes(data)
    with pytest.raises(EmbeddingFileError, match=reason):
        read_text_file(tmp_path / "t.h5")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clip_ids": ["a", "a", "b"]}, "clip_id has an empty or a repeated value"),
        ({"texts": ["x", "", "y"]}, "texts has an empty"),
        ({"prompts": []}, "prompts is empty"),
        ({"pooled": POOLED[:2]}, r"pooled is \(2, 2\) for 3 texts"),
        ({"pooled": POOLED[:, :0]}, r"pooled is \(3, 0\)"),
        ({"pooled": np.where(POOLED == 1, np.nan, POOLED)}, "NaN"),
        ({"rows": ROWS[:2]}, r"rows is \(2, 2\) for 3 clips"),
        ({"rows": ROWS + 1}, "rows go from 0 to 3 for 3 texts"),
        ({"rows": ROWS - 1}, "rows go from -2"),
        ({"tokens": TOKENS[:2]}, r"token_counts is \(2,\)"),
        ({"tokens": [*TOKENS[:2], TOKENS[0][:0]]}, "tokens is"),
        ({"tokens": [each * 1e5 for each in TOKENS]}, "tokens has NaN or infinity"),
        ({"provenance": {"models": []}}, "names no encoder"),
        ({"provenance": {"encoder": {"name": "e", "sha256": "a"}}}, "no models"),
    ],
)
def test_what_does_not_fit_is_not_written_and_leaves_the_former_file(tmp_path, changes, reason):
    path = write(tmp_path / "t.h5")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=reason):
        write(path, **changes)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("rows", np.full((3, 2), 9), "rows go from 9"),
        ("rows", np.zeros((3, 2)), "rows is"),
        ("pooled", None, "no array 'pooled'"),
        ("provenance", [canonical_json({"models": []}).decode()], "names no encoder"),
        ("provenance", ["{"], "JSON"),
        ("tokens", None, "tokens and token_counts go together"),
        ("tokens", np.zeros((5, 4), np.float16), r"tokens is \(5, 4\) for token_counts of 6"),
        ("token_counts", np.array([1.0, 3.0, 2.0]), r"token_counts is \(3,\) for 3 texts"),
        ("version", 2, "not version 1 of the file of text vectors, but 2"),
    ],
)
def test_a_file_with_a_right_sum_and_wrong_contents_is_refused(tmp_path, name, value, reason):
    path = write(tmp_path / "t.h5")
    with h5py.File(path, "r+") as file:
        contents = file.attrs if name == "version" else file
        del contents[name]
        if value is not None:
            contents[name] = value
    with path.open("r+b") as handle:
        handle.write(MAGIC + sum_after_block(path))
    with pytest.raises(EmbeddingFileError, match=reason):
        read_text_file(path)
