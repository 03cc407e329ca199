"""The real data sets' small copies, written once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import real_formats

from vis_projects.config import config_root

CLASS_MAPS = config_root().parent / "vis_projects" / "data" / "catalog" / "class_maps.json"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    maps = json.loads(CLASS_MAPS.read_text())["maps"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        list(real_formats.write_all(root, {k: m["source_names"] or {} for k, m in maps.items()}))
    return root
