"""Prints the rooms of the house and what they import, so that the drawing cannot drift.

    python docs/draw_architecture.py                 a table and a mermaid graph
    python docs/draw_architecture.py --write         the same into docs/architecture.md

Read with ``ast`` alone; imports inside functions count like those at the top. The layout test uses
the same functions.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {  # import name: folder
    "vis_projects": ROOT / "vis_projects",
    "vis_metrics": ROOT / "vis_metrics" / "src" / "vis_metrics",
}
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by docs/draw_architecture.py -->", "<!-- end of the drawing -->"

# Floors from the top; a room may import rooms of its own floor only as ROOMS says, and those below.
FLOORS = (
    ("cli",),
    ("annotate", "bulk", "report"),
    ("systems",),
    ("engine", "video", "data", "evaluation", "modeling", "weights"),
    ("structures", "config", "vis_metrics"),
)
# What a room may import of its own floor; a room that is not listed: nothing.
NEIGHBOURS = {
    "engine": {"video", "data", "evaluation", "modeling", "weights"},
    "video": {"engine", "data", "evaluation", "modeling", "weights"},
    "modeling": {"weights"},
    "config": {"structures"},
    "structures": {"vis_metrics"},
}
OUTSIDE_ROOMS = {
    "__main__",
    "moved_modules",
    "plug_ins",
}  # in the root of the package


def modules() -> dict[str, Path]:
    """Return every module of ours by its dotted name; a package stands under its own name."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = file
    return found


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported_names(name: str, file: Path) -> set[str]:
    """Return the dotted names that a module imports anywhere, relative ones resolved.

    ``from a import b`` gives ``a.b``; whether ``b`` is a module, ``imports`` finds out.
    """
    parts = name.split(".")
    package = parts if file.name == "__init__.py" else parts[:-1]
    found: set[str] = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{stem}.{alias.name}" for alias in node.names)
    return found


def imports(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return which modules of ours each module imports.

    The packages around an imported module run first, so they count too, except those that the
    importing module lies in itself.
    """
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        used: set[str] = set()
        for target in imported_names(name, file):
            parts = target.split(".")
            chain = [".".join(parts[: k + 1]) for k in range(len(parts))]
            known = [c for c in chain if c in files]
            used.update(c for c in known if not f"{name}.".startswith(f"{c}."))
            # ``from . import x``, and x is no module: the package itself is asked for
            if target not in files and known and known == chain[:-1]:
                used.add(known[-1])
        graph[name] = used - {name}
    return graph


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the sets of modules that reach each other (Tarjan), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def room_of(name: str) -> str:
    """Return the room of a module: the folder below ``vis_projects``, or ``vis_metrics``."""
    parts = name.split(".")
    if parts[0] == "vis_metrics":
        return "vis_metrics"
    if len(parts) == 1:
        return "(package)"
    return "config" if parts[1].startswith("config") else parts[1]


def floor_of(room: str) -> int:
    """Return the number of a room's floor, 0 on top; every folder that is not named is a system."""
    named = (k for k, rooms in enumerate(FLOORS) if room in rooms)
    return next(named, FLOORS.index(("systems",)))


def allowed(room: str, other: str) -> bool:
    """Tell whether one room may import another."""
    if room == other or other in NEIGHBOURS.get(room, ()):
        return True
    return floor_of(other) > floor_of(room)


def rooms() -> dict[str, set[str]]:
    """Return which rooms each room imports; root modules other than ``config`` are left out."""
    files = modules()
    folders = {n for n in (room_of(name) for name in files) if n != "(package)"}
    folders -= OUTSIDE_ROOMS
    used: dict[str, set[str]] = {n: set() for n in folders}
    for name, targets in imports(files).items():
        room = room_of(name)
        if room in used:
            used[room].update(r for r in map(room_of, targets) if r in used and r != room)
    return used


def drawing() -> str:
    """Return the table of floors and rooms and the mermaid graph."""
    used = rooms()
    count: dict[str, int] = {}
    for name in modules():
        count[room_of(name)] = count.get(room_of(name), 0) + 1
    lines = ["| Floor | Room | Modules | Imports |", "|---|---|---|---|"]
    for k in range(len(FLOORS)):
        for room in sorted(r for r in used if floor_of(r) == k):
            targets = ", ".join(f"`{t}`" for t in sorted(used[room])) or "nothing of ours"
            lines.append(f"| {len(FLOORS) - k} | `{room}` | {count[room]} | {targets} |")
    lines += ["", "```mermaid", "graph TD"]
    for k in range(len(FLOORS)):
        here = sorted(r for r in used if floor_of(r) == k)
        if here:
            lines.append(f"  subgraph floor{len(FLOORS) - k}[floor {len(FLOORS) - k}]")
            lines += [f"    {room}" for room in here]
            lines.append("  end")
    for room in sorted(used):
        lines += [f"  {room} --> {t}" for t in _direct(room, used)]
    return "\n".join([*lines, "```"])


def _direct(room: str, used: Mapping[str, set[str]]) -> list[str]:
    """Return the rooms that one imports and does not reach through another: fewer arrows."""

    def reach(start: str, skip: str) -> set[str]:
        seen: set[str] = set()
        todo = [t for t in used[start] if t != skip]
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += [t for t in used[node] if t != start]
        return seen

    return sorted(t for t in used[room] if t not in reach(room, t))


def page(text: str) -> str:
    """Return a page's text with the drawing of today between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing()}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the rooms of the house and their imports.")
    parser.add_argument("--write", action="store_true", help=f"write into {PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(drawing())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
