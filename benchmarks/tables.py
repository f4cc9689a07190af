"""Numbers of the pages, written from the rows of benchmarks/results.

    python benchmarks/tables.py            writes README.md, benchmarks/README.md and docs/
    python benchmarks/tables.py --check    writes nothing; status 3 and a line for each difference

A page holds a measured number as a reference to a row, in comments that no reader sees:

    it is <!--row:store_read/direct, warm, one core/ratio:.2f-->0.96<!--/row--> of memmap's

    row:FILE/CASE/COLUMN:FORMAT      of results/FILE.csv
    row:FILE/CASE [SHAPE]/COLUMN:FORMAT      where a case was measured with several sizes;
                                             [START...] takes the sizes that begin with START

COLUMN is one of the file, or `inverse`, 1 / ratio.  FORMAT is one of Python's, then a unit where
there is one: `.1fx`, `.0%`, `,.0f MB`, `s` for text.  Where machines differ in the text, both ends
stand there: 0.39 to 0.96.  A file without rows gives "not measured"; a case that a file does not
have is an error.  A reference does not begin a line: Markdown would take the line for HTML.

    <!--table:NAME--> ... <!--/table-->      a table, or a sentence, of TABLES below
    <!--given:KIND--> ... <!--/given-->      numbers of a page that were not measured: KINDS

Everything else that sounds measured ("2x faster", "GB/s", "3 s") is found by --check, in text and
in blocks, but not in a block after `<!-- prints: COMMAND -->` nor in `code`.  NOTES.md files are
laboratory notebooks: their references are kept, their claims are dated and not looked at.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.evaluate.tables.order import order_sentence

TOP = Path(__file__).parents[1]
RESULTS = TOP / "benchmarks" / "results"
NOT_MEASURED = "not measured"
KINDS = ("computed", "setting", "published", "expected", "quoted")
KEY_COLUMNS = ("part", "row", "task")  # of files without the column `case`
PERCENT = ("classification", "ap@")  # tasks from 0 to 1 that are printed in percent

REFERENCE = re.compile(r"<!--row:([^\n]*?)-->([^\n]*?)<!--/row-->")
TABLE = re.compile(r"<!--table:([^\n]*?)-->\n(.*?)<!--/table-->", re.DOTALL)
GIVEN = re.compile(r"<!--given:([^\n]*?)-->(.*?)<!--/given-->", re.DOTALL)
MARKER = re.compile(r"<!--/?(?:row|table|given)\b[^\n]*?-->")
PRINTED = re.compile(r"^<!-- prints: [^\n]+ -->\n```text\n.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)`[^`\n]+`(?!`)")

NUMBER = r"(?<![\w.])\d[\d.,]*"
TIMES = "\N{MULTIPLICATION SIGN}"
WORDS = r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|forty|fifty|hundred)"
MANY = rf"(?:{NUMBER}|{WORDS})"
THAN = r"(?:faster|slower|smaller|larger|less|fewer|more|as|its|the)"
UNITS = "ms|us|s|min|h|seconds?|minutes?|hours?"
SECOND = r"(?:s|sec|second|min|minute|GB)"
# What sounds measured; white space may be the end of a line.
CLAIMS = {
    "times": rf"{MANY}(?:\s*[x{TIMES}]|[\s-]times)\s{THAN}\b",
    "x": rf"{NUMBER}(?:x(?!\w)|\s?{TIMES}(?!\s?[\dA-Z]))",
    "twice": r"\b(?:twice|half)\s(?:its|the|as\s(?:fast|slow|many|much|large|small))\b",
    "a factor": rf"(?:{NUMBER}[\s-]?|{WORDS}[\s-]?)fold\b",
    "a share": rf"{MANY}\s?(?:%|percent|per\scent)\s(?:of|faster|slower|less|fewer|more)\b",
    "a part": r"(?<![\w.])0?\.\d+\s(?:of|its)\b",
    "a rate": rf"(?:[kMGT]i?B|FLOPs?|[GT]FLOPs?|CPU-s)\s?(?:/|per|a)\s?{SECOND}\b",
    "frames a second": rf"{NUMBER}\s?(?:fps\b(?!=)|frames(?:/s|\s(?:a|per)\ssecond))",
    "a spread": r"(?:±|\+-|\+/-)\s*[.\d]",
    "a time": rf"(?:{NUMBER}\s?|{WORDS}\s)(?:{UNITS})\b|\bhalf\san\shour\b",
}

Rows = Sequence[Mapping[str, str]]


class PageError(ValueError):
    """A reference, table or marker that cannot be read."""


@dataclass(frozen=True)
class Found:
    """What is wrong with a page."""

    page: str
    line: int
    words: str

    def __str__(self) -> str:
        """As a compiler says it."""
        return f"{self.page}:{self.line}: {self.words}"


def main() -> int:
    """Write or check the pages; the status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 3 where pages differ")
    check = parser.parse_args().check
    found: list[Found] = []
    for page in pages():
        text = page.read_text()
        written = render(text)
        name = str(page.relative_to(TOP))
        if written != text and check:
            found += differences(name, text, written)
        elif written != text:
            page.write_text(written)
            print(f"{name}: written")
        if page.name != "NOTES.md":
            found += claims(name, written)
    print("\n".join(map(str, found)) or "every number of the pages is that of its row")
    return 3 if found else 0


