"""The commands in texts for people, and the parsers that read them without running them."""

import re
from pathlib import Path

import typer

from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.extract.scene_list import CSV, Scene, csv_bytes
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.texts.config import TextConfig
from tokenreel.pipeline.cli import evaluate, extract, fuse, main
from tokenreel.pipeline.datasets import DATASETS
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.ablation import plan_rows
from tokenreel.pipeline.phases.evaluation import CHOOSE
from tokenreel.pipeline.phases.extraction import configure_extraction, data_options
from tokenreel.pipeline.phases.training import apply_words
from tokenreel.pipeline.recipes import RECIPES, describe_recipe
from tokenreel.pipeline.recipes.extraction import extraction_for
from tokenreel.pipeline.tools.keys import option_words

ClickUsage = typer.BadParameter.__base__  # what typer's parser raises, whichever click it has
TOP = Path(__file__).parents[3]
APPS = {
    "extract": extract.app,
    "fuse": fuse.app,
    "evaluate": evaluate.app,
    "tokenreel": main.app,
}
# In prose, "`fuse train NAME`" is a command and "`fuse train`" names one.
QUOTED = re.compile(r"`((?:extract|fuse|evaluate|tokenreel) [a-z][^`]*)`")
TYPED = re.compile(r"^ *(?:\$ )?((?:extract|fuse|evaluate|tokenreel) [a-z].*)$")
FORMATTED = {  # values of a message that are made when it is raised
    "dataset": "sample",
    "recipe.dataset": "sample",
    "dataset_of(store)": "sample",
    "name": "sample",
    "row.recipe": "sample",
    "other": "mvformer",
    "first_store(stores)": "STORE",
    "action[3:]": "288",
    "' '.join([source, *changes, f'seed={seed}'])": "sample seed=0",
}
WORDS = {  # placeholders of pages
    "DATASET": "sample",
    "RECIPE": "sample",
    "TABLE": "mvformer-table1",
    "NAME": "sample",
    "N": "2",
    "K": "2",
    "FRAME": "3",
    "SHARE": "0.5",
    "ACTION": "lift",
    "T": "8",
    "i/n": "0/2",
}
EXAMPLES = {"weights": "random:0", "init": "RUN", "data.action": "lift"}


def make_files(folder):
    """The files and folders that commands want to exist."""
    for name in ("FILE", "mine.npz"):
        (folder / name).touch()
    for name in ("FOLDER", "scenes/mine"):
        (folder / name).mkdir(parents=True)
        (folder / name / CSV).write_bytes(csv_bytes({"a.mp4": (Scene(0.0, 1.0, 0.5, 25),)}))
    (folder / "stores/hmdb51").mkdir(parents=True)  # of which pages make copies


def texts():
    """Each file of ours with text for people, as (name, lines)."""
    for path in sorted((TOP / "tokenreel").rglob("*.py")):
        yield path, re.sub(r'"\s*\n\s*f?"', "", path.read_text())
    pages = [
        TOP / "README.md",
        TOP / "CONTRIBUTING.md",
        TOP / "Makefile",
        *TOP.glob("docs/**/*.md"),
    ]
    for path in [*pages, *(TOP / "tokenreel").rglob("*.md"), *TOP.glob("benchmarks/*.md")]:
        yield path, path.read_text()


def commands():
    """Every command of the texts and of the recipes, with where it is."""
    found = {}
    for path, text in texts():
        where = str(path.relative_to(TOP))
        for command in QUOTED.findall(text):
            found.setdefault(" ".join(command.split()), where)
        if path.suffix == ".md":
            for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
                for line in block.splitlines():
                    if match := TYPED.match(line):
                        found.setdefault(match[1].partition("  #")[0].strip(), where)
    for name in RECIPES:
        described = describe_recipe(name)
        for command in [*QUOTED.findall(described), *re.findall("command: (.*)", described)]:
            found.setdefault(command, f"fuse recipes {name}")
    return sorted(found.items())


def as_typed(command):
    """The words of a command, placeholders filled in; None where it only names commands."""
    for made, value in FORMATTED.items():
        command = command.replace(f"{{{made}}}", value)
    command = re.sub(r"\{([^{}]*)\}", "X", command)
    command = command.replace("RUN...", "RUN").replace("[RUN...]", "RUN")
    command = command.replace("run ... ", "run sample ").replace(" ...", "")
    command = re.sub(r"\[(?:key=value|--\w+ \w+|--k \d+|-[^\]]*)[^\]]*\]", "", command)
    words = [WORDS.get(word, word) for word in command.split()]
    if len(words) < 2 or any(mark in command for mark in ("|", "\u2192")):
        return None
    return [word for word in words if word not in ("key=value", "data.key=value", "...")]


def parse(words):
    """The parameters of a command, as its own parser reads them; (name, parameters)."""
    program, *rest = words
    command = typer.main.get_command(APPS[program])
    context = typer.Context(command, info_name=program)
    names = [program]
    while hasattr(command, "commands"):
        if not rest:
            return " ".join(names), None
        name, *rest = rest
        assert name in command.commands, f"no command {name!r} of {' '.join(names)}"
        command = command.commands[name]
        names.append(name)
    if not rest:
        return " ".join(names), None  # it names the command
    context = command.make_context(names[-1], rest, parent=context)
    return " ".join(names), context.params


def check_words(name, params):
    """The key=value words of a command, as the call behind it reads them."""
    words = [word for word in params.get("words") or [] if not word.endswith("=")]
    words = [w if w.partition("=")[2].islower() or "=" not in w else _example(w) for w in words]
    if name in ("extract run", "extract plan", "tokenreel fidelity"):
        dataset = str(params.get("dataset") or params.get("name"))
        if dataset == "STORE" or dataset not in DATASETS:
            return
        options, rest = data_options(words)
        about = option_words(DATASETS.load(dataset))
        assert all(f"`{key}`" in about for key in options), (options, about)
        configure_extraction(extraction_for(dataset), rest)
    elif name == "extract scenes":
        apply_overrides(ScenesConfig(), data_options(words)[1], root="scenes")
    elif name == "extract text":
        apply_overrides(TextConfig(), data_options(words)[1], root="text")
    elif name == "fuse train":
        recipe = params["recipe"]
        given = ("sample", [recipe, *words]) if "=" in recipe else (recipe, words)
        apply_words(*given)
    elif name == "fuse ablate":
        plan_rows(words)
    elif name.startswith("evaluate"):
        settings = [w for w in words if "=" in w and not w.startswith(CHOOSE)]
        apply_overrides(EvaluateConfig(), settings, root="evaluate")


def _example(word):
    """A word whose value is a placeholder, with a value; others as they are."""
    key, _, value = word.partition("=")
    if value.isupper():
        return f"{key}={WORDS.get(value, EXAMPLES.get(key, value))}"
    return f"{key}={','.join(part for part in value.split(',') if not part.isupper())}"


def take(command):
    """Read a command as its program does, without running it."""
    words = as_typed(command)
    if words is None:
        return
    name, params = parse(words)
    if re.search(
        r"\bexample[-:]", command
    ):  # of the example package: tests/test_plugins.py runs it
        return
    if params is not None:
        check_words(name, params)
