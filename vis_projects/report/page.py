"""``report.html``: one self-contained page, made of sections."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.checkpointer import write_atomically

logger = logging.getLogger(__name__)
MOST_MEGABYTES = 10.0


@dataclass
class Table:
    """Rows of text; ``numbers``: all cells but the first of a row are figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False
    folded: str = ""  # the line to click, for tables that are folded up


@dataclass
class Drawing:
    """An SVG and what it shows."""

    svg: str
    caption: str


@dataclass
class Clip:
    """A video as a ``data:`` address and what it shows."""

    data: str
    title: str


@dataclass
class Tile:
    """One figure that a reader looks for first."""

    name: str
    value: str
    more: str = ""


@dataclass
class Section:
    """A part of the page; empty drawings are left out."""

    title: str
    text: str = ""
    tiles: list[Tile] = field(default_factory=list)
    figures: list[Drawing] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.text or self.tiles or self.figures or self.clips or self.tables)


def write_page(file: Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write the page; loops are left out, the largest first, until it is below 10 MB."""
    for section in sections:
        section.figures = [f for f in section.figures if f.svg]
    kept = [s for s in sections if not s.empty]
    text = _render(title, subtitle, kept)
    while len(text) > MOST_MEGABYTES * 1e6 and any(s.clips for s in kept):
        largest = max((c for s in kept for c in s.clips), key=lambda c: len(c.data))
        for section in kept:
            section.clips = [c for c in section.clips if c is not largest]
        logger.warning("%s: left out, the page would be too large: %s", file, largest.title)
        text = _render(title, subtitle, kept)
    write_atomically(file, lambda stream: stream.write(text.encode()))
    return file


def _render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    values: dict[str, Any] = {"title": title, "subtitle": subtitle, "sections": sections}
    return environment.get_template("page.html.jinja").render(**values)
