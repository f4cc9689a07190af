"""Apply `key=value` words to a frozen config, with an error that suggests the nearest field."""

import difflib
import json
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tokenreel.cache.errors import UsageError

__all__ = ["apply_overrides", "nearest"]

Config = TypeVar("Config", bound=BaseModel)


def nearest(word: str, known: Iterable[str]) -> str:
    """The sentence part that suggests the nearest known word, "" when nothing is near.

    >>> nearest("finegim", ["finegym", "folder"])
    ', did you mean finegym?'
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""


def apply_overrides(config: Config, words: Iterable[str], *, root: str) -> Config:
    """A copy of the config with every `a.b=value` applied and validated as a whole.

    Values are read as JSON where they are JSON (3, 0.5, true, null, [9,10,11]), `9,10,11` as a
    list where the field is a sequence, and as text otherwise.

    Args:
        config: the config to start from; it is not changed.
        words: the words, `key=value`.
        root: first part of the field names in errors, such as "fuse".

    Raises:
        UsageError: a word without "=", an unknown field, or a value that does not validate.
    """
    changes = config.model_dump()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not key=value, for example {_example(config)}")
        _set(config, changes, key, text, root=root)
    try:
        return type(config).model_validate(changes)
    except ValidationError as error:
        raise UsageError(_say(error, root)) from None


def _set(config: BaseModel, changes: dict[str, Any], key: str, text: str, *, root: str) -> None:
    model: Any = config
    values: Any = changes
    *path, last = key.split(".")
    done = [root]
    for part in [*path, last]:
        if isinstance(model, BaseModel):
            known = type(model).model_fields
            if part not in known:
                name = ".".join([*done, part])
                raise UsageError(
                    f"{name}: no such field{nearest(part, known)} fields: {', '.join(known)}"
                )
        if part is last and len(done) == len(path) + 1:
            annotation = (
                type(model).model_fields[part].annotation if isinstance(model, BaseModel) else None
            )
            values[part] = _read(text, annotation)
            return
        model = getattr(model, part) if isinstance(model, BaseModel) else model[part]
        values = values[part]
        done.append(part)
        if not isinstance(values, dict):
            raise UsageError(f"{'.'.join(done)} has no fields, it is {values!r}")


def _read(text: str, annotation: Any) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if _is_sequence(annotation) and not isinstance(value, list):
        return [_read(part, None) for part in text.split(",")] if text else []
    return value


def _is_sequence(annotation: Any) -> bool:
    origins = [annotation, *get_args(annotation)]
    return any(getattr(item, "__origin__", item) in (tuple, list) for item in origins)


def _example(config: BaseModel) -> str:
    for name, value in config.model_dump().items():
        if isinstance(value, int | float | str):
            return f"{name}={value}"
    return "seed=0"


def _say(error: ValidationError, root: str) -> str:
    lines = []
    for item in error.errors():
        name = ".".join([root, *(str(part) for part in item["loc"])])
        lines.append(f"{name}: {item['msg']}, got {item['input']!r}")
    return "\n".join(lines)
