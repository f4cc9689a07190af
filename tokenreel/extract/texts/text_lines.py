"""The file of texts: one line of JSON for each text of a clip, appended whole.

    {"clip": "a/1", "prompt": "A", "text": "pour", "model": "m", "question": "What is ...?",
     "picture": "<sha256>", "times_seconds": [0.2, 0.6], "is_cut": false}

`clip`, `prompt` and `text` are needed; files of other people may have these alone, and `video` for
`clip`.  Keys that are not named here are refused.  A table `.csv` with the columns clip (or video),
prompt, text and, perhaps, model is read too.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokenreel.cache.canonical import read_json
from tokenreel.cache.csv_tables import Table
from tokenreel.cache.errors import UsageError

MOST_LINE_BYTES = 2**20
CLASS_PROMPT = "class"  # of texts of classes
JOINED_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")  # in ApplyEyeMakeup


@dataclass(frozen=True, slots=True)
class TextLine:
    """A text of a clip.

    Attributes:
        clip: id of the clip.
        prompt: name of the prompt, such as "A".
        text: what was answered.
        model: that answered; "" when unknown.
        question: the words of the prompt; "" when unknown.
        picture: SHA-256 of the pixels that the model saw; "" when unknown.
        times_seconds: of the key frames in that picture.
        is_cut: whether the model stopped because its answer was too long.
    """

    clip: str
    prompt: str
    text: str
    model: str = ""
    question: str = ""
    picture: str = ""
    times_seconds: tuple[float, ...] = ()
    is_cut: bool = False

    @property
    def asked(self) -> tuple[str, str, str, str]:
        """What the text is an answer to: asking the same again would be in vain."""
        return self.clip, self.question, self.model, self.picture

    def json(self) -> bytes:
        """The line, with its end; ASCII, so that no text can end it early."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


KINDS: dict[str, tuple[type, ...]] = {
    field.name: {"times_seconds": (list,), "is_cut": (bool,)}.get(field.name, (str,))
    for field in fields(TextLine)
}


def read_text_lines(path: Path) -> list[TextLine]:
    """All texts of a file.

    Raises:
        UsageError: the file cannot be read, or a line is not as above, or its last line was cut
            off; file and line are named.
    """
    return [line for _, line in read_numbered_lines(path)]


def read_numbered_lines(path: Path) -> list[tuple[int, TextLine]]:
    """All texts of a file, each with the number of its line from 1.

    Raises:
        UsageError: see read_text_lines.
    """
    if path.suffix.lower() == ".csv":
        return list(_read_table(path))
    lines, rest = _split(path)
    if rest:
        raise UsageError(
            f"{path}: its last line is cut off after {len(rest)} bytes: rerun the `extract "
            "describe` that wrote it, remove that line, or end it by a newline where it is whole"
        )
    return lines


def whole_text_lines(path: Path) -> tuple[list[TextLine], int]:
    """The texts of a file that may be written just now, or whose writer was killed.

    Returns:
        The texts of its whole lines, and how many bytes follow the last of them; none of either
        where there is no file.

    Raises:
        UsageError: see read_text_lines.
    """
    if not path.exists():
        return [], 0
    lines, rest = _split(path)
    return [line for _, line in lines], len(rest)


def class_lines(names: Sequence[str], template: str) -> list[tuple[int, TextLine]]:
    """A text for the name of each class, numbered like the lines of a file.

    Args:
        names: of the classes.
        template: the text, with {} for the words of a name.

    Raises:
        UsageError: a template without {}, or two classes with the same text.
    """
    if template.count("{}") != 1:
        raise UsageError(f"--template {template!r}: {{}} stands once for the name of a class")
    found: dict[str, str] = {}
    for name in names:
        text = template.replace("{}", words_of_name(name))
        if text in found:
            raise UsageError(
                f"classes {found[text]!r} and {name!r} have one text, {text!r}: give each its own "
                "by --from"
            )
        found[text] = name
    lines = (TextLine(name, CLASS_PROMPT, text) for text, name in found.items())
    return list(enumerate(lines, start=1))


def words_of_name(name: str) -> str:
    """The name of a class as words.

    >>> [words_of_name(name) for name in ("ApplyEyeMakeup", "brush_hair", "Holding [something]")]
    ['apply eye makeup', 'brush hair', 'holding something']
    """
    joined = JOINED_WORDS.sub(" ", name) if " " not in name else name
    return " ".join(joined.translate(str.maketrans("_[]", "   ")).lower().split()) or name


def _split(path: Path) -> tuple[list[tuple[int, TextLine]], bytes]:
    """The texts of whole lines with their numbers, and the bytes after the last of them."""
    lines, rest = [], b""
    for number, data in enumerate(_lines(path), start=1):
        if not data.endswith(b"\n"):
            rest = data
        elif data.strip():
            lines.append((number, _read_line(data, f"{path}:{number}")))
    return lines, rest


def _read_table(path: Path) -> Iterator[tuple[int, TextLine]]:
    """The lines of a table, with their numbers; one whose text has line ends counts its last."""
    known = ("clip", "video", "prompt", "text", "model")
    table = Table(path, known)
    clip = "clip" if "clip" in table.header else "video"
    missing = [name for name in (clip, "prompt", "text") if name not in table.header]
    unknown = [name for name in table.header if name not in known]
    if missing or unknown:
        wrong = f"no column {missing[0]!r}" if missing else f"unknown column {unknown[0]!r}"
        raise UsageError(f"{table.where}: {wrong}; the columns are clip,prompt,text,model")
    for line in table.lines():
        cells = line.cells
        for name in (clip, "prompt", "text"):
            if not cells[name]:
                raise UsageError(f"{line.where}: {name} is empty")
        number = int(line.where.rpartition(":")[2])
        yield number, TextLine(cells[clip], cells["prompt"], cells["text"], cells.get("model", ""))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.readline(MOST_LINE_BYTES + 1):
                if len(data) > MOST_LINE_BYTES:
                    raise UsageError(f"{path}: a line is longer than {MOST_LINE_BYTES} bytes")
                yield data
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def _read_line(data: bytes, where: str) -> TextLine:
    try:
        values = read_json(data)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where}: a line is an object, with clip, prompt and text")
    if "video" in values and "clip" not in values:
        values["clip"] = values.pop("video")
    for key, value in values.items():
        if key not in KINDS:
            raise UsageError(f"{where}: unknown key {key!r} (known: {', '.join(KINDS)})")
        if not isinstance(value, KINDS[key]):
            raise UsageError(f"{where}: {key} is {value!r:.60}, not {_kind(key)}")
    missing = [key for key in ("clip", "prompt", "text") if not values.get(key, "").strip()]
    if missing:
        raise UsageError(f"{where}: {missing[0]} is missing or empty")
    return TextLine(**values | {"times_seconds": _times(values, where)})


def _times(values: dict[str, Any], where: str) -> tuple[float, ...]:
    times = values.get("times_seconds", [])
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
        raise UsageError(f"{where}: times_seconds has {times!r:.60}, not numbers")
    return tuple(float(time) for time in times)


def _kind(key: str) -> str:
    return {"times_seconds": "a list of numbers", "is_cut": "true or false"}.get(key, "a text")
