"""Tables as spreadsheets save them: read as meant, or refused with line, cell and remedy."""

import codecs
import os
import random
from pathlib import Path

import pytest

from tests.memory import require_memory
from tokenreel.cache.csv_tables import Comments, Table, read_lines, read_table
from tokenreel.cache.errors import UsageError

PLAIN = 'video,start_seconds,phase\na.mp4,0,reach\n"b, c.mp4",1.5,caf\u00e9\n'
CELLS = [("a.mp4", "0", "reach"), ("b, c.mp4", "1.5", "caf\u00e9")]
COLUMNS = ("video", "start_seconds", "phase")


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(tmp_path, content, **options):
    return list(read_table(write(tmp_path, content), required=COLUMNS, **options))


def cells(lines):
    return [tuple(line.cells[name] for name in COLUMNS) for line in lines]


def with_separator(separator):
    return PLAIN.replace(",", separator).replace(f'"b{separator} c', '"b, c')


SPREADSHEETS = {
    "UTF-8": PLAIN.encode(),
    "Excel: UTF-8 with a mark": codecs.BOM_UTF8 + PLAIN.replace("\n", "\r\n").encode(),
    "Excel: UTF-16 with tabs": PLAIN.replace(",", "\t")
    .replace('"b\t c.mp4"', "b, c.mp4")
    .replace("\n", "\r\n")
    .encode("utf-16"),
    "UTF-16 of the other byte order": codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
    "Excel in Europe: semicolons": with_separator(";").replace("\n", "\r\n").encode("utf-8-sig"),
    "tabs": with_separator("\t").encode(),
    "old Macintosh: CR": PLAIN.replace("\n", "\r").encode(),
    "no end of the last line": PLAIN.rstrip("\n").encode(),
    "every cell in quotes": (
        b'"video","start_seconds","phase"\n"a.mp4","0","reach"\n"b, c.mp4","1.5","caf\xc3\xa9"\n'
    ),
    "a line that names the separator": ("sep=;\r\n" + with_separator(";")).encode("utf-8-sig"),
    "rows without text": PLAIN.replace("\na", "\n,,\n\na").encode() + b",,\n\n , ,\n,\n",
    "columns without a name": b"video,start_seconds,phase,,\na.mp4,0,reach,,\n"
    b'"b, c.mp4",1.5,caf\xc3\xa9,,\n',
    "spaces around cells": b"video , start_seconds,phase\na.mp4, 0,reach \n"
    b'"b, c.mp4" ,1.5,caf\xc3\xa9'.replace(b'" ,', b'",'),
    "columns in another order": (
        b'phase,video,start_seconds\nreach,a.mp4,0\ncaf\xc3\xa9,"b, c.mp4",1.5\n'
    ),
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_a_table_is_read_as_it_was_meant(tmp_path, name):
    assert cells(read(tmp_path, SPREADSHEETS[name])) == CELLS


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    lines = read(
        tmp_path, "video,start_seconds,phase\n\n# none\na,0,x\n,,\nb,1,y\n", comments=Comments()
    )
    assert [line.where for line in lines] == ["t.csv:4", "t.csv:6"]
    lines = read(tmp_path, 'video,start_seconds,phase\r\n"a\r\nb",0,x\r\nc,1,y\r\n')
    assert [(line.where, line.cells["video"]) for line in lines] == [
        ("t.csv:2", "a\r\nb"),
        ("t.csv:4", "c"),
    ]


@pytest.mark.parametrize(
    "text",
    ["=1+1", "'a", "+1", "-2", "@x", "a\nb", 'a"b', "a\u2028b", "a\x85b", "\u00e9", "0,5;\tx"],
)
def test_text_of_a_cell_is_never_changed(tmp_path, text):
    quoted = text.replace('"', '""')
    lines = read(tmp_path, f'video,start_seconds,phase\n"{quoted}",0,1\nlast,0,1\n')
    assert [line.cells["video"] for line in lines] == [text, "last"]


def test_lines_of_comments_are_rows_where_the_table_has_no_comments(tmp_path):
    rows = "video,start_seconds,phase\n#1.mp4,0,x\n"
    assert cells(read(tmp_path, rows)) == [("#1.mp4", "0", "x")]
    assert read(tmp_path, rows, comments=Comments()) == []


def test_a_name_that_begins_with_a_number_sign_is_no_comment(tmp_path):
    head = "video,start_seconds,phase\n"
    rows = head + "# a, b and c\n#1.mp4,0,x\n#2.mp4,0,x\n#cafe\u0301.mp4,0,x\n#1.mp4\n#3.mp4,1,y\n"
    comments = Comments({"#1.mp4", "#caf\u00e9.mp4"})
    assert [row[0] for row in cells(read(tmp_path, rows, comments=comments))] == [
        "#1.mp4",
        "#cafe\u0301.mp4",
    ]
    assert comments.rows == ["t.csv:4", "t.csv:7"]
    assert comments.notes() == ["t.csv:4 begins with #, as 1 more: a comment, no row is made of it"]
    both = Comments({"#1.mp4", "1.mp4"})
    with pytest.raises(UsageError, match=r"t\.csv:2: '#1\.mp4' is a name, or '1\.mp4' in a com"):
        read(tmp_path, head + "#1.mp4,0,x\n", comments=both)


REFUSED = {  # what is wrong -> (content, words of the message)
    "Latin-1": (
        PLAIN.encode("latin-1"),
        r"t\.csv:3: not UTF-8 text: byte 19 of the line is 0xE9 "
        r"\('\u00e9' in Latin-1\); save it as UTF-8 \(in a spreadsheet: CSV UTF-8\)",
    ),
    "Latin-1 in the header": (
        b"vid\xe9o\n",
        r"t\.csv:1: not UTF-8 text: byte 4 of the line is 0xE9",
    ),
    "Latin-1 behind letters of two bytes": (
        "video\n\u00e9".encode() + b"\xe9\n",
        r"t\.csv:2: not UTF-8 text: byte 3 of the line is 0xE9",
    ),
    "Windows-1252": (
        b"video\r\n\x93a\x94\r\n",
        r"t\.csv:2: not UTF-8 text: byte 1 .* is 0x93; save",
    ),
    "a letter that is cut": (PLAIN.encode().rstrip()[:-1], r"t\.csv:3: not UTF-8 text: byte 19"),
    "half of a UTF-16 letter": (
        PLAIN.encode("utf-16")[:-1],
        r"t\.csv:3: not UTF-16 text: byte 39 of the line is 0x0A",
    ),
    "UTF-16 without its mark": (
        PLAIN.encode("utf-16-le").replace("\u00e9".encode("utf-16-le"), b"e\0"),
        r"t\.csv:1: character 2 of the line is NUL: not text, or UTF-16 without its mark",
    ),
    "UTF-32": (PLAIN.encode("utf-32"), r"t\.csv:1: character 1 of the line is NUL"),
    "a NUL byte": (PLAIN.replace("reach", "re\0ach"), r"t\.csv:2: character 11 of the line is NUL"),
    "nothing": (b"", r"t\.csv: empty, its first line is video,start_seconds,phase"),
    "a mark and nothing": (codecs.BOM_UTF8, r"t\.csv: empty"),
    "line ends only": (b"\r\n\r\n", r"t\.csv: empty"),
    "too many cells": (
        PLAIN + "d,1,2,extra\n",
        r"t\.csv:4: 4 cells where the header has 3, parted by commas: 'd,1,2,extra'; cell 4 is "
        r"'extra': write quotes around",
    ),
    "too few cells": (
        PLAIN + "d,1\n",
        r"t\.csv:4: 2 cells where the header has 3, parted by commas: 'd,1'; "
        "there is none for phase",
    ),
    "an empty cell too many": (PLAIN + "d,1,2,\n", r"t\.csv:4: 4 cells where the header has 3"),
    "text below a column without a name": (
        "video,start_seconds,phase,\na,0,1,note\n",
        r"t\.csv:2: 4 cells where the header has 3, .* cell 4 is 'note'",
    ),
    "decimal commas among commas": (
        "video,start_seconds,phase\na,1,5,reach\n",
        r"t\.csv:2: 4 cells .*, and a decimal point for a decimal comma",
    ),
    "too many cells among semicolons": (
        "video;start_seconds;phase\na;1;x;y\n",
        r"t\.csv:2: 4 cells where the header has 3, parted by semicolons: 'a;1;x;y'",
    ),
    "another separator in one line": (
        "video;start_seconds;phase\na,1,x\n",
        r"t\.csv:2: 1 cells where the header has 3, parted by semicolons: 'a,1,x'",
    ),
    "another separator than a spreadsheet's": (
        "video|start_seconds|phase\na|1|x\n",
        r"t\.csv:1: no column video; .* parted by commas, semicolons or tabs, here "
        r"'video\|start_seconds\|phase",
    ),
    "a column twice": (
        "video,phase,start_seconds,phase\na,0,1,2\n",
        r"t\.csv:1: the column 'phase' is listed twice",
    ),
    "no header": (
        "a.mp4,0,0\nb.mp4,0,1\n",
        r"t\.csv:1: no header: the first line is video,start_seconds,phase, here 'a\.mp4,0,0'",
    ),
    "an unknown column": (
        "video,start_seconds,phase,fase\na,0,1,2\n",
        r"t\.csv:1: unknown column 'fase', did you mean phase\?",
    ),
    "a column without a name among others": (
        "video,,start_seconds,phase\na,0,1,2\n",
        r"t\.csv:1: unknown column ''",
    ),
    "a missing column": (
        "video,phase\na,0\n",
        r"t\.csv:1: no column start_seconds; the columns are",
    ),
    "a missing column below the separator's line": (
        "sep=;\nvideo;phase\n",
        r"t\.csv:2: no column start",
    ),
    "a quote left open": (
        'video,start_seconds,phase\na,0,1\n"b,1,2\nc,1,2\n',
        r"t\.csv:3: not CSV \(unexpected end of data\): is a quote left open\?",
    ),
    "text behind a quote": (
        'video,start_seconds,phase\n"a"b,0,1\n',
        r"t\.csv:2: not CSV",
    ),
    "a cell of a megabyte": (
        "video,start_seconds,phase\n" + "a" * 2**20 + ",0,1\n",
        r"t\.csv:2: not CSV \(field larger than field limit",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_table_is_refused_with_line_and_cell_and_remedy(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as raised:
        read(tmp_path, content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0.0), ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("1e-3", 0.001), ("+1", 1)],
)
def test_a_time_is_a_decimal_number(tmp_path, text, value):
    (line,) = read(tmp_path, f"video,start_seconds,phase\na,{text},x\n")
    assert line.seconds("start_seconds") == value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        *(("1,5", ": write a decimal point"), ("1.234,5", ": write a decimal point"), ("nan", "")),
        *(
            ("inf", ""),
            ("-1", ""),
            ("1_0", ""),
            ("\u0661", ""),
            ("0x1", ""),
            ("1e999", ""),
            ("", ""),
        ),
        *(("00:01", ""), ("1 s", ""), ("'1", "")),
    ],
)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_is_no_time_is_refused_by_line_and_column(tmp_path, text, hint, separator):
    row = separator.join(["a", text, "x"])
    (line,) = read(tmp_path, f"{separator.join(COLUMNS)}\n{row}\n")
    with pytest.raises(UsageError) as raised:
        line.seconds("start_seconds")
    message = f"t.csv:2: start_seconds is {text!r}, not a time of 0 s or later{hint}"
    assert str(raised.value).startswith(message)
    if text == "":
        assert line.optional_seconds("start_seconds") is None


