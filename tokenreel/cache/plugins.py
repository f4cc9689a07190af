"""Tables of what people add: each name is ours, or that of a plugin found by its entry point.

A plugin is a package with an entry point in one of the groups `tokenreel.datasets`, `.codecs`,
`.backbones`, `.systems`, `.losses`, `.tasks` and `.engines`.  Names are listed from the metadata
of installed packages alone: nothing is imported before a name is loaded.
"""

import difflib
import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

from tokenreel.cache.errors import UsageError


@dataclass(frozen=True)
class Table:
    """Things of one kind by name.

    Attributes:
        kind: what one of them is, for errors: "codec".
        group: of the entry points of plugins: "tokenreel.codecs".
        ours: name -> "module:attribute" of those of TokenReel.
    """

    kind: str
    group: str
    ours: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.ours or bool(self._plugins(name))

    def names(self) -> list[str]:
        """All names: ours in their order, then those of plugins, sorted.  Imports nothing."""
        added = {point.name for point in _points_of(self.group)} - self.ours.keys()
        return [*self.ours, *sorted(added)]

    def load(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            UsageError: no such name, with the nearest; a name that is given twice, with both
                places; a plugin that cannot be imported, with its package and the reason.
        """
        plugins = self._plugins(name)
        homes = [*([f"TokenReel ({self.ours[name]})"] if name in self.ours else [])]
        homes += [_home(point) for point in plugins]
        if not homes:
            raise UsageError(
                f"no {self.kind} {name!r}{nearest(name, self.names())} (known: "
                f"{', '.join(self.names())}; packages add more by the entry point {self.group})"
            )
        if len(homes) > 1:
            raise UsageError(
                f"{self.kind} {name!r} is given twice, by {' and by '.join(homes)}: "
                "uninstall one of the packages, or rename its entry point"
            )
        if not plugins:
            module, _, attribute = self.ours[name].partition(":")
            return getattr(import_module(module), attribute)
        try:
            return plugins[0].load()
        except Exception as error:  # a plugin may raise anything when it is imported
            raise UsageError(
                f"{self.kind} {name!r} of {homes[0]} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _plugins(self, name: str) -> list[EntryPoint]:
        """The entry points of a name; a package that is found twice on the path counts once."""
        found = {
            (point.value, point.dist.name if point.dist else ""): point
            for point in _points_of(self.group).select(name=name)
        }
        return list(found.values())


def _points_of(group: str) -> EntryPoints:
    """Entry points of a group; read again where the folders that packages lie in have changed."""
    return _read_points(group, tuple((folder, _changed_at(folder)) for folder in sys.path))


@functools.cache
def _read_points(group: str, folders: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=group)


def _changed_at(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


def _home(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "a package"
    return f"{package} ({point.value})"


def nearest(word: str, known: Iterable[str], *, count: int = 1) -> str:
    """The part of an error that suggests the nearest known words; "" when none is near.

    Args:
        word: that is not known.
        known: the words that are.
        count: most that are suggested.

    >>> nearest("finegim", ["finegym", "folder"])
    ', did you mean finegym?'
    >>> nearest("carl-pen", ["carl-penn", "carl-pouring", "sample"], count=2)
    ', did you mean carl-penn or carl-pouring?'
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=count, cutoff=0.7)  # of several, the very near
    close = close or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {' or '.join(close)}?" if close else ""
