"""Hooks of the site: no page may load anything from a network."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LOADED = re.compile(
    r"<(?:link|script|img|iframe|source|video|audio|object|embed)\b[^>]*?"
    r"\b(?:href|src|srcset|data|poster)\s*=\s*[\"']?\s*(?:https?:)?//[^\"'\s>]+",
    re.IGNORECASE,
)
CANONICAL = re.compile(r"<link\b[^>]*\brel=[\"']?(?:canonical|prev|next)\b", re.IGNORECASE)
IMPORTED = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//[^)\"'\s]+", re.IGNORECASE)
DRAWN_ELSEWHERE = re.compile(r"<pre class=\"mermaid\"|<div class=\"mermaid\"")


def loads_from_network(html: str) -> list[str]:
    """What a page would load from another host: tags, imports of styles, mermaid diagrams.

    >>> loads_from_network('<a href="https://a.org">A</a> <img src="img/flow.svg">')
    []
    >>> loads_from_network('<script async src="https://a.org/x.js"></script>')
    ['<script async src="https://a.org/x.js']
    """
    tags = [tag for tag in LOADED.findall(html) if not CANONICAL.match(tag)]
    return [*tags, *IMPORTED.findall(html), *DRAWN_ELSEWHERE.findall(html)]


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that loads something from a network."""
    if found := loads_from_network(output):
        raise PluginError(f"{page.file.src_uri} loads {found[0]}: keep it in docs/")
    return output


def on_post_build(config: Any) -> None:
    """Refuse styles that load something from a network."""
    for path in Path(config.site_dir).rglob("*.css"):
        if found := IMPORTED.findall(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.name} loads {found[0]}")