def pages() -> list[Path]:
    """The pages whose numbers are references."""
    return [
        TOP / "README.md",
        TOP / "CONTRIBUTING.md",
        TOP / "benchmarks" / "README.md",
        *sorted(TOP.glob("docs/**/*.md")),
        *sorted(TOP.glob("tokenreel/**/*.md")),
    ]


def render(text: str, results: Path = RESULTS) -> str:
    """A page with the numbers and tables of the rows.

    Raises:
        PageError: a reference that begins a line, a marker without its other half, an unknown case,
            column, format, table or kind.
    """
    for line in text.splitlines():
        first = MARKER.match(line.strip())
        if first and (first[0] != line.strip() or first[0].startswith("<!--row")):
            raise PageError(f"a marker begins the line {line!r}: put a word before it")
    for kind, _ in GIVEN.findall(text):
        if kind not in KINDS:
            raise PageError(f"given:{kind}: the kinds are {', '.join(KINDS)}")
    text = TABLE.sub(lambda match: _table(match[1], results), text)
    text = REFERENCE.sub(
        lambda match: f"<!--row:{match[1]}-->{value_of(match[1], results)}<!--/row-->", text
    )
    if left := MARKER.search(GIVEN.sub("", REFERENCE.sub("", TABLE.sub("", text)))):
        raise PageError(f"{left[0]} lacks its other half")
    return text


def value_of(reference: str, results: Path = RESULTS) -> str:
    """The text of a reference, `FILE/CASE/COLUMN:FORMAT`; a range where machines differ.

    Raises:
        PageError: see :func:`render`.
    """
    place, _, form = reference.rpartition(":")
    file, _, rest = place.partition("/")
    case, _, column = rest.rpartition("/")
    if not (file and case and column and form):
        raise PageError(f"row:{reference}: write row:FILE/CASE/COLUMN:FORMAT")
    rows = read_rows(file, results)
    if not rows:
        return NOT_MEASURED
    chosen = choose(rows, case, reference)
    spec = re.match(r"[^A-Za-z%]*[A-Za-z%]", form)
    if spec is None:
        raise PageError(f"row:{reference}: {form} is no format; .2f, .0% and s are some")
    try:
        if spec[0] == "s":
            return " and ".join(dict.fromkeys(row[column] for row in chosen))
        values = sorted(number(row, column) for row in chosen)
        texts = [format(value, spec[0]) for value in (values[0], values[-1])]
    except KeyError:
        raise PageError(f"row:{reference}: the columns are {', '.join(chosen[0])}") from None
    except ValueError as error:
        raise PageError(f"row:{reference}: {error}") from None
    return " to ".join(dict.fromkeys(texts)) + form[spec.end() :]


