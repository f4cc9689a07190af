"""The page around its sections: one HTML file that loads nothing from anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from tokenreel.evaluate.report.page.html import Html, join, tag

__all__ = ["Section", "make_page"]

# Even a mistake in a section could not make the page ask the network for anything.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


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
        lead: what stands below the title.
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
