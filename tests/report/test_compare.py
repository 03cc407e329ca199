"""``vis compare``: variants on the same videos, from a YAML on disk to a table and a json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from vis_projects import cli
from vis_projects.config import config_root, load_config
from vis_projects.report.compare import compare, read_variants, table
from vis_projects.structures import InputError

CONFIG = "configs/srnet/quickstart_synthetic.yaml"
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.ALLOW_MISSING_WEIGHTS", "True"),
    *("DATASETS.TEST", "('synthetic_val:videos=2:length=4:size=96x128',)"),
)
TABLES = sorted(config_root().rglob("compare/*.yaml"))
BASES = {
    "crossvis": "configs/quickstart.yaml",
    "msn": "configs/msn/quickstart_synthetic.yaml",
    "seq_mask_rcnn": "configs/seq_mask_rcnn/quickstart_synthetic.yaml",
    "srnet": CONFIG,
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_from_a_file_to_a_table(tmp_path, capsys):
    variants = write(
        tmp_path / "v.yaml",
        "as it is: {}\nnothing found: {MODEL.SRNET.TEST.MIN_SCORE: 0.999}\nleft out: {SEED: 1}\n",
    )
    code = cli.main(
        [
            *("compare", "--config-file", CONFIG, "--variants", str(variants)),
            *("--only", "nothing found", "--videos", "1", "--samples", "20"),
            *("--json", str(tmp_path / "figures.json"), *SMALL, "OUTPUT_DIR", str(tmp_path)),
        ]
    )
    out = capsys.readouterr().out
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and "minus baseline" in lines[0]
    assert lines[2].startswith("| as it is") and "+0.0 .. +0.0" in lines[2]
    rows = json.loads((tmp_path / "figures.json").read_text())
    assert [r["variant"] for r in rows] == ["as it is", "nothing found"]
    assert rows[1]["value"] == 0 and rows[1]["difference"] == -rows[0]["value"]
    assert {"AP", "AP50", "IDF1"} <= set(rows[0]["scores"]) and rows[0]["videos"] == 1
    (results,) = (tmp_path / "compare" / "nothing-found").rglob("results.json")
    assert json.loads(results.read_text()) == []


def test_shared_work_changes_nothing(tmp_path):
    """SRNet's variants take the network's outputs over from each other: same scores as alone."""
    variants = {
        "baseline": [],
        "only t - 1": ["MODEL.SRNET.TEST.MAX_AGE", "0"],
        "no temporal feature": ["MODEL.SRNET.TEST.REPEAT_FRAME", "True"],
    }
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, SMALL))
    model.state_dict()["heads.objectness.out.bias"].fill_(3.0)  # so that something is found
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    found = ("MODEL.SRNET.TEST.MIN_AREA", "2", "MODEL.SRNET.TEST.TRACK_SCORE", "obj")
    opts = [*SMALL, *found, "MODEL.WEIGHTS", str(tmp_path / "w.pth"), "OUTPUT_DIR", str(tmp_path)]

    def files() -> dict[str, str]:
        found = (tmp_path / "compare").rglob("results.json")
        return {f.parents[1].name: f.read_text() for f in found}

    assert "minus baseline" in table(compare(CONFIG, variants, opts, samples=5))
    together = files()
    assert len(set(together.values())) == 3  # each variant does something
    for name, own in variants.items():
        compare(CONFIG, {name: own}, opts, samples=5)
    assert files() == together


@pytest.mark.parametrize("file", TABLES, ids=lambda f: f"{f.parents[1].name}-{f.stem}")
def test_shipped_variants_are_options_and_build(file):
    system = file.parents[1].name
    for name, opts in read_variants(file).items():
        cfg = load_config(BASES[system], [*opts, "MODEL.DEVICE", "meta"])
        with torch.device("meta"):
            assert build_model(cfg) is not None, name


def test_bad_variants_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_variants(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="mapping from names"):
        read_variants(write(tmp_path / "a.yaml", "- 1\n"))
    with pytest.raises(InputError, match=r"b\.yaml: x: overrides are"):
        read_variants(write(tmp_path / "b.yaml", "x: 3\n"))
    with pytest.raises(InputError, match=r"no variant 'on'.*one"):
        read_variants(write(tmp_path / "c.yaml", "base: {}\none: {}\n"), ["on"])
    with pytest.raises(InputError, match="no YAML"):
        read_variants(write(tmp_path / "d.yaml", "a: [\n"))
    with pytest.raises(InputError, match="protocol unsup is for DAVIS-2016"):
        compare(CONFIG, {"x": []}, SMALL, protocol="unsup")


def test_davis_2016_under_two_protocols(tmp_path, monkeypatch):
    """On the same masks: the union against one object, and the best track against it."""
    import numpy as np
    from PIL import Image

    root = tmp_path / "DAVIS"
    (root / "ImageSets/2016").mkdir(parents=True)
    (root / "ImageSets/2016/val.txt").write_text("a\nb\n")
    rng = np.random.default_rng(0)
    for name in "ab":
        for folder in ("JPEGImages", "Annotations"):
            (root / folder / "480p" / name).mkdir(parents=True)
        for t in range(4):
            frame = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(frame).save(root / "JPEGImages/480p" / name / f"{t:05}.jpg")
            mask = np.zeros((48, 64), np.uint8)
            mask[10:30, 10 + t : 40 + t] = 255
            Image.fromarray(mask).save(root / "Annotations/480p" / name / f"{t:05}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opts = [*SMALL[:4], "DATASETS.TEST", "('davis_2016_val',)", "OUTPUT_DIR", str(tmp_path / "o")]
    figures = [
        compare(CONFIG, {"x": []}, opts, samples=5, protocol=protocol)[0]
        for protocol in ("2016", "unsup")
    ]
    assert all(f.metric == "J&F" and f.videos == 2 and 0 <= f.value <= 100 for f in figures)
    assert figures[0].scores != figures[1].scores