def read_rows(file: str, results: Path = RESULTS) -> Rows:
    """The rows of results/FILE.csv; none where there is no file."""
    path = results / f"{file}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as opened:
        return list(csv.DictReader(opened))


def choose(rows: Rows, case: str, reference: str) -> Rows:
    """The rows of a case, one a machine, the last where one has several."""
    named = [row for row in rows if case_of(row) == case]
    if not named:
        whole = {id(row): f"{case_of(row)} [{shape_of(row)}]" for row in rows}
        start = case.removesuffix("...]")
        named = [
            row
            for row in rows
            if whole[id(row)] == case or (start != case and whole[id(row)].startswith(start))
        ]
    if not named:
        cases = sorted({case_of(row) for row in rows})
        raise PageError(f"row:{reference}: no such case; there are: {'; '.join(cases)}")
    shapes = sorted({shape_of(row) for row in named})
    if len(shapes) > 1:
        raise PageError(f"row:{reference}: say which, as CASE [SHAPE]: {'; '.join(shapes)}")
    return list({row["device"]: row for row in named}.values())


def case_of(row: Mapping[str, str]) -> str:
    """What a row measured."""
    return row["case"] if "case" in row else ", ".join(row[name] for name in KEY_COLUMNS)


def shape_of(row: Mapping[str, str]) -> str:
    """The sizes of a row."""
    return row["shape"] if "shape" in row else f"{row['sample']}, {row['backbone']}"


def number(row: Mapping[str, str], column: str) -> float:
    """A number of a row."""
    return 1 / float(row["ratio"]) if column == "inverse" else float(row[column])


def differences(page: str, text: str, written: str) -> list[Found]:
    """The lines of a page that its rows would write otherwise."""
    old, new = text.splitlines(), written.splitlines()
    if len(old) != len(new):
        return [Found(page, 1, "a table has other rows: run python benchmarks/tables.py")]
    return [
        Found(page, place, f"the rows say: {there.strip()}")
        for place, (here, there) in enumerate(zip(old, new, strict=True), 1)
        if here != there
    ]


