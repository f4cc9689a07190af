"""One progress display for every phase: a bar on a terminal, plain lines in a file.

A SLURM log filled with carriage returns cannot be read; off a terminal a line is written every
PLAIN_SECONDS, and one at the end.
"""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

PLAIN_SECONDS = 30.0

_KNOWN_TOTAL = (
    "{desc}: {n_fmt}/{total_fmt} {unit}, {percentage:.0f} %, {elapsed} gone, {remaining} left,"
    " {rate_fmt}{postfix}"
)
_UNKNOWN_TOTAL = "{desc}: {n_fmt} {unit}, {elapsed} gone, {rate_fmt}{postfix}"


class Progress(tqdm):  # type: ignore[misc]
    """A tqdm bar on a terminal; whole lines elsewhere.

    Args:
        iterable: what to count, or None to call `update` by hand.
        desc: what is being done.
        unit: what is counted, in the singular.
        total: how many there are; None when that is not known.
        enabled: False shows nothing at all.
        initial: how many were done before.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        unit: str,
        total: int | None = None,
        enabled: bool = True,
        initial: int = 0,
    ) -> None:
        self._is_plain = not sys.stderr.isatty()
        self._is_closing = False
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        plain: dict[str, Any] = {
            "mininterval": PLAIN_SECONDS,
            "miniters": 1,
            "delay": 1e-9,  # no line before anything is done
            "bar_format": _UNKNOWN_TOTAL if total is None else _KNOWN_TOTAL,
        }
        super().__init__(
            iterable,
            desc=desc,
            unit=unit,
            total=total,
            disable=not enabled,
            initial=initial,
            file=sys.stderr,
            **(plain if self._is_plain else {"smoothing": 0.05}),
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the current state: in place on a terminal, as a line elsewhere."""
        if not self._is_plain:
            super().display(msg, pos)
            return
        self.fp.write(str(self) if msg is None else msg)
        if not self._is_closing:  # tqdm ends the last line itself
            self.fp.write("\n")
        self.fp.flush()

    def close(self) -> None:
        """Write the last state."""
        self._is_closing = True
        super().close()
