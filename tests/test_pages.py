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

import tokenreel
from tests.pipeline.cli.command_words import APPS, ClickUsage, take
from tests.test_library import TINY
from tokenreel.extract.config import ExtractConfig
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.library import _words
from tokenreel.pipeline.recipes import get_recipe

TOP = Path(__file__).parents[1]
GOLDEN = TOP / "tests" / "golden" / "format1" / "stores" / "int8"
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
SHELL = {"export", "cd", "git", "source", "cp"}  # words of the shell that need no check
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
    program, *rest = shlex.split(line)
    if program == "torchrun":
        program, *rest = rest[next(n for n, word in enumerate(rest) if word in APPS) :]
        line = shlex.join([program, *rest])
    if program in APPS:
        take(line)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in rest if "=" not in word and word not in targets] == []
    elif program == "pip":
        extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
        for extra in re.findall(r"\[(\w+)\]", line):
            assert extra in extras["optional-dependencies"]
    elif program == "python":
        assert (TOP / rest[0]).is_file(), line
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
    for name in ("FILE", "mine.npz"):
        Path(name).touch()
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
    "line", ["extract run folder --rot x", "make demon", "pip install '.[al]'", "sudo rm x"]
)
def test_a_wrong_line_is_found(line, folder):
    with pytest.raises((ClickUsage, AssertionError)):
        check_line(line)


def test_the_python_of_the_readme_and_of_the_python_page_runs(folder, monkeypatch):
    """The real functions, with smaller sizes; a store of the tests in place of an extraction."""
    train = tokenreel.train_model

    def extract_videos(videos, store, *, dataset="folder", settings=None):
        apply_overrides(ExtractConfig(), _words(settings), root="extract")
        shutil.copytree(GOLDEN, store, dirs_exist_ok=True)

    def train_model(store, run, *, recipe="sample", settings=None):
        apply_overrides(get_recipe(recipe).fuse, _words(settings), root="fuse")
        return train(store, run, settings=TINY, device="cpu", progress=False)

    monkeypatch.setattr(tokenreel, "extract_videos", extract_videos)
    monkeypatch.setattr(tokenreel, "train_model", train_model)
    ran = []
    for page, _, language, text, comment in blocks():
        if language == "python" and comment.strip() == "<!-- runs -->":
            exec(compile(text.replace("window=16", "window=4"), str(page), "exec"), {})
            ran.append(str(page))
    assert ran == ["README.md", "docs/python.md"]
    assert (folder / "results" / "results.csv").is_file()


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