def test_a_table_of_one_column_has_no_separator(tmp_path):
    path = write(tmp_path, "video\na;b.mp4\n")
    assert [line.cells["video"] for line in read_table(path, required=("video",))] == ["a;b.mp4"]


def test_a_table_of_any_columns_is_parted_where_most_are_known(tmp_path):
    table = Table(write(tmp_path, "label;youtube_id,x;split\na;b,c;d\n"), ("label", "split"))
    assert table.header == ("label", "youtube_id,x", "split")
    assert [line.cells["youtube_id,x"] for line in table.lines()] == ["b,c"]


def test_known_columns_count_for_more_than_many_cells(tmp_path):
    table = Table(write(tmp_path, "label;split,a,b,c\nx;y\n"), ("label", "split"))
    assert table.header == ("label", "split,a,b,c")


def test_the_line_of_the_separator_is_counted(tmp_path):
    lines = read(tmp_path, "sep=;\nvideo;start_seconds;phase\na;0;1\n")
    assert [line.where for line in lines] == ["t.csv:3"]


def test_the_separator_that_a_line_names_is_the_one_though_another_fits_better(tmp_path):
    with pytest.raises(UsageError, match=r"t\.csv:2: no column video; .*'video,start_seconds,pha"):
        read(tmp_path, "sep=;\nvideo,start_seconds,phase\na,0,1\n")


