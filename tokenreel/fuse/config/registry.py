"""Systems by name, those of plugins among them, and the config of a run by its `system`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import Table
from tokenreel.fuse.config.system import SystemConfig

FOLDER = Path(__file__).parents[1] / "systems"
SYSTEMS = Table(
    "system",
    "tokenreel.systems",
    {  # each is a folder of its name
        path.parent.name: f"tokenreel.fuse.systems.{path.parent.name}.system:SYSTEM"
        for path in sorted(FOLDER.glob("*/system.py"))
    },
)
DEFAULT = "mvformer"  # of a config without `system`, as versions before it wrote


def config_class(name: str) -> type[SystemConfig]:
    """The config of a system.  Imports no torch, unless a plugin does.

    Raises:
        UsageError: an unknown system, with the nearest; one whose config is of another name.
    """
    found = SYSTEMS.load(name).config
    field = found.model_fields.get("system")
    if field is None or field.default != name:
        raise UsageError(
            f"system {name!r}: its config {found.__name__} has no `system: "
            f'Literal["{name}"] = "{name}"`: name the field as the entry point'
        )
    checked: type[SystemConfig] = found
    return checked


def parse_config(fields: Mapping[str, Any]) -> SystemConfig:
    """The config of a run, of the system that its field `system` names; of MV-Former without.

    Args:
        fields: as this or an earlier version wrote them.

    Raises:
        UsageError: an unknown system.
        ValidationError: fields that this version does not know.
    """
    kind = config_class(str(fields.get("system", DEFAULT)))
    return kind.model_validate(kind.upgraded(dict(fields)))
