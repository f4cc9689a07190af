"""Apply `key=value` words to a frozen config, with an error that suggests the nearest field."""

import json
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.fuse.config.base import as_typed

Config = TypeVar("Config", bound=BaseModel)

LISTS = r"/|(?<=\]), *(?=\[)"  # separator of the values of a list field: 3,7/11 or [3],[7]


def apply_overrides(config: Config, words: Iterable[str], *, root: str) -> Config:
    """A copy of the config with every `a.b=value` applied, then validated as a whole.

    A value is read as JSON where it is JSON (3, 0.5, true, null, [9,10,11]), `9,10,11` as a list
    where the field is a sequence, and as text otherwise.  A word that chooses a group of fields by
    its name, `loss.name=tcc`, comes before all others, and gives that group its defaults, but for
    the fields that both kinds have from a common base, such as `pooling.blocks`.

    Args:
        config: what to start from; it is not changed.
        words: the words, `key=value`.
        root: first part of the field names in errors, such as "fuse".

    Raises:
        UsageError: a word without "=", an unknown field, or a value that does not validate.
    """
    words = list(words)
    for word in words:
        config = _choose_group(config, word, root=root)
    changes = config.model_dump()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not key=value, such as seed=1")
        _set(config, changes, key.split("."), text, root=root)
    try:
        return type(config).model_validate(changes)
    except ValidationError as error:
        raise UsageError(_format_error(error, config, root)) from None


def expand_grid(config: BaseModel, word: str) -> list[str]:
    """`key=a,b,c` as one word a value; values of a field that is a list are separated by "/".

    >>> class Few(BaseModel):
    ...     seed: int = 0
    ...     blocks: tuple[int, ...] = ()
    >>> expand_grid(Few(), "seed=0,1")
    ['seed=0', 'seed=1']
    >>> expand_grid(Few(), "blocks=3,7/11")
    ['blocks=3,7', 'blocks=11']
    >>> expand_grid(Few(), "blocks=[3,7],[11]")
    ['blocks=[3,7]', 'blocks=[11]']
    """
    key, equals, text = word.partition("=")
    *groups, name = key.split(".")
    kinds = [type(config)]
    for group in groups:  # of which there may be several kinds, such as losses
        fields = [kind.model_fields[group] for kind in kinds if group in kind.model_fields]
        kinds = [kind for field in fields for kind in _models(field.annotation)]
    known = [kind.model_fields[name].annotation for kind in kinds if name in kind.model_fields]
    if not equals or not known:
        return [word]  # apply_overrides reports the error
    mark = LISTS if any(map(_is_sequence, known)) else ","
    return [f"{key}={value}" for value in re.split(mark, text)]


def _choose_group(config: Config, word: str, *, root: str) -> Config:
    """The config with another kind of a group, where the word is the name that chooses one."""
    key, _, text = word.partition("=")
    group, _, name = key.partition(".")
    field = type(config).model_fields.get(group)
    if field is None or field.discriminator != name:
        return config
    kinds = {kind.model_fields[name].default: kind for kind in get_args(field.annotation)}
    table = getattr(type(config), "tables", {}).get(group)
    if text not in kinds and table is not None and text in table:
        kinds[text] = table.load(text).config
    if text not in kinds:
        known = table.names() if table is not None else list(kinds)
        more = f"; packages add more by the entry point {table.group}" if table is not None else ""
        raise UsageError(
            f"{root}.{key}: no {group} {text!r}{nearest(text, known)} (there is: "
            f"{', '.join(known)}{more})"
        )
    inner, kind = getattr(config, group), kinds[text]
    if isinstance(inner, kind):
        return config
    bases = [base for base in type(inner).__mro__ if issubclass(kind, base)]
    common = {name for base in bases if issubclass(base, BaseModel) for name in base.model_fields}
    kept = {field: getattr(inner, field) for field in common - {name}}
    return config.model_copy(update={group: kind.model_validate(kept)})


def _set(
    config: BaseModel,
    changes: dict[str, Any],
    key: list[str],
    text: str,
    root: str,
    others: Iterable[type[BaseModel]] = (),
) -> None:
    fields = type(config).model_fields
    name, *rest = key
    dotted = f"{root}.{name}"
    if name not in fields:
        owners = [_kind_of(kind) for kind in others if name in kind.model_fields]
        raise UsageError(
            f"{dotted}: no such field of {_kind_of(type(config))}, but of {', '.join(owners)}"
            if owners
            else f"{dotted}: no such field{nearest(name, fields)} (has {', '.join(fields)})"
        )
    inner = getattr(config, name)
    if not rest:
        if isinstance(inner, BaseModel):
            known = ", ".join(type(inner).model_fields)
            raise UsageError(f"{dotted} is a group of fields: set one of {known}")
        changes[name] = _read(text, is_sequence=_is_sequence(fields[name].annotation))
    elif isinstance(inner, BaseModel):
        _set(inner, changes[name], rest, text, dotted, _models(fields[name].annotation))
    else:
        raise UsageError(f"{dotted} has no fields: set {dotted}=value")


def _read(text: str, *, is_sequence: bool) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if is_sequence and not isinstance(value, list) and value is not None:
        return [_read(part, is_sequence=False) for part in text.split(",")] if text else []
    return value


def _kind_of(kind: type[BaseModel]) -> str:
    """What chooses a kind of a group, such as `name=tcc`: its only field of one possible value."""
    chosen = [
        f"{name}={field.default}"
        for name, field in kind.model_fields.items()
        if get_origin(field.annotation) is Literal
        and get_args(field.annotation) == (field.default,)
    ]
    return ", ".join(chosen) or kind.__name__


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a field may hold."""
    kinds = get_args(annotation) or (annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _is_sequence(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list) or any(map(_is_sequence, get_args(annotation)))


def _format_error(error: ValidationError, config: BaseModel, root: str) -> str:
    lines = []
    for item in error.errors():
        given = item["input"]  # a whole group where several of its fields do not fit together
        got = "" if isinstance(given, dict | BaseModel) else f", got {given!r}"
        what = item["msg"].removeprefix("Value error, ")
        where = as_typed(type(config), item["loc"])
        lines.append(f"{'.'.join([root, *where])}: {what}{got}")
    return "\n".join(lines)
