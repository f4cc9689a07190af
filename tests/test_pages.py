"""Every block of the pages is compiled, parsed or run, and the site has every page."""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

import tokenreel
from tests.fuse.tiny import TINY_SETTINGS
from tests.pipeline.cli.command_words import APPS, ClickUsage, make_files, take
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.commands.check import check_file
from tokenreel.extract.config import ExtractConfig
from tokenreel.pipeline.datasets import check_dataset
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.library import _words
from tokenreel.pipeline.recipes import get_recipe

TOP = Path(__file__).parents[1]
GOLDEN = TOP / "tests" / "golden" / "format1" / "stores" / "int8"
VIDEO = TOP / "tests" / "golden" / "format1" / "videos" / "a.mp4"
PAGES = [
    TOP / "README.md",
    TOP / "CONTRIBUTING.md",
    *sorted(TOP.glob("docs/**/*.md")),
    *sorted(TOP.glob("tokenreel/**/*.md")),
    TOP / "benchmarks" / "README.md",
]
BLOCK = re.compile(r"^(<!--[^\n]*-->\n)?```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SNIPPET = re.compile(r'--8<-- "([^"]+)"')
LANGUAGES = {"python", "sh", "toml", "json", "csv", "text"}
SHELL = {"export", "cd", "git", "source"}  # words of the shell that need no check
SCRIPT = re.compile(r"(?:benchmarks|docs)/\w+\.py")


def blocks():
    """Each fenced block: page, its number there, language, text, the comment before it."""
    for page in PAGES:
        found = BLOCK.findall(page.read_text())
        for number, (comment, language, text) in enumerate(found):
            yield page.relative_to(TOP), number, language, included(text), comment


def included(text):
    """A block with the files that it includes."""
    return SNIPPET.sub(lambda match: (TOP / match[1]).read_text(), text)


def of(*languages):
    return [
        pytest.param(text, comment, id=f"{page}:{number}")
        for page, number, language, text, comment in blocks()
        if language in languages
    ]


def docstrings():
    """The docstrings of every module, class and function, with their file."""
    folders = ("tokenreel", "benchmarks", "docs")
    for path in sorted(path for name in folders for path in (TOP / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield path.relative_to(TOP), ast.get_docstring(node) or ""


def check_line(line):
    """Read a line of a shell as its program does, without running it."""
    line = re.sub(r"\s+# .*", "", line.strip())
    if not line or line.startswith("#"):
        return
    line = re.sub(r"^\$ ", "", line)
    if re.match(r"[A-Z]+=\$\(", line):  # a variable of what another program prints
        return
    program, *rest = shlex.split(line)
    if program == "srun":
        program, *rest = rest[2:] if rest[0] == "--cpus-per-task" else rest
        line = shlex.join([program, *rest])
    if program == "torchrun":
        start = next(n for n, word in enumerate(rest) if word in APPS)
        parser = get_args_parser()
        parser.allow_abbrev = False
        parser.parse_args(["2" if word == "N" else word for word in rest[: start + 1]])
        program, *rest = rest[start:]
        line = shlex.join([program, *rest])
    if program in APPS:
        take(line)
    elif program == "make":
        text = (TOP / "Makefile").read_text()
        known = re.findall(r"^([a-z-]+):|^([A-Z]+) \?=", text, re.MULTILINE)
        names = {name for pair in known for name in pair if name}
        assert [word for word in rest if word.partition("=")[0] not in names] == []
    elif program == "pip":
        extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
        for extra in re.findall(r"\[(\w+)\]", line):
            assert extra in extras["optional-dependencies"]
    elif program == "python":
        assert SCRIPT.fullmatch(rest[0])
        assert (TOP / rest[0]).is_file(), line
        script = (TOP / rest[0]).read_text()
        assert [word for word in rest if word.startswith("--") and f'"{word}"' not in script] == []
    elif program == "cp":
        source = next(word for word in rest if not word.startswith("-"))
        assert any((place / source).exists() for place in (TOP, Path())), line
    else:
        assert program in SHELL, f"what is {program}?"


def test_every_block_says_its_language():
    assert [
        (str(page), number, language)
        for page, number, language, _, _ in blocks()
        if language not in LANGUAGES
    ] == []


def test_there_are_blocks_of_every_kind():
    found = [language for _, _, language, _, _ in blocks()]
    assert found.count("python") > 10
    assert found.count("sh") > 20
    assert {"toml", "json", "csv"} <= set(found)


@pytest.mark.parametrize(("text", "comment"), of("python"))
def test_a_block_of_python_compiles(text, comment):
    compile(text, "a page", "exec")


@pytest.mark.parametrize(("text", "comment"), of("toml", "json"))
def test_a_block_of_data_is_read(text, comment):
    if text.lstrip().startswith("{"):
        json.loads(text)
    else:
        tomllib.loads(text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("text", "comment"), of("sh"))
def test_every_line_for_a_shell_is_one_that_its_program_takes(text, comment, folder):
    for line in re.sub(r"\\\n", " ", text).splitlines():
        try:
            check_line(line)
        except ClickUsage as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_every_command_line_of_a_docstring_is_one_that_its_program_takes(folder):
    programs = rf"^    +(?:\$ )?((?:{'|'.join(APPS)}|make|torchrun|python) .*)$"
    found = [
        (path, line)
        for path, text in docstrings()
        for line in re.findall(programs, text, re.MULTILINE)
    ]
    assert len(found) > 10
    for path, line in found:
        try:
            check_line(re.sub(r"\[[^\]]*\]", "", line))
        except (ClickUsage, ValueError) as error:
            pytest.fail(f"{path}: {line}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "extract run folder --rot x",
        "extract run folder bakbone=x",
        "fuse train sample optim.epoch=3",
        "evaluate all task=tau",
        "make demon",
        "make demo WEIGHT=x",
        "pip install '.[al]'",
        "sudo rm x",
        "cp -r tests/plugins x",
        "python docs/make_picture.py",
        "python docs/make_pictures.py --drawing",
        "torchrun --standalon fuse train sample",
    ],
)
def test_a_wrong_line_is_found(line, folder):
    with pytest.raises((ClickUsage, AssertionError, UsageError, SystemExit)):
        check_line(line)


def test_every_block_of_python_is_run_by_a_test():
    """Here where its comment says so; the example package, and what names the test that runs it."""
    for page, number, language, _, comment in blocks():
        if language != "python" or "<!-- runs -->" in comment:
            continue
        raw = BLOCK.findall((TOP / page).read_text())[number][2]
        found = re.findall(r"tests/\S+\.py", comment) or SNIPPET.findall(raw)
        assert found, f"{page}, block {number}: say <!-- runs -->, or which test runs it"
        assert all((TOP / name).is_file() for name in found)


def test_the_python_of_the_pages_runs(folder, monkeypatch):
    """The real functions, with smaller sizes; a store of the tests in place of an extraction."""
    train = tokenreel.train_model

    def extract_videos(videos, store, *, dataset="folder", settings=None):
        apply_overrides(ExtractConfig(), _words(settings), root="extract")
        shutil.copytree(GOLDEN, store, dirs_exist_ok=True)

    def train_model(store, run, *, recipe="sample", settings=None):
        apply_overrides(get_recipe(recipe).fuse, _words(settings), root="fuse")
        return train(store, run, settings=TINY_SETTINGS, device="cpu", progress=False)

    monkeypatch.setattr(tokenreel, "extract_videos", extract_videos)
    monkeypatch.setattr(tokenreel, "train_model", train_model)
    shutil.copytree(GOLDEN, folder / "stores" / "mine")
    names: dict[str, dict[str, object]] = {}  # of each page: a block goes on from the one before it
    ran = []
    for page, _, language, text, comment in blocks():
        if language == "python" and comment.strip() == "<!-- runs -->":
            text = text.replace("window=16", "window=4")
            exec(compile(text, str(page), "exec"), names.setdefault(str(page), {}))
            ran.append(page.name)
    assert ran == [
        "README.md",
        "embeddings.md",
        "explore.md",
        *["python.md"] * 3,
        *["store.md"] * 2,
    ]
    assert (folder / "results" / "results.csv").is_file()
    assert check_file(folder / "mine.npz").is_good
    assert tokenreel.open_store("stores/written").read("a").decode(11).shape == (80, 6, 8)


def test_the_tables_of_the_quick_start_are_those_that_a_folder_takes(folder):
    tables = [text for page, _, language, text, _ in blocks() if language == "csv"]
    for name, text in zip(("labels", "clips", "phases", "tags"), tables, strict=True):
        (folder / f"{name}.csv").write_text(text)
    for name in ("train/a", "train/b", "val/c"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(VIDEO, folder / f"{name}.mp4")
    found = check_dataset("folder", folder, {})
    assert found.is_complete
    assert found.phases == {"lift": ("reach", "raise")}
    assert dict(found.tags_of) == {("drama", "train"): 1, ("war", "train"): 1, ("war", "val"): 1}
    assert [(split.split, split.found) for split in found.splits] == [("train", 2), ("val", 1)]


def test_the_readme_can_be_read_in_two_minutes():
    text = (TOP / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert len(links) > 12
    assert [link for link in links if "://" not in link and not (TOP / link).exists()] == []


def test_the_site_has_every_page_and_file():
    nav = (TOP / "mkdocs.yml").read_text().partition("nav:")[2]
    pages = {str(page.relative_to(TOP / "docs")) for page in TOP.glob("docs/**/*.md")}
    assert set(re.findall(r": (\S+\.md)", nav)) == pages
    assert "strict: true" in (TOP / "mkdocs.yml").read_text()
    assert "make docs" in (TOP / ".ci" / "run").read_text()


def load(name):
    spec = importlib.util.spec_from_file_location(name, TOP / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("html", "count"),
    [
        ('<a href="https://a.org">A</a> <img src="img/flow.svg">', 0),
        ('<link rel="canonical" href="https://a.org/page">', 0),
        ('<script async src="https://a.org/x.js"></script>', 1),
        ("<link rel=stylesheet href=//a.org/x.css>", 1),
        ('<img alt="a" src="http://a.org/x.png">', 1),
        ("<style>@import 'https://a.org/x.css'; p {background: url(//a.org/x)}</style>", 2),
        ('<pre class="mermaid"><code>graph</code></pre>', 1),
    ],
)
def test_a_page_that_loads_from_a_network_is_refused(html, count):
    pytest.importorskip("mkdocs")
    assert len(load("hooks").loads_from_network(html)) == count


def test_the_drawings_are_those_of_the_script_and_pictures_are_small():
    drawn, images = load("make_pictures"), TOP / "docs" / "img"
    assert (images / "flow.svg").read_text() == drawn.flow()
    assert (images / "store.svg").read_text() == drawn.store()
    assert (images / "scale.svg").read_text() == drawn.scale()
    assert sum(path.stat().st_size for path in images.iterdir()) < 1_500_000


def test_the_entry_points_of_the_pages_are_those_of_the_example_package():
    held = tomllib.loads((TOP / "tests" / "plugin" / "pyproject.toml").read_text())
    held = held["project"]["entry-points"]
    shown = {}
    for page, _, language, text, _ in blocks():
        if language == "toml" and page.parent.name == "extend" and page.stem != "index":
            shown |= tomllib.loads(text)["project"]["entry-points"]
    assert shown.keys() == held.keys()
    for group, lines in shown.items():
        assert lines.items() <= held[group].items()