def claims(page: str, text: str) -> list[Found]:
    """What sounds measured and is no reference, with its line."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    for pattern in (PRINTED, TABLE, GIVEN, REFERENCE, CODE):
        text = pattern.sub(blank, text)
    return sorted(
        (
            Found(page, text.count("\n", 0, match.start()) + 1, f"{kind} without a row: {words!r}")
            for kind, pattern in CLAIMS.items()
            for match in re.finditer(pattern, text)
            for words in [" ".join(match[0].split())]
        ),
        key=lambda found: found.line,
    )


def _table(name: str, results: Path) -> str:
    kind, _, what = name.partition(":")
    if kind not in TABLES:
        raise PageError(f"table:{name}: the tables are {', '.join(TABLES)}")
    lines = TABLES[kind](results, what)
    return "\n".join([f"<!--table:{name}-->", "", *lines, "", "<!--/table-->"])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def demo_table(results: Path, _: str) -> list[str]:
    """What the demo finds: a row a recipe, mean and 2 std over seeds."""
    rows = read_rows("demo", results)
    tasks = ("classification", "progression", "tau", "ap@5")
    at = {case_of(row): row for row in rows}
    recipes = dict.fromkeys(case.partition(", ")[0] for case in at if ", " in case)
    lines = [
        [
            recipe,
            at[f"{recipe}, {tasks[0]}"]["seeds"] or "",
            *(_mean(at.get(f"{recipe}, {task}"), task) for task in tasks),
        ]
        for recipe in recipes
    ]
    if not lines:
        return [f"The demo was {NOT_MEASURED}."]
    return markdown(["recipe", "seeds", *(task.replace("ap@", "AP@") for task in tasks)], lines)


def _mean(row: Mapping[str, str] | None, task: str) -> str:
    if row is None:
        return ""
    factor, digits = (100, 1) if task.startswith(PERCENT) else (1, 3)
    mean = f"{factor * float(row['mean']):.{digits}f}"
    if not row["2std"] or row["seeds"] == "1":
        return mean
    return f"{mean} ± {factor * float(row['2std']):.{digits}f}"


def demo_sentence(results: Path, _: str) -> list[str]:
    """Where MV-Former is above, level with or below the best control, whichever way it is."""
    numbers: dict[str, dict[str, tuple[float, float]]] = {}
    for row in read_rows("demo", results):
        recipe, comma, task = case_of(row).rpartition(", ")
        if comma:
            spread = float(row["2std"] or "nan")
            numbers.setdefault(task, {})[recipe] = (float(row["mean"]), spread)
    return [order_sentence("sample", numbers, quote="`") or f"The demo was {NOT_MEASURED}."]


def calibration_table(results: Path, part: str) -> list[str]:
    """What rows of the calibration reach on the sample: mean and 2 std (ddof 1) over seeds."""
    rows = [row for row in read_rows("sample_calibration", results) if row["part"] == part]
    if not rows:
        return [f"The {part} of the sample: {NOT_MEASURED}."]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    at = {(row["row"], row["task"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["row"] for row in rows):
        cells = []
        for task in tasks:
            row = at.get((name, task))
            digits = 1 if task.startswith(PERCENT) else 3  # percent already
            cells.append("" if row is None else f"{float(row['mean']):.{digits}f}")
            if row is not None and row["2std"]:
                cells[-1] += f" ± {float(row['2std']):.{digits}f}"
        lines.append([name, *cells])
    header = ["row", *(task.replace("ap@", "AP@") for task in tasks)]
    return [f"On {shape_of(rows[-1])}:", "", *markdown(header, lines)]


def findings_table(results: Path, _: str) -> list[str]:
    """Which of the papers' findings show on the sample."""
    from sample_calibration import findings, numbers_of

    header, *lines = findings(numbers_of(read_rows("sample_calibration", results)))
    return markdown(header, lines)


def reader_table(results: Path, _: str) -> list[str]:
    """What the reader reaches on each machine, and the machine."""
    warm = {row["device"]: row for row in read_rows("store_read", results)}
    columns = {
        "120 of 180 frames, warm, one core": ("store_read", "direct, warm, one core"),
        "the training read, cold": ("store_training_read", "direct, past the page cache, cold"),
    }
    cells: dict[str, dict[str, str]] = {}
    for title, (file, case) in columns.items():
        for row in read_rows(file, results):
            if case_of(row) == case:
                cells.setdefault(row["device"], {})[title] = f"{float(row['ratio']):.2f}"
                warm.setdefault(row["device"], row)
    lines = [
        [device, *_machine(warm[device]), *(found.get(title, "") for title in columns)]
        for device, found in sorted(cells.items())
    ]
    if not lines:
        return [f"The reader was {NOT_MEASURED}."]
    return markdown(["processor", "MHz", "page, bytes", "copies, GB/s", *columns], lines)


def _machine(row: Mapping[str, str]) -> list[str]:
    facts = (("processor_mhz", ".0f"), ("page_bytes", ".0f"), ("copy_gb_per_s", ".1f"))
    return [
        format(float(row[name]), form) if row.get(name) else "not noted" for name, form in facts
    ]


