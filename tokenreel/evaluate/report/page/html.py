"""Markup, and the page around its sections: one HTML file that loads nothing from anywhere.

Plain text is escaped, so no clip's name can be markup.
"""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

VOID = frozenset({"img", "input", "meta", "br", "col"})
# Even a mistake in a section could not make the page ask the network for anything.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


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
    """A drawing of width x height units, with a label for a screen reader."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=label, **attributes)


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


def scroll(table: Html, label: str, *, tall: bool = False) -> Html:
    """A table in a region that scrolls, named for a screen reader.

    Where it is wider than the page, the script shows the line that says so; paper has all of it.
    """
    class_ = "scroll tall" if tall else "scroll"
    region = tag("div", table, class_=class_, tabindex="0", role="region", aria_label=label)
    return tag("div", tag("p", "Scroll sideways \u2192", class_="more"), region, class_="wide")


def absent(why: str) -> Html:
    """A line in place of what cannot be shown."""
    return tag("p", why, class_="absent")


def colour_class(colour: int) -> str:
    """The class of a recipe's colour; that of a control for -1."""
    return "control" if colour < 0 else f"c{colour % 8}"


def phase_class(label: int) -> str:
    """The class of a phase's colour: a scale of its own, in the order of the phases.

    >>> phase_class(2), phase_class(9), phase_class(-1)
    ('p2', 'p1', 'pnone')
    """
    return f"p{label % 8}" if label >= 0 else "pnone"


def swatch(colour: int) -> Html:
    """A square in the colour of a recipe, or of a control for -1."""
    return tag("span", class_=f"swatch {colour_class(colour)}", aria_hidden="true")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: for its address, letters only.
        title: heading.
        note: a sentence on what is shown and how to read it.
        body: markup.
    """

    name: str
    title: str
    note: str
    body: Html


def make_page(title: str, lead: Html, sections: Sequence[Section]) -> bytes:
    """The HTML file.

    Args:
        title: of the page.
        lead: markup below the title.
        sections: in their order.
    """
    links = [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections]
    parts = [
        tag(
            "section",
            tag("h2", section.title, id=f"{section.name}-title"),
            tag("p", section.note, class_="note"),
            section.body,
            id=section.name,
            aria_labelledby=f"{section.name}-title",
        )
        for section in sections
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        Html(f"<style>\n{_resource('page.css')}</style>"),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        tag("header", tag("h1", title), lead, class_="top"),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *parts, id="main"),
        Html(f"<script>\n{_resource('page.js')}</script>"),
    )
    page = join(Html("<!doctype html>\n"), tag("html", head, Html("\n"), body, lang="en"))
    return (page + "\n").encode()


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")
