"""The commands and the code that stand on the pages, as text.

A command is a line of a fence without a language (several lines joined by a backslash), an indented
line that begins with a program, or code within a sentence that begins with a program and goes on
with an option, a file or a config. A fence with a title is a file of that name.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
    "CONTRIBUTING.md",
    "datasets/README.md",
]
PROGRAMS = (
    *("vis", "vis-score", "python", "python3", "torchrun", "sh"),
    *("pip", "make", "pytest", "git", "srun", "ruff", "mkdocs"),
)
_FENCE = re.compile(r"^\s*```(\w*)\s*(?:title=\"(.+)\")?\s*$")
_ASSIGNMENT = re.compile(r"[A-Z_0-9]+=.*")
_GOES_ON = re.compile(
    r"\s(-|[\w.]*/|\S+\.(py|sh|txt|mp4|yaml|pth)\b|(convert|split|check|test|-m)\b)"
)


@dataclass
class Page:
    """What a page has: commands, files, and code in Python, each in its order."""

    name: str
    commands: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """Split a command into the variables that it sets and its words."""
    words = shlex.split(command)
    count = next((i for i, w in enumerate(words) if not _ASSIGNMENT.fullmatch(w)), len(words))
    return dict(w.split("=", 1) for w in words[:count]), words[count:]


def begins_with_a_program(line: str) -> bool:
    """Tell whether a line starts with a known program, behind variables."""
    try:
        _, words = words_of(line)
    except ValueError:  # an apostrophe: prose
        return False
    return bool(words) and (words[0] in PROGRAMS or words[0].endswith(".sh"))


def read_page(name: str) -> Page:
    """Collect what stands on a page.

    Raises:
        ValueError: a line of a fence without a language begins with no known program.
    """
    page, prose, fence = Page(name), [], None
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        found = _FENCE.match(line)
        if found and fence is None:
            fence, block = (found[1], found[2]), []
        elif found:
            _take_block(page, *fence, block)
            fence = None
        elif fence is not None:
            block.append(line)
        elif re.match(r" {4}\S", line) and begins_with_a_program(line):
            page.commands.append(_plain(line))
        else:
            prose.append(line)
    for span in re.findall(r"`([^`]+)`", "\n".join(prose)):
        if begins_with_a_program(span) and _GOES_ON.search(span):
            page.commands.append(_plain(span))
    page.commands = list(dict.fromkeys(page.commands))
    return page


def _take_block(page: Page, language: str, title: str | None, lines: list[str]) -> None:
    if title:
        page.files[title] = "\n".join(lines) + "\n"
    elif language == "python":
        page.code.append("\n".join(lines) + "\n")
    elif language in ("", "sh", "bash"):
        for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
            if not line.strip():
                continue
            if not begins_with_a_program(_plain(line)):
                raise ValueError(f"{page.name}: no program that is known begins {line!r}")
            page.commands.append(_plain(line))


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\s#.*$", "", line)).strip()
