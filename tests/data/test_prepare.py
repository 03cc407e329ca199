"""datasets/prepare.py: check names the bad entry, split is fixed, convert is exact."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import trees

from vis_metrics.cli import main as vis_score
from vis_projects.data import load_videos, read_objects
from vis_projects.data.catalog.dataset_check import check_dataset
from vis_projects.data.catalog.local_split import held_out, split_dataset
from vis_projects.data.formats.still_conversion import convert_openimages, convert_voc
from vis_projects.data.synthetic.export import export_synthetic
from vis_projects.engine.job import Job, run_job
from vis_projects.structures import InputError

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare.py"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def script():
    """Return datasets/prepare.py as a module."""
    spec = importlib.util.spec_from_file_location("prepare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_check_counts_what_is_there(root):
    trees.davis(root)
    found = check_dataset("davis_2017_val", progress=False)
    assert (found["videos"], found["frames"]) == (2, 10) and found["masks"] > 20
    assert check_dataset("davis_2017_val", quick=True, progress=False)["masks"] < found["masks"]
    assert check_dataset("synthetic_val:videos=2", progress=False)["frames"] == 40


def test_check_names_the_first_bad_file(root):
    trees.write_ytvis(root / "ytvis_2019/train.json", root / "ytvis_2019/train/JPEGImages")
    check_dataset("ytvis_2019_train", progress=False)
    bad = root / "ytvis_2019/train/JPEGImages/synthetic_train_0001/00002.jpg"
    bad.write_bytes(bad.read_bytes()[:-300])
    check_dataset("ytvis_2019_train", quick=True, progress=False)
    with pytest.raises(InputError, match="0001/00002.jpg"):
        check_dataset("ytvis_2019_train", progress=False)


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda a: a["bboxes"].__setitem__(0, [0.0, 0.0, 3.0, 3.0]), "does not hold"),
    ],
)
def test_check_looks_at_masks_and_boxes(root, edit, words):
    truth = trees.ytvis_json()
    edit(truth["annotations"][0])
    trees.write_ytvis(root / "ytvis_2019/train.json", root / "ytvis_2019/train/JPEGImages", truth)
    with pytest.raises(InputError, match=words):
        check_dataset("ytvis_2019_train", progress=False)


def test_the_command_line(root, capsys):
    trees.davis(root)
    module = script()
    module.main(["check", "davis_2017_val"])
    assert "good; 2 videos, 10 frames" in capsys.readouterr().out
    with pytest.raises(InputError, match="--out"):
        module.main(["convert", "synthetic"])


def test_check_without_a_name_takes_what_is_there(root, capsys):
    module = script()
    with pytest.raises(InputError, match="no known data set is here"):
        module.main(["check"])
    trees.davis(root)
    trees.write_ytvis(root / "ytvis_2019/train.json", root / "ytvis_2019/train/JPEGImages")
    assert module.main(["check"]) == 0
    rows = capsys.readouterr().out.splitlines()
    names = [row.split(":")[0] for row in rows]
    assert "ytvis_2019_train" in names and "davis_2017_val" in names
    assert not {"ytvis_2019_val", "mose_val", "coco_2017_val", "synthetic_val"} & set(names)
    assert all(": good; " in row for row in rows)
    (root / "ytvis_2021").mkdir()
    (root / "ytvis_2021/valid.json").write_text("{")
    assert module.main(["check"]) == 3
    assert "ytvis_2021_val: bad; " in capsys.readouterr().out


def test_an_error_is_one_line_and_an_exit_code(root):
    command = [sys.executable, str(SCRIPT), "check", "davis_2016_val"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("prepare.py: ") and "2016/val.txt" in last


def test_held_out_videos_depend_on_names_and_seed_only():
    names = [f"v{i}" for i in range(50)]
    chosen = held_out(names, 10)
    assert chosen == held_out(names[::-1], 10)
    assert len(chosen) == 10 and chosen != held_out(names, 10, seed=1)
    left = [n for n in names if n not in chosen or n == min(chosen)]
    assert held_out(left, 1) == {min(chosen)} or held_out(left, 1) <= chosen
    for count in (0, 50):
        with pytest.raises(InputError, match="held out"):
            held_out(names, count)


def test_split_of_ytvis(root):
    truth = trees.ytvis_json(videos=4)
    trees.write_ytvis(root / "ytvis_2021/train.json", root / "ytvis_2021/train/JPEGImages", truth)
    files = split_dataset("ytvis_2021", count=1)
    train, val = load_videos("ytvis_2021_local_train"), load_videos("ytvis_2021_local_val")
    assert (len(train), len(val)) == (3, 1)
    together = {o["id"] for v in train + val for o in v["objects"]}
    assert together == {a["id"] for a in truth["annotations"]}
    first = [f.read_text() for f in files]
    split_dataset("ytvis_2021", count=1)
    assert [f.read_text() for f in files] == first
    with pytest.raises(InputError, match="cannot be split"):
        split_dataset("davis_2017")


def test_split_of_youtube_vos(root):
    trees.youtube_vos(root / "youtube_vos_2018", "train")
    split_dataset("youtube_vos_2018")
    names = [
        [v["name"] for v in load_videos(f"youtube_vos_2018_local_{part}")]
        for part in ("train", "val")
    ]
    assert sorted(names[0] + names[1]) == ["003234408d", "0043f083b5"] and len(names[1]) == 1


def test_conversion_of_voc(root):
    base = root / "voc"
    labels = trees.clips()[0]["annotations"].label_map(0)
    objects = labels.copy()
    objects[:, 0] = 255
    classes = np.array([0, 15, 7, 15, 3], np.uint8)[labels]  # person, car, person, bird
    classes[labels == 0] = 0
    trees.write_png(base / "SegmentationObject" / "2007_000032.png", objects)
    trees.write_png(base / "SegmentationClass" / "2007_000032.png", classes)
    (base / "JPEGImages").mkdir()
    cv2.imwrite(str(base / "JPEGImages" / "2007_000032.jpg"), np.zeros((96, 160, 3), np.uint8))
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000032\n")
    convert_voc(base, progress=False)
    video = load_videos("voc_stills_train")[0]
    found = read_objects(video, 0)
    ids = [i for i in np.unique(labels) if i and (objects == i).any()]
    assert len(found) == len(ids)
    for mask, c, i in zip(found.masks, found.classes, ids):
        assert np.array_equal(mask, objects == i) and c + 1 == [0, 15, 7, 15, 3][i]
    check_dataset("voc_stills_train", progress=False)
    (base / "SegmentationClass" / "2007_000032.png").unlink()
    with pytest.raises(InputError, match="2007_000032.png"):
        convert_voc(base, progress=False)


def test_conversion_of_openimages(root):
    base = root / "openimages"
    (base / "train").mkdir(parents=True)
    (base / "annotations").mkdir()
    cv2.imwrite(str(base / "train" / "abc.jpg"), np.zeros((40, 60, 3), np.uint8))
    mask = np.zeros((20, 30), np.uint8)  # half the image's size
    mask[5:10, 6:12] = 255
    trees.write_png(base / "train-masks" / "abc_m04rky_1.png", mask, "L")
    (base / "annotations" / "class-descriptions-boxable.csv").write_text(
        "/m/04rky,Mammal\n/m/0cmf2,Airplane\n"
    )
    table = base / "annotations" / "train-annotations-object-segmentation.csv"
    table.write_text(
        "MaskPath,ImageID,LabelName,BoxID\nabc_m04rky_1.png,abc,/m/0cmf2,1\n"
        "gone.png,missing,/m/04rky,2\n"
    )
    data = json.loads(convert_openimages(base, progress=False).read_text())
    assert [i["file_name"] for i in data["images"]] == ["abc.jpg"]
    assert data["annotations"][0]["bbox"] == [12, 10, 12, 10]
    assert {c["name"]: c["mid"] for c in data["categories"]}["Airplane"] == "/m/0cmf2"
    assert read_objects(load_videos("openimages_stills_train")[0], 0).masks.sum() == 120
    table.write_text("MaskPath,ImageID\na,b\n")
    with pytest.raises(InputError, match="LabelName"):
        convert_openimages(base, progress=False)


@pytest.mark.parametrize("task", ["", "vos_", "stills_"])
def test_the_synthetic_set_survives_the_disk(task, tmp_path):
    name = f"synthetic_{task}val:videos=2:length=3"
    export_synthetic(name, tmp_path, progress=False)
    own = {
        "": f"own_vis:{tmp_path}/instances.json:{tmp_path}/JPEGImages",
        "vos_": f"own_vos:{tmp_path}",
        "stills_": f"own_stills:{tmp_path}/instances.json:{tmp_path}/images",
    }[task]
    check_dataset(own, progress=False)
    for a, b in zip(load_videos(name), load_videos(own)):
        for t in range(a["length"]):
            wanted, found = read_objects(a, t), read_objects(b, t)
            assert np.array_equal(wanted.masks, found.masks)
            assert np.array_equal(wanted.classes, found.classes)
            assert np.array_equal(wanted.boxes, found.boxes)
            picture = cv2.imread(b["file_names"][t])
            assert np.array_equal(a["source"]("BGR").read(t), picture)


def test_the_list_of_somebody_else_is_held_out(root, tmp_path, capsys):
    truth = trees.youtube_vos(root / "youtube_vos_2018", "train")
    names = sorted(truth["videos"])
    (tmp_path / "theirs.txt").write_bytes(f"\ufeff{names[0]}\r\n".encode())
    command = ["split", "youtube_vos_2018", "--list", str(tmp_path / "theirs.txt")]
    assert script().main(command) == 0
    train = root / "youtube_vos_2018" / "train"
    files = [train / "local_train.txt", train / "local_val.txt"]
    assert all(str(f) in capsys.readouterr().out for f in files[:1])
    assert files[1].read_text().split() == names[:1]
    assert files[0].read_text().split() == names[1:]
    folder = root / "youtube_vos_2018"
    (folder / "train_all_frames").symlink_to("train")
    for name in ("youtube_vos_2018_local_val", "youtube_vos_2018_local_val_all_frames"):
        assert [v["name"] for v in load_videos(name)] == names[:1]
    (tmp_path / "theirs.txt").write_text("nobody\n")
    with pytest.raises(InputError, match="nobody is no video of this training set"):
        split_dataset("youtube_vos_2018", listed=tmp_path / "theirs.txt")
    files = split_dataset("youtube_vos_2018", count=1, out=tmp_path / "elsewhere")
    assert [f.parent for f in files] == [tmp_path / "elsewhere"] * 2


@pytest.mark.parametrize("frames", ["", "_all_frames"])
def test_what_was_held_out_is_scored_by_itself(root, tmp_path, frames, capsys):
    """meta.json lists all videos of train; only those of the local set were segmented."""
    names = sorted(trees.youtube_vos(root / "youtube_vos_2018", "train")["videos"])
    split_dataset("youtube_vos_2018", count=1)
    (root / "youtube_vos_2018" / "train_all_frames").symlink_to("train")
    name = f"youtube_vos_2018_local_val{frames}"
    held = load_videos(name)[0]["name"]
    opts = ("DATASETS.TEST", f"('{name}',)", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu")
    opts = (*opts, "DATALOADER.NUM_WORKERS", "0")
    run_job(Job("configs/copy_first/davis2017.yaml", opts, eval_only=True, num_gpus=0))
    log = (tmp_path / "log.txt").read_text()
    assert held in names and re.search(r"copypaste: G(,|$)", log, re.M), log[-2000:]
    written = tmp_path / "inference" / name / "Annotations"
    assert [f.name for f in written.iterdir() if f.is_dir()] == [held]
    # The files of any program, by the command: the list that the split wrote says which videos.
    train = root / "youtube_vos_2018" / "train"
    command = ["ytvos", "--ground-truth", str(train), "--results", str(written)]
    command += ["--meta", str(train / "meta.json"), "--no-progress"]
    capsys.readouterr()
    assert vis_score(command) == 2 and "--videos" in capsys.readouterr().err
    command += ["--videos", str(train / "local_val.txt")]
    assert vis_score([*command, "--validate-only"]) == 0
    assert vis_score([*command, "--json", str(tmp_path / "scores.json")]) == 0
    fresh = json.loads((tmp_path / "scores.json").read_text())
    assert {key.rsplit("_", 1)[0] for key in fresh["per_object"]} == {held}
    logged = re.search(r"copypaste: G(?:,.*)?\n.*copypaste: ([0-9.]+)", log)
    assert float(logged[1]) == pytest.approx(100 * fresh["G"], abs=1e-3)
    capsys.readouterr()
    assert vis_score([*command[:-1], "nobody"]) == 2
    assert "video nobody is not in it" in capsys.readouterr().err


def test_a_local_set_names_the_command_that_makes_it(root):
    trees.youtube_vos(root / "youtube_vos_2018", "train")
    with pytest.raises(InputError, match=r"prepare\.py split youtube_vos_2018"):
        load_videos("youtube_vos_2018_local_train_all_frames")
