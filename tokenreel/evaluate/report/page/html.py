"""Text, tags and numbers of the page.  Plain text is escaped, so no clip's name can be markup."""

import html
import json
import math
from typing import Any

__all__ = ["Html", "join", "number", "script_data", "svg", "tag", "text"]

VOID = frozenset({"img", "input", "meta", "br", "col"})


class Html(str):
    """Markup that is put into the page as it is."""

    __slots__ = ()


def text(value: object) -> Html:
    """Escaped text; markup stays.

    >>> text("a < b"), text(Html("<br>"))
    ('a &lt; b', '<br>')
    """
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def join(*parts: object) -> Html:
    """Markup of parts, one after the other; None is nothing."""
    return Html("".join(text(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: Any) -> Html:
    """An element.

    Attributes: a trailing underscore is dropped, others become hyphens; True is an attribute
    without a value, None and False none at all.

    >>> tag("td", "a & b", class_="x", data_value=2, hidden=False)
    '<td class="x" data-value="2">a &amp; b</td>'
    """
    words = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(label)
        elif value is not None and value is not False:
            words.append(f'{label}="{html.escape(str(value), quote=True)}"')
    head = Html("<" + " ".join(words) + ">")
    return head if name in VOID else join(head, *children, Html(f"</{name}>"))


def svg(width: float, height: float, /, *children: object, label: str, **attributes: Any) -> Html:
    """A drawing of that many units, with the words that stand for it."""
    box = f"0 0 {width:g} {height:g}"
    head = Html(f'<svg viewBox="{box}" role="img" aria-label="{html.escape(label, quote=True)}"')
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
    )
    return join(head, Html(words + ">"), *children, Html("</svg>"))


def number(value: float, digits: int = 3) -> str:
    """A number for people; a dash where there is none.

    >>> number(0.12345), number(float("nan"))
    ('0.123', '-')
    """
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def script_data(value: object, *, name: str) -> Html:
    """Data for the page's script, in an element that is never run."""
    data = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    safe = data.replace("<", "\\u003c")
    return Html(f'<script type="application/json" data-name="{html.escape(name)}">{safe}</script>')
