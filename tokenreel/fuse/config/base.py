"""What every config of a run is: frozen, validated, and without a field that it does not know."""

import functools
import logging
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

log = logging.getLogger(__name__)


class FrozenConfig(BaseModel):
    """Base of all configs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def with_(self, **changes: Any) -> Self:
        """A copy with other values of some fields, validated as a whole.

        Raises:
            ValidationError: an unknown field, or values that do not fit together.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(fields | changes)


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
