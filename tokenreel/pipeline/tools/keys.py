"""docs/keys.md, and the keys in a command's --help, made from the configs."""

from collections.abc import Iterator
from inspect import getdoc
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tokenreel.evaluate.protocol import PROTOCOLS, EvaluateConfig, Settings
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.texts.config import TextConfig
from tokenreel.fuse.config import SYSTEMS, FuseConfig, config_class
from tokenreel.pipeline.datasets import DATASETS
from tokenreel.pipeline.override import ALIASES, all_keys, models_of

Row = tuple[str, str, str]  # key, default, description

HEAD = """# Keys: every `key=value` of the commands

Made by `tokenreel keys` from the configurations; a test compares this page with them.  A list is
written `3,7,11`, nothing `null`, truth `true` or `false`.  A key that other programs call otherwise
is suggested by the error.
"""


def key_rows(config: type[BaseModel], prefix: str = "") -> Iterator[Row]:
    """Each key of a config, its default and what it is; each kind of a group after the other.

    The field that chooses a kind comes with its name: `loss.name=tcc`.
    """
    for name, field in config.model_fields.items():
        kinds = models_of(field.annotation)
        if not kinds:
            yield f"{prefix}{name}", _shown(field.get_default()), _described(field)
        elif len(kinds) == 1:
            yield from key_rows(kinds[0], f"{prefix}{name}.")
        else:
            chosen = str(field.discriminator or "kind")
            for kind in kinds:
                value = kind.model_fields[chosen].default
                is_default = type(field.get_default(call_default_factory=True)) is kind
                about = (getdoc(kind) or "").partition("\n")[0]
                default = "the default" if is_default else ""
                yield f"{prefix}{name}.{chosen}={value}", default, about
                of_kind = (row for row in key_rows(kind, f"{prefix}{name}."))
                yield from (row for row in of_kind if row[0] != f"{prefix}{name}.{chosen}")


def _described(field: FieldInfo) -> str:
    """What a field is, and its values where there are a few."""
    kinds = [field.annotation, *get_args(field.annotation)]
    values = [get_args(kind) for kind in kinds if get_origin(kind) is Literal]
    shown = f"one of {', '.join(map(_shown, values[0]))}" if values and len(values[0]) > 1 else ""
    return ": ".join(part for part in (shown, field.description) if part)


def evaluate_rows() -> Iterator[Row]:
    """The keys of `evaluate`, with the default of the protocol carl."""
    for name in EvaluateConfig.model_fields:
        about = _described(Settings.model_fields[name])
        if name == "protocol":
            about = EvaluateConfig.model_fields[name].description or ""
        yield name, _shown(getattr(PROTOCOLS["carl"], name)), about


def keys_page() -> str:
    """The text of docs/keys.md."""
    parts = [HEAD]
    parts += ["## extract run, plan, retry", _table(key_rows(ExtractConfig))]
    parts += ["## extract scenes", _table(key_rows(ScenesConfig))]
    parts += ["## extract text", _table(key_rows(TextConfig))]
    parts += ["A data set has keys of its own, `data.KEY=value`:", _data_sets()]
    parts += [
        "## fuse train, ablate",
        "The defaults are those of the configuration; a recipe sets others (`fuse recipes`).",
        _table(key_rows(FuseConfig)),
    ]
    for name in SYSTEMS.ours:
        if config_class(name) is not FuseConfig:
            parts += [f"## fuse train {name}", _table(key_rows(config_class(name)))]
    parts += [
        "## evaluate all, frozen, compare, report",
        "The defaults are those of the protocol `carl`; `docs/results.md` has the others.",
        _table(evaluate_rows()),
        "`recipe=NAME,...` chooses runs by recipe or run name, with `*` and `?`.",
    ]
    parts += ["## Other names", _other_names()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def keys_help(command: str) -> str:
    """The keys for the --help of a command: "extract", "scenes", "text", "fuse" or "evaluate"."""
    rows = {
        "extract": lambda: key_rows(ExtractConfig),
        "scenes": lambda: key_rows(ScenesConfig),
        "text": lambda: key_rows(TextConfig),
        "fuse": lambda: key_rows(FuseConfig),
        "evaluate": evaluate_rows,
    }[command]()
    lines = []
    for key, default, about in rows:
        lines.append(f"  {key}" + (f" [{default}]" if default else ""))
        if about:
            lines.append(f"      {about}")
    return "\n".join(lines)


def _table(rows: Iterator[Row]) -> str:
    lines = ["| key | default | |", "| --- | --- | --- |"]
    for key, default, about in rows:
        shown = f"`{default}`" if default and default != "the default" else default
        lines.append(f"| `{key}` | {shown} | {about} |".replace("|  |", "| |"))
    return "\n".join(lines)


def _data_sets() -> str:
    lines = ["| data set | keys |", "| --- | --- |"]
    for name in DATASETS.ours:
        lines.append(f"| `{name}` | {option_words(DATASETS.load(name)) or 'none'} |")
    return "\n".join(lines)


def option_words(loader: Any) -> str:
    """What a data set says of its options: the paragraph `options:` of its docstring."""
    lines = iter((getdoc(loader) or "").splitlines())
    words: list[str] = []
    for line in lines:
        if words:
            if not line.startswith("        "):
                break
            words.append(line.strip())
        elif line.strip().startswith("options:"):
            words.append(line.strip().removeprefix("options:").strip())
    return " ".join(words)


def _other_names() -> str:
    every = [*all_keys(ExtractConfig), *all_keys(FuseConfig), *all_keys(EvaluateConfig)]
    lines = ["| elsewhere | here |", "| --- | --- |"]
    for alias, targets in sorted(ALIASES.items()):
        ends = tuple(f".{target}" for target in targets)
        found = dict.fromkeys(key for key in every if key in targets or key.endswith(ends))
        lines.append(f"| {alias} | {', '.join(f'`{key}`' for key in found)} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default as it is typed.

    >>> _shown((3, 7)), _shown(None), _shown(True), _shown("auto")
    ('3,7', 'null', 'true', 'auto')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
