"""The house stays in order: imports run downwards, options are read, files stay small."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from vis_projects.config import CONFIG_REGISTRY
from vis_projects.moved_modules import MOVED, MOVED_NAMES, new_name

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/draw_architecture.py")
architecture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(architecture)
PACKAGE = architecture.PACKAGES["vis_projects"]
FILES = architecture.modules()
MODULES = sorted(FILES.values())
GRAPH = architecture.imports(FILES)
METRICS = architecture.PACKAGES["vis_metrics"]
METRICS_NEEDS = {"numpy", "scipy", "cv2", "pycocotools", "tqdm", "PIL"}
# folders that several systems share; a system's own folder may be longer
SHARED_FOLDERS = [
    *(d for d in sorted((PACKAGE / "data").iterdir()) if (d / "__init__.py").is_file()),
    *(PACKAGE / n for n in ("data", "evaluation", "structures", "video")),
    *(PACKAGE / n for n in ("weights", "bulk", "report", "annotate")),
    METRICS,
    METRICS / "files",
]


@pytest.mark.parametrize("room", sorted(architecture.rooms()))
def test_imports_run_downwards(room: str) -> None:
    """Imports inside functions count like those at the top of a file."""
    for name, targets in GRAPH.items():
        if architecture.room_of(name) != room:
            continue
        for target in targets:
            other = architecture.room_of(target)
            if other == "(package)" or other in architecture.OUTSIDE_ROOMS:
                continue
            assert architecture.allowed(room, other), (
                f"{name} imports {target}: {room} must not import {other}; let the higher room "
                "register itself, or move what both need down"
            )


def test_no_two_files_import_each_other_in_a_circle() -> None:
    found = architecture.circles(GRAPH)
    assert not found, "\n".join(" <-> ".join(c) for c in found)


def test_a_circle_and_a_lazy_import_are_seen(tmp_path: Path) -> None:
    """The rules above have to see what they forbid."""
    (tmp_path / "a.py").write_text("def f():\n    from .b import g\n")
    (tmp_path / "b.py").write_text("import vis_projects.x.a\n")
    (tmp_path / "c.py").write_text("from .. import engine\nfrom . import a\n")
    files = {f"vis_projects.x.{k}": tmp_path / f"{k}.py" for k in "abc"}
    files["vis_projects.engine"] = tmp_path / "engine.py"
    (tmp_path / "engine.py").write_text("")
    graph = architecture.imports(files)
    assert architecture.circles(graph) == [["vis_projects.x.a", "vis_projects.x.b"]]
    assert graph["vis_projects.x.c"] == {"vis_projects.engine", "vis_projects.x.a"}
    for room, other in (("crossvis", "srnet"), ("data", "engine"), ("modeling", "crossvis")):
        assert not architecture.allowed(room, other)
    assert not architecture.allowed("vis_metrics", "structures")
    assert architecture.allowed("cli", "crossvis") and architecture.allowed("srnet", "data")


@pytest.mark.parametrize("folder", SHARED_FOLDERS, ids=lambda f: f.name)
def test_shared_folders_stay_small(folder: Path) -> None:
    names = [f.name for f in folder.glob("*.py") if f.name != "__init__.py"]
    assert len(names) <= 14, f"{folder.name} holds {len(names)} modules: make two folders of it"


def test_the_drawing_is_of_today() -> None:
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.page(text) == text, "run: python docs/draw_architecture.py --write"


@pytest.mark.parametrize("old", sorted(MOVED))
def test_old_names_of_modules_work_with_a_warning(old: str) -> None:
    new = import_module(new_name(old))
    sys.modules.pop(f"vis_projects.{old}", None)
    with pytest.warns(FutureWarning, match=re.escape(MOVED[old])):
        assert import_module(f"vis_projects.{old}") is new


def test_old_names_that_left_such_a_module_work_too() -> None:
    for old in MOVED_NAMES:
        module, _, name = old.rpartition(".")
        place, _, attribute = new_name(old).rpartition(".")
        sys.modules.pop(f"vis_projects.{module}", None)
        with pytest.warns(FutureWarning, match=re.escape(MOVED[module])):
            found = getattr(import_module(f"vis_projects.{module}"), name)
        assert found is getattr(import_module(place), attribute)


def leaves(node: CfgNode, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        found += leaves(value, name + ".") if isinstance(value, CfgNode) else [name]
    return found


def reads_of(text: str) -> str:
    """Source without add_config functions, where options are only defined."""
    tree = ast.parse(text)
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and re.match(r"_?add_\w*config|_add_\w+", node.name):
            for i in range(node.lineno - 1, node.end_lineno):
                lines[i] = ""
    return "\n".join(lines)


@pytest.mark.parametrize("name", sorted(CONFIG_REGISTRY))
def test_every_option_is_read(name: str) -> None:
    from detectron2.config import get_cfg as stock

    before, after = set(leaves(stock())), stock()
    CONFIG_REGISTRY[name](after)
    sources = [*MODULES, *ROOT.glob("*.py")]
    text = "\n".join(reads_of(f.read_text()) for f in sources)
    for option in set(leaves(after)) - before:
        key = option.rsplit(".", 1)[-1]
        read = re.search(rf'(\.{key}\b(?!\s*=[^=]))|(["\']{key}["\'])', text)
        assert read, f"option {option} is defined but never read"


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_hold_one_concept(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 460, "split this file"
    assert file.stem not in ("utils", "util", "misc", "common", "helpers")


def test_no_detectron2_folder_in_the_root() -> None:
    assert not (ROOT / "detectron2").exists(), "a namespace package would shadow the provider"


@pytest.mark.parametrize("file", sorted(METRICS.rglob("*.py")), ids=lambda f: f.stem)
def test_metrics_stand_alone(file: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            used |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used.add(node.module.split(".")[0])
    foreign = used - set(sys.stdlib_module_names) - METRICS_NEEDS
    assert not foreign, f"vis_metrics must not import {sorted(foreign)}"
    assert len(file.read_text().splitlines()) <= 460, "split this file"
