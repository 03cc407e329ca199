"""Config files: bases from anywhere, one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vis_projects.config import config_root, load_config
from vis_projects.structures import InputError

SHIPPED = "crossvis/quickstart_synthetic.yaml"


@pytest.mark.parametrize("base", [f"configs/{SHIPPED}", SHIPPED, str(config_root() / SHIPPED)])
def test_a_shipped_base_is_found_from_any_folder(base: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {base}\nSOLVER: {{MAX_ITER: 7}}\n")
    cfg = load_config("mine.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.FCOS.NUM_CLASSES) == (7, 4)


def test_a_base_beside_the_file_wins_and_several_are_merged_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 1, BASE_LR: 0.5}\n")
    (tmp_path / "b.yaml").write_text("SOLVER: {MAX_ITER: 2}\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSOLVER: {GAMMA: 0.3}\n")
    solver = load_config(tmp_path / "c.yaml").SOLVER
    assert (solver.MAX_ITER, solver.BASE_LR, solver.GAMMA) == (2, 0.5, 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: crossvis/quickstart_synthetik.yaml", "_BASE_.*did you mean configs/crossvis/q"),
        ("_BASE_: c.yaml", "its own _BASE_"),
        ("A: !!python/object/apply:os.getcwd []", "only plain YAML"),
        ("- 1", "no KEY: value"),
        ("VERSION: 1", "VERSION 1"),
        ("SOLVER: {MAX_ITR: 3}", "SOLVER.MAX_ITER"),
        ("SOLVER: {MAX_ITER: many}", "many"),
        ("SOLVER: [", "c.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text + "\n")
    with pytest.raises(InputError, match=message) as caught:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_flag_behind_the_options_is_named() -> None:
    with pytest.raises(InputError, match="--resume stands behind"):
        load_config(f"configs/{SHIPPED}", ["SOLVER.MAX_ITER", "3", "--resume"])
