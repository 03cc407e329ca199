"""The house stays in order: imports run downwards, options are read, files stay small."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from vis_projects.config import CONFIG_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vis_projects"
SHARED = {
    "structures": {"structures"},
    "config": {"structures", "config"},
    "modeling": {"modeling"},
    "engine": {"modeling", "engine", "data", "evaluation", "video"},
    "data": {"modeling", "data"},
    "evaluation": {"evaluation"},  # never data, never a model: metadata come as arguments
    "video": {"modeling", "engine", "data", "evaluation", "video"},
    "cli": {"cli", "modeling", "engine", "data", "evaluation", "video"},  # never a system
}
BOTTOM = {"structures", "config"}
FOLDERS = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
SYSTEMS = sorted(FOLDERS - set(SHARED) - {"configs"})
MODULES = sorted(PACKAGE.rglob("*.py"))
METRICS = ROOT / "vis_metrics/src/vis_metrics"
METRICS_NEEDS = {"numpy", "scipy", "cv2", "pycocotools", "tqdm", "PIL"}


def area_of(file: Path) -> str:
    relative = file.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_areas(file: Path) -> set[str]:
    """Top-level parts of vis_projects that a module imports, in whatever way."""
    areas = set()
    package = ("vis_projects", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "vis_projects" and len(parts) > 1:
                areas.add(parts[1])
    return areas & (FOLDERS | {"config"})


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_downwards(file: Path) -> None:
    area = area_of(file)
    if area == "__init__":
        return
    used = imported_areas(file)
    if area in SHARED:
        allowed = SHARED[area] | BOTTOM
        assert used <= allowed, f"{area} must not import {sorted(used - allowed)}"
    else:
        others = used & set(SYSTEMS) - {area}
        assert not others, f"system {area} imports {sorted(others)}: go through a registry"


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


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_hold_one_concept(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 460, "split this file"
    assert file.stem not in ("utils", "util", "misc", "common", "helpers")


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


@pytest.mark.parametrize("folder", [METRICS, METRICS / "files", PACKAGE / "evaluation"])
def test_shared_folders_stay_small(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= 14, "two folders"


def test_no_detectron2_folder_in_the_root() -> None:
    assert not (ROOT / "detectron2").exists(), "a namespace package would shadow the provider"
