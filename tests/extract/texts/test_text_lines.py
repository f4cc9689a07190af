"""The file of texts: lines of JSON of our own or of others, one cut off by a kill with them."""

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.extract.texts.text_lines import (
    TextLine,
    read_numbered_lines,
    read_text_lines,
    whole_text_lines,
)

LINE = TextLine("a/1", "A", "pour\u2028tea", "m", "what?", "ab", (0.5, 1.0), is_cut=True)


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_line_is_read_as_it_was_written(tmp_path):
    data = LINE.json()
    assert (data.count(b"\n"), data.isascii()) == (1, True)
    assert read_text_lines(write(tmp_path / "t.jsonl", data * 2)) == [LINE, LINE]


def test_lines_of_others_need_a_clip_a_prompt_and_a_text(tmp_path):
    data = (
        b'{"video": "v.mp4", "prompt": "A", "text": "x"}\n\n{"clip":"b","prompt":"B","text":"y"}\n'
    )
    lines = read_text_lines(write(tmp_path / "t.jsonl", data))
    assert lines == [TextLine("v.mp4", "A", "x"), TextLine("b", "B", "y")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"clip": "a", "prompt": "A"}', "t.jsonl:2: text is missing or empty"),
        (b'{"clip": "a", "prompt": "A", "text": ""}', "text is missing or empty"),
        (b'{"clip": "a", "prompt": "A", "text": 3}', "text is 3, not a text"),
        (b'{"clip": "a", "prompt": "A", "text": "x", "txt": 1}', "unknown key 'txt'"),
        (b'{"clip": "a", "video": "a", "prompt": "A", "text": "x"}', "unknown key 'video'"),
        (b'{"clip": "a", "prompt": "A", "text": "x", "is_cut": 1}', "not true or false"),
        (b'{"clip": "a", "prompt": "A", "text": "x", "times_seconds": [true]}', "not numbers"),
        (b"[]", "a line is an object"),
        (b"\xff", "not UTF-8"),
        (b'{"clip": "a"', "not JSON"),
        (b'{"clip": "a", "text": "' + b"x" * 2**20 + b'"}', "longer than"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, reason):
    path = write(tmp_path / "t.jsonl", LINE.json() + line + b"\n")
    for read in (read_text_lines, whole_text_lines):
        with pytest.raises(UsageError, match=reason):
            read(path)


def test_a_table_of_texts_is_read_as_lines(tmp_path):
    data = b'video;prompt;text\r\na.mp4;A;"pour; tea"\r\nb.mp4;A;lift\r\n'
    lines = read_numbered_lines(write(tmp_path / "t.csv", data))
    assert lines == [(2, TextLine("a.mp4", "A", "pour; tea")), (3, TextLine("b.mp4", "A", "lift"))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"clip,prompt\na,A\n", r"t\.csv:1: no column 'text'"),
        (b"clip,prompt,text,colour\na,A,x,y\n", "unknown column 'colour'"),
        (b"clip,prompt,text\na,A,\n", r"t\.csv:2: text is empty"),
    ],
)
def test_a_wrong_table_of_texts_is_named(tmp_path, data, reason):
    with pytest.raises(UsageError, match=reason):
        read_numbered_lines(write(tmp_path / "t.csv", data))


def test_a_line_that_was_cut_off_is_no_text_and_is_told_to_readers(tmp_path):
    data = LINE.json()
    for size in range(1, len(data)):
        path = write(tmp_path / "t.jsonl", data + data[:size])
        assert whole_text_lines(path) == ([LINE], size)
    with pytest.raises(UsageError, match="its last line is cut off"):
        read_text_lines(path)


def test_no_file_has_no_lines_yet(tmp_path):
    assert whole_text_lines(tmp_path / "t.jsonl") == ([], 0)
    with pytest.raises(UsageError, match="No such file"):
        read_text_lines(tmp_path / "t.jsonl")
