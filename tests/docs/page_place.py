"""A folder with the files that the pages speak of, in which their commands are run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model
from forked_commands import outcome
from official_files import crossvis
from page_commands import PAGES, ROOT, read_page, words_of
from PIL import Image
from pycocotools import mask as mask_util
from torch import Tensor

from vis_projects.config import load_config
from vis_projects.data.catalog import load_videos
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.msn.selection_pairs import true_masks, write_pairs
from vis_projects.structures import encode_masks
from vis_projects.video import VideoWriter

SIZE, FRAMES = (320, 480), 4
TRAINED = "model_final.pth"
OUTPUTS = ("--output", "--out")
# What a page takes from another one: file -> the command that makes it.
MADE_BY = {
    "results.json": "python write_results.py",
    "crossvis.json": "vis export model --config-file configs/quickstart.yaml --weights "
    "output/quickstart/model_final.pth --format onnx --size 96x160 --output crossvis.onnx",
    "out/v": "vis run mine/JPEGImages/v --config-file configs/copy_first/davis2017.yaml "
    "--first-mask mine/Annotations/v/0.png --output out/v",
}
# Less of the same: words behind the subcommand or the benchmark's name.
FEWER = {
    "compare": ["--videos", "2"],
    "bench": ["--frames", "1", "--warm-up", "0"],
    "show": ["--clips", "2"],
    "annotate": ["--no-browser"],
}
BENCHMARKS = {
    "annotate": ["--frames", "40", "--size", "96x160", "--seeks", "5", "--minutes", "0.05"],
    "annotations": ["--videos", "20"],
    "cfbi": ["--size", "97x129"],
    "frtm": ["--size", "96x160"],
    "growth": ["--systems", "copy_first", "--lengths", "4", "--objects", "1", "--rows", "96"],
    "metrics": ["--case", "unsup", "--scale", "0.02"],
    "networks": ["--rows", "crossvis", "--rounds", "1", "--frames", "1"],
    "srnet": ["--repeats", "1"],
    "srnet_vectors": ["--dataset", "synthetic_val:videos=2:length=6"],
}
MSN = {"DETECTOR_ITERS": "2", "PROPAGATOR_ITERS": "2", "SELECTION_ITERS": "2", "VIDEOS": "1"}
ENVIRONMENT = {
    "sh": {**MSN, "PAIR_VIDEOS": "2", "PYTHON": sys.executable},
    "slurm": {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"},
}
# Stands in for the package on the page about loggers.
MLFLOW = """\
import json

def start_run(): open("logged.jsonl", "w")
def log_param(name, value): open("logged.jsonl", "a").write(json.dumps({name: value}) + "\\n")
def log_metrics(values, step): log_param(step, values)
def end_run(): log_param("ended", True)
"""


# What the code on the pages takes as given.
GIVEN = """\
from glob import glob

import cv2
import numpy as np
from PIL import Image

from vis_projects import VideoPredictor

frames = [cv2.imread(file) for file in sorted(glob("frames/*.jpg"))]
size = frames[0].shape[:2]
first_mask = np.asarray(Image.open("mask.png"))
better = first_mask == 2
predictor = VideoPredictor("configs/copy_first/davis2016.yaml", device="cpu")


def convert(state):
    return state


