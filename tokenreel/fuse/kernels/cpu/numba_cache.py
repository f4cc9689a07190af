"""Machine code of compiled loops, kept on disk for the next process."""

import functools
import hashlib
import importlib.resources
import logging
from collections.abc import Callable
from typing import Any

from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)

SOURCES = ("loops.py",)  # all that is compiled


class Kept(FunctionCache):
    """Numba's cache, where several processes fill it at once or the disk is full.

    Numba gives a file to a signature without a lock, so that it may hold the code of another; and
    it looks for changes in the module of a function, not where that calls another's.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code of a signature; None where there is none, and it is compiled."""
        found = super().load_overload(sig, target_context)
        return found if found is not None and found.signature.args == tuple(sig) else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code of a signature, where there is room for it."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log_once(str(error))

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), _sources()


def keep(loops: Any, function: Callable[..., Any]) -> None:
    """Keep the code of a function next to its module or in the user's cache.

    Args:
        loops: what Numba made of the function; nothing is compiled yet.
        function: plain.
    """
    try:
        loops._cache = Kept(function)  # what its enable_caching() sets
    except RuntimeError:  # as Numba says it
        _log_once("neither the folder of the package nor the user's cache can be written")


@functools.cache
def _log_once(reason: str) -> None:
    log.warning(
        "loops are compiled in each process, some seconds for a dtype: %s; set NUMBA_CACHE_DIR",
        reason,
    )


@functools.cache
def _sources() -> str:
    folder = importlib.resources.files(__package__)
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()