def codec_table(results: Path, which: str) -> list[str]:
    """What each codec costs on the sample, or on real clips; a row a codec."""
    rows = [r for r in read_rows("codecs_real", results) if shape_of(r).startswith(which)]
    if not rows:
        return [f"Codecs on {which}: {NOT_MEASURED}."]
    at = {case_of(row): row for row in rows}
    columns = {
        "relative error": ("relative error", ".4f"),
        "pooled error": ("pooled error", ".4f"),
        "neighbours kept": ("neighbours kept", ".3f"),
        "probe": ("change of classification", "+.3f"),
        "tau": ("change of tau", "+.3f"),
        "AP@5": ("change of ap@5", "+.3f"),
    }
    names = list(dict.fromkeys(case.partition(", ")[0] for case in at))
    shown = {
        title: (what, form)
        for title, (what, form) in columns.items()
        if any(f"{name}, {what}" in at for name in names)
    }
    lines = []
    for name in names:
        share = format(float(at[f"{name}, pooled error"]["ratio"]), ".3f")
        cells = [
            format(float(at[f"{name}, {what}"]["median"]), form)
            if f"{name}, {what}" in at
            else NOT_MEASURED
            for what, form in shown.values()
        ]
        lines.append([name, share, *cells])
    return [f"On {shape_of(rows[-1])}:", "", *markdown(["codec", "of fp16's bytes", *shown], lines)]


def scenes_table(results: Path, _: str) -> list[str]:
    """Cuts of each method and F1 between each two; a row a video in which one finds a cut."""
    rows = read_rows("scene_methods", results)
    if not rows:
        return [f"The methods were {NOT_MEASURED}."]
    columns = [name for name in rows[0] if name.startswith(("cuts", "F1"))]
    cut = [row for row in rows if any(row[name] not in ("0", "-") for name in columns)]
    lines = [[case_of(row), shape_of(row), *(row[name] for name in columns)] for row in cut]
    alike = len(rows) - len(cut)
    end = ["", f"In {alike} other clips none of the three finds a cut."] if alike else []
    header = ["video", "frames", *(name.removeprefix("cuts, ") for name in columns)]
    return [*markdown(header, lines), *end]


def ftp_table(results: Path, _: str) -> list[str]:
    """What FTP adds to its encoder, part by part, beside the paper's figures."""
    rows = [row for row in read_rows("ftp_costs", results) if " of total, " in case_of(row)]
    if not rows:
        return [f"The parts of FTP were {NOT_MEASURED}."]
    at = {(case_of(row), shape_of(row)): row for row in read_rows("ftp_costs", results)}
    header = ["model", "reading", "what", "processors", "integration", "blocks", "total", "paper"]
    lines = []
    for row in rows:
        what, _, reading = case_of(row).partition(" of total, reading ")
        parts = [
            f"{float(at[f'{what} of {part}, reading {reading}', shape_of(row)]['median']):.1f}"
            for part in ("processors", "integration", "blocks", "total")
        ]
        unit = f"{row['unit']} {what}"
        printed = row["baseline"].removeprefix("the paper's ")
        lines.append([shape_of(row), reading, unit, *parts, printed])
    return markdown(header, lines)


def scale_table(results: Path, _: str) -> list[str]:
    """What the claims cost and how long the last clip takes, a row a number of workers."""
    rows = read_rows("scale_simulation", results)
    if not rows:
        return [f"The claims of many workers were {NOT_MEASURED}."]
    at = {(case_of(row), shape_of(row).partition(" ")[0]): row for row in rows}
    lines = []
    for workers in sorted({count for _, count in at}, key=int):
        cells = [workers]
        for how in ("seen", "by heartbeat"):
            cost = float(at[f"overhead, deaths {how}", workers]["median"])
            last = float(at[f"time to the last clip, deaths {how}", workers]["ratio"])
            tail = float(at[f"tail of the last 1 %, deaths {how}", workers]["median"])
            cells += [f"{cost:.1%}", f"{last:.2f}", f"{tail:.0f}"]
        lines.append(cells)
    header = ["workers"]
    for how in ("a driver sees deaths", "heartbeats alone"):
        header += [f"{how}: claims", "time / even work", "tail of 1 %, s"]
    return markdown(header, lines)


TABLES: dict[str, Callable[[Path, str], list[str]]] = {
    "demo": demo_table,
    "demo sentence": demo_sentence,
    "calibration": calibration_table,
    "findings": findings_table,
    "reader": reader_table,
    "codecs": codec_table,
    "scenes": scenes_table,
    "ftp": ftp_table,
    "scale": scale_table,
}


if __name__ == "__main__":
    sys.exit(main())
