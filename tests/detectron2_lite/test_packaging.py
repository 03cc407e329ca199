"""An official Detectron2 wins over the provider, in every order and form of installation.

The official package is played by a dummy of the same name. The fast tests lay out the files as an
installer would and let ``site`` process them; the slow one goes through pip.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.lite

LITE = Path(__file__).parents[2] / "detectron2_lite"
SOURCE = LITE / "src"
OFFICIAL, PROVIDER = "0.6 official", "0.6+lite provider"

# Prints the version, whose package it is, and whether the provider's submodules show through.
PROBE = """
import detectron2, importlib.util
official = hasattr(detectron2, "DUMMY")
has_parts = importlib.util.find_spec("detectron2.structures") is not None
mixed = " mixed" if official == has_parts or len(detectron2.__path__) != 1 else ""
print(detectron2.__version__, ("official" if official else "provider") + mixed)
"""


def write_dummy(folder: Path) -> Path:
    """Write a package that looks like an official Detectron2 without its contents."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.6"\nDUMMY = True\n')
    return folder


def install_lite(site: Path, form: str) -> None:
    """Lay the distribution out as a wheel or as an editable install does."""
    if form == "normal":
        (site / "detectron2_lite").symlink_to(SOURCE / "detectron2_lite")
    else:
        (site / "_editable_impl_detectron2_lite.pth").write_text(str(SOURCE))
    (site / "detectron2_lite.pth").write_text((LITE / "detectron2_lite.pth").read_text())


# What setuptools writes for an editable install whose `package_dir` needs a finder.
EDITABLE_FINDER = """
import sys
from importlib.util import spec_from_file_location

class Finder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "detectron2":
            root = {root!r}
            return spec_from_file_location(
                fullname, root + "/__init__.py", submodule_search_locations=[root])
        return None

def install():
    sys.meta_path.append(Finder)
"""


def install_official(site: Path, form: str, folder: Path) -> dict[str, str]:
    """Lay the dummy out in one of the forms; return additions to the environment."""
    if form == "normal":
        write_dummy(site)
        return {}
    source = write_dummy(folder / "official")
    if form == "editable path":
        (site / "__editable__.detectron2.pth").write_text(str(source))
    elif form.startswith("editable finder"):
        code = EDITABLE_FINDER.format(root=str(source / "detectron2"))
        (site / "editable_detectron2_finder.py").write_text(code)
        # .pth files are processed in order of name: once before and once after the provider's
        name = "__editable__.pth" if form.endswith("before") else "zz_editable.pth"
        (site / name).write_text("import editable_detectron2_finder as f; f.install()")
    elif form == "PYTHONPATH":
        return {"PYTHONPATH": str(source)}
    return {}


def run(site: Path, code: str = PROBE, *flags: str, **environment: str):
    """Run code in an interpreter that knows the standard library and ``site`` alone."""
    start = f"import site, sys; site.addsitedir({str(site)!r})\n"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DETECTRON2"))}
    return subprocess.run(
        [sys.executable, "-S", *flags, "-c", start + code],
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=site,
    )


