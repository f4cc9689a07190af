"""Apply `key=value` words to a frozen config, with an error that suggests the nearest field."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tokenreel.cache.canonical import read_json
from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.fuse.config.base import as_typed

Config = TypeVar("Config", bound=BaseModel)

ALIASES = {  # what other programs call a key -> ours, the last parts of the whole key
    "architecture": ("backbone",),
    "arch": ("backbone",),
    "model": ("backbone",),
    "model_name": ("backbone",),
    "encoder": ("backbone",),
    "checkpoint": ("weights",),
    "ckpt": ("weights",),
    "pretrained": ("weights",),
    "weight": ("weights",),
    "layer": ("blocks",),
    "layers": ("blocks",),
    "img_size": ("image_size",),
    "input_size": ("image_size",),
    "resolution": ("image_size",),
    "size": ("image_size",),
    "frame_rate": ("fps",),
    "framerate": ("fps",),
    "num_frames": ("data.num_frames", "frames"),
    "seq_len": ("data.num_frames",),
    "sequence_length": ("data.num_frames",),
    "batch": ("batch_frames", "data.batch_clips"),
    "batch_size": ("batch_frames", "data.batch_clips"),
    "bs": ("batch_frames", "data.batch_clips"),
    "num_workers": ("workers",),
    "dtype": ("numeric", "optim.precision"),
    "precision": ("numeric", "optim.precision"),
    "amp": ("numeric", "optim.precision"),
    "gpu": ("device",),
    "cuda": ("device",),
    "augmentations": ("views",),
    "num_views": ("views",),
    "compression": ("codec",),
    "quantisation": ("codec",),
    "quantization": ("codec",),
    "learning_rate": ("optim.lr", "learning_rate"),
    "lr": ("optim.lr", "learning_rate"),
    "num_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "wd": ("optim.weight_decay",),
    "optimizer": ("optim.name",),
    "optimiser": ("optim.name",),
    "criterion": ("loss.name",),
    "random_seed": ("seed",),
    "num_heads": ("heads",),
    "metric": ("tasks",),
    "metrics": ("tasks",),
    "task": ("tasks",),
    "k": ("ks",),
    "stride": ("tau_stride", "retrieval_stride"),
}

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
        UsageError: a word without "=", an unknown field, a key with two values, or a value that
            does not validate.
    """
    words = list(words)
    require_one_value(words)
    for word in words:
        config = _choose_group(config, word, root=root)
    changes = config.model_dump()
    known = list(all_keys(type(config)))
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not key=value, such as seed=1")
        try:
            _set(config, changes, key.split("."), text, root=root)
        except _NoSuchField as error:
            own = key.removeprefix(f"{root}.")  # as errors name it
            name = own.partition(".")[0] if error.name == root else error.name
            is_whole = error.name == root and own in known
            near = f", write {own}" if is_whole else suggest(name, error.fields, known)
            raise UsageError(
                f"{error.dotted}: no such field{near} (has {', '.join(error.fields)})"
            ) from None
    try:
        return type(config).model_validate(changes)
    except ValidationError as error:
        raise UsageError(_format_error(error, config, root)) from None


def require_one_value(words: Iterable[str]) -> None:
    """Raise UsageError where two `key=value` words give one key different values.

    >>> require_one_value(["fps=5", "seed=1", "fps=5"])
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and given.setdefault(key, word) != word:
            raise UsageError(f"{given[key]} and {word}: {key} is given twice, leave one out")


class _NoSuchField(Exception):
    """A key that no group has, with the fields that there are."""

    def __init__(self, dotted: str, name: str, fields: list[str]) -> None:
        super().__init__(dotted)
        self.dotted, self.name, self.fields = dotted, name, fields


def all_keys(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a config as it is typed; a group of several kinds has the fields of all.

    >>> class Optim(BaseModel):
    ...     lr: float = 0.1
    >>> class Run(BaseModel):
    ...     seed: int = 0
    ...     optim: Optim = Optim()
    >>> list(all_keys(Run))
    ['seed', 'optim.lr']
    """
    seen = set()
    for name, field in config.model_fields.items():
        kinds = models_of(field.annotation)
        found = (key for kind in kinds for key in all_keys(kind, f"{prefix}{name}."))
        for key in found if kinds else [f"{prefix}{name}"]:
            if key not in seen:
                seen.add(key)
                yield key


def suggest(name: str, fields: Sequence[str], keys: Sequence[str]) -> str:
    """The part of an error that suggests a key; "" when none is near.

    A field of another group and what other programs call a key are found as well.

    Args:
        name: the unknown field.
        fields: those of its group.
        keys: all keys of the config.

    >>> keys = ["backbone", "write_threads", "optim.epochs"]
    >>> suggest("architecure", keys[:2], keys), suggest("epochs", keys[:2], keys)
    (', did you mean backbone?', ', did you mean optim.epochs?')
    """
    known: dict[str, list[str]] = {}
    for key in keys:
        known.setdefault(key.rpartition(".")[2], []).append(key)
    for alias, targets in ALIASES.items():
        ends = tuple(f".{target}" for target in targets)
        found = [key for key in keys if key in targets or key.endswith(ends)]
        if found and alias not in known:
            known[alias] = found
    if name not in known:
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.7)
        others = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if close or not others:
            return nearest(name, fields)
        name = others[0]
    return f", did you mean {' or '.join(known[name][:3])}?"


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
        kinds = [kind for field in fields for kind in models_of(field.annotation)]
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
        if not owners:
            raise _NoSuchField(dotted, name, list(fields))
        raise UsageError(
            f"{dotted}: no such field of {_kind_of(type(config))}, but of {', '.join(owners)}"
        )
    inner = getattr(config, name)
    if not rest:
        if isinstance(inner, BaseModel):
            known = ", ".join(type(inner).model_fields)
            raise UsageError(f"{dotted} is a group of fields: set one of {known}")
        changes[name] = _read(text, is_sequence=_is_sequence(fields[name].annotation))
    elif isinstance(inner, BaseModel):
        _set(inner, changes[name], rest, text, dotted, models_of(fields[name].annotation))
    else:
        raise UsageError(f"{dotted} has no fields: set {dotted}=value")


def _read(text: str, *, is_sequence: bool) -> Any:
    try:
        value = read_json(text)
    except ValueError:
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


def models_of(annotation: Any) -> list[type[BaseModel]]:
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
        if item["type"] == "too_short":
            what = "give at least one value"
        where = as_typed(type(config), item["loc"])
        lines.append(f"{'.'.join([root, *where])}: {what}{got}")
    return "\n".join(lines)