"""


def subcommand(words: list[str]) -> str:
    """Return what a command line does: ``train``, ``eval``, ``run``, ..., else its program."""
    scripts = {"demo.py": "run", "benchmark.py": "bench", "prepare.py": "data"}
    for i, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        if name == "train_net.py" or (word in ("vis", "vis_projects") and words[i + 1] == "train"):
            return "eval" if "--eval-only" in words else "train"
        if word in ("vis", "vis_projects"):
            return words[i + 2] if words[i + 1] == "data" else words[i + 1]
        if name in scripts:
            return scripts[name]
        if word == "benchmarks":
            return "benchmarks"
    return words[0]


def output_folder(words: list[str]) -> str:
    """Return the OUTPUT_DIR of a training."""
    if "OUTPUT_DIR" in words:
        return words[words.index("OUTPUT_DIR") + 1]
    text = text_with_bases(words[words.index("--config-file") + 1])
    return re.search(r"^OUTPUT_DIR: (\S+)", text, re.MULTILINE)[1]


def _text(config: str) -> str:
    file = ROOT / config
    for place in (file, ROOT / "tests/example_system" / config):
        if place.is_file():
            return place.read_text()
    written = {n: text for page in PAGES for n, text in read_page(page).files.items()}
    return written.get(config, "")


def shortened(words: list[str]) -> list[str]:
    """The same command with a smaller MAX_ITER, fewer videos and fewer repeats."""
    what, words = subcommand(words), [w for w in words if w != "--write"]
    if what in FEWER:
        place = next((i for i, w in enumerate(words) if w in (what, "benchmark.py")), None)
        words[place + 1 : place + 1] = FEWER[what]
    if what == "benchmarks" and len(words) > 3:
        words += BENCHMARKS.get(words[3], [])
    if what == "train":
        words.insert(words.index("--config-file"), "--overwrite")
        words += [
            "SOLVER.MAX_ITER",
            "3" if "--resume" in words else "2",
            "SOLVER.WARMUP_ITERS",
            "0",
        ]
        words += [
            "SOLVER.IMS_PER_BATCH",
            "2",
            "TEST.BOOTSTRAP",
            "20",
            "DATALOADER.NUM_WORKERS",
            "0",
        ]
    if what in ("train", "eval") and "own_vis" not in " ".join(words):
        words += _fewer_videos(words)
    if what == "train" and "CrossVIS_R50.pth" in words:  # a whole R-50
        words += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]
    return words


def _fewer_videos(words: list[str]) -> list[str]:
    given = words[words.index("DATASETS.TEST") + 1] if "DATASETS.TEST" in words else ""
    text = given or text_with_bases(words[words.index("--config-file") + 1])
    names = dict.fromkeys(re.findall(r"(?:synthetic|dead_leaves)_\w*val\b", text))
    sets = ", ".join(f"'{name}:videos=2:length=4'" for name in names)
    return ["DATASETS.TEST", f"({sets},)"] if names else []


class Place:
    """Inputs and shared outputs; every page has a folder of links to them, and its own ``out``."""

    def __init__(self, folder: Path, not_run: Callable[[str], bool]) -> None:
        self.inputs, self.pages = folder / "inputs", folder / "pages"
        self.done: set[str] = set()
        self.makers: dict[str, str] = {}
        for page in PAGES:
            for command in read_page(page).commands:
                words = words_of(command)[1]
                if not_run(command):
                    continue
                if subcommand(words) == "train" and "--resume" not in words:
                    self.makers.setdefault(output_folder(words), command)
        make_inputs(self.inputs)
        for page in PAGES:
            for name, content in read_page(page).files.items():
                (self.inputs / name).write_text(content)

    def of_page(self, page: str) -> Path:
        folder = self.pages / page.replace("/", "_")
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for source in self.inputs.iterdir():
                (folder / source.name).symlink_to(source)
        return folder

    def run(self, page: str, command: str, *, again: bool = False) -> None:
        """Run a command of a page, and before it what makes the files that it takes.

        ``again``: also where another page has run it, whose files are not here.
        """
        if command in self.done and not again:
            return
        folder = self.of_page(page)
        variables, words = words_of(command)
        for maker in self.missing(words, folder):
            self.run(page, maker, again=True)
        for option in OUTPUTS:
            target = folder / words[words.index(option) + 1] if option in words else None
            if target is not None and target.is_dir():
                shutil.rmtree(target)
        log = folder / "printed.txt"
        environment = {**variables, **ENVIRONMENT.get(words[0], {}), "OMP_NUM_THREADS": "1"}
        environment.update(ENVIRONMENT["slurm"] if "slurm" in words else {})
        code = _run(shortened(words), log, folder, environment)
        assert code == "0", f"{page}: {command}: {code}\n{log.read_text()[-3000:]}"
        self.done.add(command)

    def run_code(self, page: str) -> None:
        """Run the Python of a page, its blocks one after the other."""
        folder, code = self.of_page(page), read_page(page).code
        tokens = re.findall(r"[\"']([\w./]+)[\"']", "".join(code))
        for maker in self.missing(["python", *tokens], folder):
            self.run(page, maker, again=True)
        (folder / "page_code.py").write_text("".join([GIVEN, *code]))
        log = folder / "printed.txt"
        code = _run(["python", "page_code.py"], log, folder, {"OMP_NUM_THREADS": "1"})
        assert code == "0", f"{page}: {log.read_text()[-3000:]}"

    def missing(self, words: list[str], folder: Path) -> list[str]:
        """The commands that make what a command takes and what is not there yet."""
        taken, own = [w for before, w in pairwise(["", *words]) if before not in OUTPUTS], ""
        if subcommand(words) == "annotate":  # builds its network when something is to be followed
            return []
        if "--config-file" in words:
            text = text_with_bases(words[words.index("--config-file") + 1])
            taken += re.findall(r"output/\w+/\w+\.pth", text)
        if subcommand(words) == "train":
            own = output_folder(words)
            taken += [own] if "--resume" in words else []
        if {"--results", "results"} & set(words) and {"out", "out/"} & set(words):
            taken.append("out/v")
        made = {f"{place}/{TRAINED}": maker for place, maker in self.makers.items()} | MADE_BY
        found = []
        for file, maker in made.items():
            place = file.removesuffix(f"/{TRAINED}")
            wanted = any(w == place or w.startswith(f"{place}/") for w in taken)
            if wanted and (place != own or "--resume" in words) and not (folder / file).exists():
                if words_of(maker)[1] != words:
                    found.append(maker)
        return found


def text_with_bases(config: str) -> str:
    """Return the text of a config file of the checkout or of a page, and of its bases."""
    text = _text(config)
    base = re.search(r"^_BASE_: (\S+)", text, re.MULTILINE)
    if base is None:
        return text
    beside = os.path.normpath(Path(config).parent / base[1])
    return text + text_with_bases(base[1] if (ROOT / base[1]).is_file() else beside)


def _run(words: list[str], log: Path, folder: Path, environment: dict[str, str]) -> str:
    if words[:2] == ["vis", "annotate"]:
        return _serve(words, log, folder)
    programs = {"vis": [], "vis-score": ["SCORE"], "python": ["PYTHON"]}
    if words[0] in programs:
        argv = [*programs[words[0]], *words[1:]]
        return outcome(argv, log, seconds=None, folder=folder, environment=environment)
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    with log.open("w") as stream:
        done = subprocess.run(
            words, cwd=folder, stdout=stream, stderr=stream, env={**os.environ, **environment}
        )
    return str(done.returncode)


def _serve(words: list[str], log: Path, folder: Path) -> str:
    """Open the page that the command announces, and end it as a person does, with Ctrl-C."""
    command = [sys.executable, "-m", "vis_command", *words[1:]]
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=stream, text=True
        )
    try:
        line = server.stdout.readline()
        with urlopen(re.search(r"http://\S+", line)[0]) as answer:
            page = answer.read().decode()
        server.send_signal(signal.SIGINT)
        code = server.wait()
    finally:
        server.kill()
        server.stdout.close()
    return "0" if "<canvas" in page and code in (0, 130) else f"exit code {code}"


def make_inputs(folder: Path) -> None:
    """The files that the pages name."""
    folder.mkdir(parents=True)
    (folder / "output").mkdir()
    for name in ("configs", "tools", "train_net.py", "demo.py", "benchmark.py", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("docs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "datasets").mkdir()
    (folder / "datasets/prepare.py").symlink_to(ROOT / "datasets/prepare.py")
    (folder.parent / "pages").mkdir()
    (folder.parent / "pages/before").symlink_to(ROOT)
    for name in ("moving_foreground", "moving_foreground.yaml"):
        (folder / name).symlink_to(ROOT / "tests/example_system" / name)
    (folder / "mlflow.py").write_text(MLFLOW)
    write_pairs(folder / "output/msn/pairs.json.gz", selection_pairs(), {})
    state = trainable_crossvis()
    torch.save({"model": state}, folder / "CrossVIS_R50.pth")
    images, labels = moving_boxes(SIZE, 2, frames=FRAMES)
    for part in (
        "frames",
        "mine/JPEGImages/v",
        "mine/Annotations/v",
        "images/v",
        "videos",
        "more/c",
    ):
        (folder / part).mkdir(parents=True)
    for name in ("clip", "videos/a", "videos/b", "more/c/d"):
        with VideoWriter(folder / f"{name}.mp4") as writer:
            for image in images:
                writer.add(image)
    for name in ("list.txt", "videos.txt"):
        (folder / name).write_text("clip.mp4\n")
    Image.fromarray(labels[0]).save(folder / "mask.png")
    cv2.imwrite(str(folder / "frame.jpg"), images[0])
    for t in range(FRAMES):
        for part in ("frames", "mine/JPEGImages/v", "images/v"):
            cv2.imwrite(str(folder / part / f"{t}.jpg"), images[t])
        Image.fromarray(labels[t]).save(folder / f"mine/Annotations/v/{t}.png")
    with VideoWriter(folder / "blackswan.mp4") as writer:
        for image in moving_boxes((480, 854), 1, frames=2)[0]:
            writer.add(image)
    truth = json.dumps(_truth(labels))
    for name in ("train.json", "val.json"):
        (folder / name).write_text(truth)
    seen = {"category": "cell", "frames": [str(t) for t in range(FRAMES)]}
    meta = {"videos": {"v": {"objects": {"1": seen, "2": seen}}}}
    (folder / "meta.json").write_text(json.dumps(meta))


def selection_pairs() -> dict[str, list[dict]]:
    """Pairs for MSN's selection network; a detector of two iterations finds nothing to make them
    of (``make_selection_pairs.py`` is tested in ``tests/msn``)."""
    name, pairs = "synthetic_train:seed=1:videos=4:length=8", []
    for video in load_videos(name):
        for mask in true_masks(video, 0).numpy():
            other = np.roll(mask, 6, 1)
            iou = float((mask & other).sum() / (mask | other).sum())
            a, b = encode_masks(np.stack([mask, other]))
            place = {"dataset": name, "video": video["video_id"], "frame": 0}
            pairs.append({**place, "a": a, "b": b, "iou_a": 1.0, "iou_b": iou})
            pairs.append({**place, "a": b, "b": a, "iou_a": iou, "iou_b": 1.0})
    train, val = pairs[:-4], pairs[-4:]
    return {"train": train, "train_all": train, "val": val, "val_all": val}


def trainable_crossvis() -> dict[str, Tensor]:
    """A file in the layout of CrossVIS' authors with the values of a fresh network: recorded ones
    tell the keys apart, but no training can start from them."""
    config = "configs/crossvis/R50_1x_ytvis2019.yaml"
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.CROSSVIS.NUM_IDENTITIES", "3774"])
    fresh = build_model(cfg).state_dict()
    state = {}
    for key, recorded in crossvis().items():
        known = key in fresh and fresh[key].shape == recorded.shape
        state[key] = fresh[key] if known else torch.zeros_like(recorded)
        if key.startswith("backbone") and recorded.ndim == 4:
            state[key] = 0.5 * state[key]  # its norms are frozen: plain initial values grow
    return state


def _truth(labels: np.ndarray) -> dict:
    rows = []
    for i in (1, 2):
        masks = [mask_util.encode(np.asfortranarray((m == i).astype(np.uint8))) for m in labels]
        for rle in masks:
            rle["counts"] = rle["counts"].decode()
        rows.append({"id": i, "video_id": 1, "category_id": i, "segmentations": masks})
    names = [f"v/{t}.jpg" for t in range(FRAMES)]
    video = {"id": 1, "height": SIZE[0], "width": SIZE[1], "length": FRAMES, "file_names": names}
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    return {"videos": [video], "categories": categories, "annotations": rows}
