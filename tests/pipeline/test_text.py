"""Text for people: control characters, tables, words of GPUs."""

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import parse_bytes
from tokenreel.pipeline.text import format_table, on_one_line, require_gpus


def test_no_character_of_a_name_ends_a_line():
    assert on_one_line("a\u2028b\u2029c\ud800d\te") == "a\\u2028b\\u2029c\\ud800d\\te"


def test_a_column_of_numbers_is_to_the_right_and_one_of_both_to_the_left():
    assert format_table(["n", "x"], [[1, 2.5], [100, "-"]]) == "  n  x\n  1  2.5\n100  -"
    assert format_table(["n", "x"], []) == "n  x"
    assert format_table(["n"], [[0.123456]]) == "     n\n0.1235"


@pytest.mark.parametrize("word", ["0", "", "00", "cpu,0", "-1", "a", "1.5"])
def test_words_that_name_no_gpus_are_refused(word):
    with pytest.raises(UsageError, match="--gpus is all, how many, or numbers"):
        require_gpus(word)


@pytest.mark.parametrize("word", ["all", "2", "01", "0,1", "1,", "cpu", "cpu,cpu"])
def test_words_that_name_gpus_are_taken(word):
    assert require_gpus(word) == word


def test_sizes_are_in_thousands_in_either_case():
    sizes = [parse_bytes(text) for text in ("2k", " 1.5 KB ", "7", "3Tb")]
    assert sizes == [2000, 1500, 7, 3 * 10**12]
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes("0GB")
    assert parse_bytes("0", option="--cache-bytes", least=0) == 0
    with pytest.raises(UsageError, match=r"^--cache-bytes '9999999T' is not a size such as 2GB"):
        parse_bytes("9999999T", option="--cache-bytes", least=0)
