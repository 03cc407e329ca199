"""The freely licensed excerpt of COCO 2017 that the shipped weights are trained on.

58 images under CC BY 2.0 or without known copyright restrictions (``coco_clean.json``: sources and
licences), with COCO's annotations (CC BY 4.0), copied from a COCO that is there.
"""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...structures import InputError


@lru_cache(maxsize=1)
def coco_clean_images() -> list[dict[str, Any]]:
    """Return ``id``, ``split`` (train2017, val2017), ``source`` and ``licence`` of each image."""
    file = Path(__file__).with_suffix(".json")
    return json.loads(file.read_text(encoding="utf-8"))["images"]


def build_coco_clean(coco: str | Path, out: str | Path | None = None) -> str:
    """Write ``instances.json``, ``images/`` and ``README.md``; return a line about it.

    Args:
        coco: holds ``train2017/`` and ``annotations/instances_train2017.json``.
        out: by default ``coco_clean`` beside ``coco``.

    Raises:
        InputError: a file of COCO is missing, or ``out`` has an ``instances.json`` already.
    """
    coco = Path(coco)
    out = Path(out) if out else coco.parent / "coco_clean"
    if (out / "instances.json").exists():
        raise InputError(f"{out}: has an instances.json already; name another folder with --out")
    wanted = {row["id"]: row for row in coco_clean_images()}
    merged: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for split in sorted({row["split"] for row in wanted.values()}):
        file = coco / "annotations" / f"instances_{split}.json"
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file}: no readable COCO annotations ({error}); --root names COCO's folder"
            ) from None
        merged["categories"] = content["categories"]
        merged["images"] += [i for i in content["images"] if i["id"] in wanted]
        merged["annotations"] += [a for a in content["annotations"] if a["image_id"] in wanted]
    found = {i["id"] for i in merged["images"]}
    files = {n: coco / row["split"] / f"{n:012d}.jpg" for n, row in wanted.items()}
    missing = [str(files[n]) for n in wanted if n not in found or not files[n].is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not there ({len(missing)} of {len(wanted)} are missing)")
    (out / "images").mkdir(parents=True, exist_ok=True)
    for file in files.values():
        shutil.copyfile(file, out / "images" / file.name)
    (out / "README.md").write_text(_readme(wanted))
    (out / "instances.json").write_text(json.dumps(merged))
    return f"{out}: {len(wanted)} images, {len(merged['annotations'])} instances"


def _readme(images: dict[int, dict[str, Any]]) -> str:
    rows = [f"| {n:012d}.jpg | {r['source']} | {r['licence']} |" for n, r in images.items()]
    return (
        "# COCO excerpt\n\nAnnotations: COCO Consortium, CC BY 4.0.\n\n"
        "| image | source | licence |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