def said(result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


FORMS = ["normal", "editable path", "editable finder before", "editable finder after", "PYTHONPATH"]


@pytest.mark.parametrize("official", FORMS)
@pytest.mark.parametrize("lite", ["normal", "editable"])
def test_official_wins(tmp_path, lite, official):
    site = tmp_path / "site"
    site.mkdir()
    install_lite(site, lite)
    assert said(run(site)) == PROVIDER
    extra = install_official(site, official, tmp_path)
    assert said(run(site, **extra)) == OFFICIAL
    assert said(run(site, **extra, DETECTRON2_PROVIDER="auto")) == OFFICIAL
    assert said(run(site, **extra, DETECTRON2_PROVIDER="official")) == OFFICIAL
    # both together, chosen by hand: in one piece
    assert said(run(site, **extra, DETECTRON2_PROVIDER="lite")) == PROVIDER


def test_provider_chosen_by_hand(tmp_path):
    install_lite(tmp_path, "normal")
    refused = run(tmp_path, DETECTRON2_PROVIDER="official")
    assert refused.returncode == 1 and "No module named 'detectron2'" in refused.stderr
    wrong = run(tmp_path, DETECTRON2_PROVIDER="light")
    assert wrong.returncode == 1 and "DETECTRON2_PROVIDER=light: expected" in wrong.stderr
    quiet = run(tmp_path, "print(1)", DETECTRON2_PROVIDER="light")
    assert said(quiet) == "1" and not quiet.stderr  # an unrelated program is not disturbed


def test_start_is_cheap_and_silent(tmp_path):
    install_lite(tmp_path, "normal")
    heavy = "print([m for m in ('torch', 'numpy', 'logging', 'detectron2') if m in sys.modules])"
    result = run(tmp_path, heavy)
    assert said(result) == "[]" and result.stderr == ""
    # without its package (half removed) the .pth stays silent
    (tmp_path / "detectron2_lite").unlink()
    result = run(tmp_path, "print(1)")
    assert said(result) == "1" and result.stderr == ""


def test_one_log_line(tmp_path):
    install_lite(tmp_path, "normal")
    code = (
        "import logging, importlib.util; logging.basicConfig(level=20)\n"
        "importlib.util.find_spec('detectron2')\n"  # looking is not yet using
        "import detectron2, detectron2 as again\n"
    )
    lines = run(tmp_path, code).stderr.splitlines()
    assert len(lines) == 1 and "provided by detectron2-lite" in lines[0]


def test_installing_twice_is_once(tmp_path):
    install_lite(tmp_path, "normal")
    code = (
        "import detectron2_lite; before = len(sys.meta_path); detectron2_lite.install()\n"
        "print(len(sys.meta_path) - before, type(sys.meta_path[-1]).__name__)"
    )
    assert said(run(tmp_path, code)) == "0 ProviderFinder"


def test_without_pth_files(tmp_path):
    """``pip install --target`` with PYTHONPATH: the project's __init__ calls install()."""
    install_lite(tmp_path, "normal")
    env = {k: v for k, v in os.environ.items() if not k.startswith("DETECTRON2")}
    code = "import detectron2_lite; detectron2_lite.install()\n" + PROBE
    command = [sys.executable, "-S", "-c", code]
    env["PYTHONPATH"] = str(tmp_path)
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert said(result) == PROVIDER


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import detectron2.export", ModuleNotFoundError),
        ("from detectron2.projects.point_rend import PointRendROIHeads", ModuleNotFoundError),
        ("from detectron2 import projects", ImportError),
        ("from detectron2.config import LazyConfig", ImportError),
        ("from detectron2.structures.boxes import RotatedBoxes", ImportError),
        ("import detectron2.layers as layers; layers.DeformConv", AttributeError),
    ],
)
def test_what_is_left_out_is_refused_in_one_line(code, error):
    with pytest.raises(error) as caught:
        exec(code, {})
    line = str(caught.value)
    name = code.split()[1] if "layers" not in code else "detectron2.layers.DeformConv"
    assert type(caught.value) is error and "\n" not in line
    assert line.startswith("detectron2-lite has no ") and name.split(".point_rend")[0] in line
    assert "pip install" in line and "facebookresearch/detectron2" in line


def test_asking_for_what_is_left_out_is_no_error():
    """Feature detection, pickling and star imports go on as with any module."""
    import importlib.util

    import detectron2.layers
    import detectron2.structures.boxes as boxes

    assert importlib.util.find_spec("detectron2.export") is None
    assert importlib.util.find_spec("detectron2.structures.boxes") is not None
    assert not hasattr(detectron2.layers, "DeformConv")
    assert getattr(boxes, "RotatedBoxes", 5) == 5
    with pytest.raises(AttributeError, match="no attribute '__wrapped__'"):
        boxes.__wrapped__  # noqa: B018
    found: dict = {}
    exec("from detectron2.structures import *", found)
    assert "Boxes" in found
    code = "import detectron2_lite; detectron2_lite.install(); import detectron2; detectron2.solver"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "module 'detectron2' has no attribute 'solver'" in done.stderr  # there, not imported