def test_a_table_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"none\.csv: No such file"):
        list(read_table(tmp_path / "none.csv", required=("video",)))
    with pytest.raises(UsageError, match="Is a directory"):
        list(read_table(tmp_path, required=("video",)))
    monkeypatch.setattr("tokenreel.cache.csv_tables.MOST_BYTES", 2**20)
    path = write(tmp_path, b"")
    os.truncate(path, 2**40)
    with pytest.raises(UsageError, match=r"t\.csv: has over 1 MiB: is it a table\?"):
        list(read_table(path, required=("video",)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_a_text_file_end_as_in_an_editor(tmp_path, encoding):
    path = write(tmp_path, "a\u2028b\r\n\r\nc\x0cd\re".encode(encoding))
    assert read_lines(path) == ["a\u2028b", "", "c\x0cd", "e"]
    assert read_lines(write(tmp_path, "a\n\n".encode(encoding))) == ["a", ""]


def test_mutated_tables_give_lines_or_one_sentence(tmp_path):
    originals = [*SPREADSHEETS.values(), *(content for content, _ in REFUSED.values())]
    originals = [one if isinstance(one, bytes) else one.encode() for one in originals]
    originals = [one for one in originals if len(one) < 1000]
    parts = [
        b"\0",
        b'"',
        b"\r",
        b"\n",
        b",",
        b";",
        b"\t",
        b"\xff",
        b"\xe9",
        b"#",
        b"sep=",
        b"\xfe\xff",
    ]
    rng = random.Random(0)
    num_read, messages = 0, {}
    for _ in range(1000):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randrange(3)] = rng.choice(parts)
        with require_memory(16_000_000):
            try:
                num_read += len(read(tmp_path, bytes(data)))
            except UsageError as error:
                messages[str(error)] = data
    assert num_read > 50
    assert len(messages) > 50
    for message, data in messages.items():
        assert message.startswith("t.csv"), data
        assert "\n" not in message, data
        assert len(message) < 500, data


FIELD = os.environ.get("TOKENREEL_FIELD")


@pytest.mark.skipif(not FIELD, reason="TOKENREEL_FIELD names no folder of failing inputs")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("import_bom", None),
        ("import_latin1", r"clips\.csv:2: not UTF-8 text: byte 12 of the line is 0xE9"),
        ("import_ragged", r"clips\.csv:3: 4 cells where the header has 3, .*cell 4 is 'extra'"),
    ],
)
def test_tables_of_the_field_are_read_or_refused(name, message):
    lines = read_table(Path(FIELD, name, "clips.csv"), required=("file", "split", "action"))
    if message is None:
        assert [line.cells["file"] for line in lines] == ["a", "b"]
        return
    with pytest.raises(UsageError, match=message):
        list(lines)
