"""What every config of a run is: frozen, validated, and without a field that it does not know."""

import functools
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict

from tokenreel.cache.plugins import Table

log = logging.getLogger(__name__)


class FrozenConfig(BaseModel):
    """Base of all configs.

    Attributes:
        tables: of a group of fields with several kinds, those that packages add.
    """

    tables: ClassVar[Mapping[str, Table]] = MappingProxyType({})

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def with_(self, **changes: Any) -> Self:
        """A copy with other values of some fields, validated as a whole.

        Raises:
            ValidationError: an unknown field, or values that do not fit together.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(fields | changes)


def as_typed(config: type[BaseModel], where: Sequence[int | str]) -> list[str]:
    """The parts of a field's name as they are typed: pydantic adds the kind of a group to it.

    Args:
        config: that has the group.
        where: of an error of pydantic, such as ("loss", "scl", "temperature").
    """
    parts = [str(part) for part in where]
    field = config.model_fields.get(parts[0]) if parts else None
    if field is not None and isinstance(field.discriminator, str) and len(parts) > 1:
        kinds = get_args(field.annotation)
        if parts[1] in {kind.model_fields[field.discriminator].default for kind in kinds}:
            del parts[1]
    return parts


def renamed(field: str, old: str, new: str, value: Any) -> Any:
    """The value of a field, the new one where it has the old name; a line is logged once.

    Args:
        field: name of the field, such as "loss.pairs".
        old: value of earlier versions.
        new: what it is called now.
        value: as given.
    """
    if value != old:
        return value
    _log_renamed(field, old, new)
    return new


@functools.cache
def _log_renamed(field: str, old: str, new: str) -> None:
    log.warning("%s=%s is called %s=%s now", field, old, field, new)