@pytest.mark.slow
def test_import_is_cheap_and_compiles_nothing():
    """The heavy parts come with their first use; nothing is built at import."""
    code = (
        "import detectron2, detectron2.engine, detectron2.config, sys\n"
        "heavy = ('matplotlib', 'cv2', 'tensorboard', 'setuptools', 'torch.utils.cpp_extension')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert said(result) == "[]"


@pytest.mark.slow
def test_import_time():
    """Everything together takes under 1.5 times torch and torchvision, in CPU seconds."""

    def seconds(code: str) -> float:
        timed = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
        runs = [
            subprocess.run(
                [sys.executable, "-c", timed], capture_output=True, text=True, timeout=120
            )
            for _ in range(3)
        ]
        return min(float(said(r)) for r in runs)

    base = seconds("import torch, torchvision")
    parts = "config data engine evaluation layers modeling solver structures checkpoint model_zoo"
    names = ", ".join(f"detectron2.{p}" for p in parts.split())
    assert seconds(f"import detectron2, {names}") < 1.5 * base


DUMMY_PROJECT = """
from setuptools import setup
setup(
    name="detectron2",
    version="0.6",
    packages=["detectron2"],
    package_dir={"detectron2": "src/d2"},  # makes an editable install use a finder
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lite_form,official_form", list(itertools.product(["", "-e"], repeat=2)))
def test_pip_in_either_order(tmp_path, lite_form, official_form):
    """Real installations: official wins in both orders, removing one leaves the other intact."""
    pytest.importorskip("hatchling")
    pytest.importorskip("editables")
    pytest.importorskip("setuptools")
    project = tmp_path / "dummy"
    (project / "src").mkdir(parents=True)
    write_dummy(project / "src")
    (project / "src" / "detectron2").rename(project / "src" / "d2")
    (project / "setup.py").write_text(DUMMY_PROJECT)
    copy = tmp_path / "lite"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "detectron2_lite.pth"):
        (copy / name).write_text((LITE / name).read_text())
    subprocess.run(["cp", "-r", str(SOURCE), str(copy / "src")], check=True)

    builder = venv.EnvBuilder(with_pip=False)
    home = tmp_path / "env"
    builder.create(home)
    python = home / "bin" / "python"
    # the build back ends and pip of this interpreter, behind everything in the new environment
    outer = sysconfig.get_paths()["purelib"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DETECTRON2"))}

    def pip(*arguments: str) -> None:
        command = [str(python), "-m", "pip", *arguments, "--disable-pip-version-check", "-q"]
        tools = {"PYTHONPATH": str(tools_folder)}
        result = subprocess.run(
            command, env={**env, **tools}, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr

    # only the tools: the whole outer folder would bring its own detectron2_lite.pth
    tools_folder = tmp_path / "tools"
    tools_folder.mkdir()
    for name in os.listdir(outer):
        if "detectron2" not in name and not name.endswith(".pth"):
            (tools_folder / name).symlink_to(Path(outer) / name)

    def probe() -> str:
        result = subprocess.run(
            [str(python), "-c", PROBE], env=env, capture_output=True, text=True, cwd=tmp_path
        )
        return said(result)

    options = ("install", "--no-deps", "--no-build-isolation", "--no-index")
    lite = (*options, *([lite_form] if lite_form else []), str(copy))
    official = (*options, *([official_form] if official_form else []), str(project))
    pip(*lite)
    assert probe() == PROVIDER
    pip(*official)
    assert probe() == OFFICIAL
    pip("uninstall", "-y", "detectron2")
    assert probe() == PROVIDER
    pip("uninstall", "-y", "detectron2-lite")
    pip(*official)
    pip(*lite)
    assert probe() == OFFICIAL
    pip("uninstall", "-y", "detectron2-lite")
    assert probe() == OFFICIAL
