"""Mask R-CNN on synthetic stills through DefaultTrainer: COCO AP, resuming, two processes."""

from __future__ import annotations

import json

import cv2
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, launch
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import BACKBONE_REGISTRY, FPN, ResNet, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.utils.env import seed_all_rng
from torch import nn

NAME = "coco_stills_for_training"


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def write_stills(folder, count: int) -> None:
    """Synthetic stills as PNG files and a COCO json."""
    from vis_projects.data.synthetic import SyntheticOptions, load_synthetic

    videos, metadata = load_synthetic(SyntheticOptions(task="stills", videos=count, size=(64, 96)))
    for video in videos:
        still = video["still"]
        cv2.imwrite(str(folder / still["file_name"]), still["source"]().read(0))
    truth = metadata["ground_truth_fn"]()
    for annotation in truth["annotations"]:
        rle = dict(annotation["segmentation"])
        if isinstance(rle["counts"], bytes):
            rle["counts"] = rle["counts"].decode()
        annotation["segmentation"] = rle
    (folder / "stills.json").write_text(json.dumps(truth))


def register(folder) -> int:
    """Register the written stills; returns the number of classes."""
    if NAME not in DatasetCatalog:
        register_coco_instances(NAME, {}, str(folder / "stills.json"), str(folder))
    DatasetCatalog.get(NAME)
    return len(MetadataCatalog.get(NAME).thing_classes)


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stills")
    write_stills(folder, 8)
    yield folder
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


@BACKBONE_REGISTRY.register()
def build_three_level_fpn_for_training_test(cfg, input_shape):
    """A narrow ResNet of one block per stage, without frozen parts."""

    def groups(width):
        return nn.GroupNorm(8, width)

    stages, channels = [], 16
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        stages.append(
            ResNet.make_stage(
                BasicBlock, 1, in_channels=channels, out_channels=out, stride=stride, norm=groups
            )
        )
        channels = out
    names = ["res2", "res3", "res4"]
    stem = BasicStem(input_shape.channels, 16, norm="")
    return FPN(ResNet(stem, stages, out_features=names), names, 32)


def small_cfg(folder, output, *, iterations: int):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_three_level_fpn_for_training_test"
    cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 200
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = register(folder)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 128
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 2
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.02
    cfg.SOLVER.WARMUP_ITERS = 20
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.STEPS = (int(iterations * 0.8),)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(output)
    return cfg


def run(cfg, *, resume: bool = False) -> Trainer:
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_train_checkpoint_and_resume(stills, tmp_path):
    """The layout of the files is the official one; a resumed run continues after the last."""
    cfg = small_cfg(stills, tmp_path, iterations=3)
    cfg.DATASETS.TEST = ()
    trainer = run(cfg)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert {p.name for p in tmp_path.glob("model_*.pth")} == {
        "model_0000001.pth",
        "model_final.pth",
    }
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert set(saved) == {"model", "trainer", "iteration"} and saved["iteration"] == 2
    assert set(saved["model"]) == set(build_model(cfg).state_dict())
    assert saved["trainer"]["iteration"] == 2
    assert saved["trainer"]["_trainer"]["iteration"] == 2
    assert set(saved["trainer"]["_trainer"]["optimizer"]) == {"state", "param_groups"}
    schedule = saved["trainer"]["hooks"]["LRScheduler"]
    assert set(schedule) == {"base_lrs", "last_epoch"} and schedule["last_epoch"] == 3

    cfg.SOLVER.MAX_ITER = 5
    resumed = run(cfg, resume=True)
    assert resumed.start_iter == 3 and resumed.iter == 5
    lines = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {"iteration", "total_loss", "loss_mask", "loss_rpn_cls", "lr"} <= set(lines[-1])
    assert [line["iteration"] for line in lines] == [2, 4]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trainer.model.parameters(), resumed.model.parameters())
    )
    # The file alone makes a model that predicts the same.
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    x = [{"image": torch.full((3, 64, 96), 100.0)}]
    with torch.no_grad():
        first, second = model.eval()(x), resumed.model.eval()(x)
    assert torch.equal(first[0]["instances"].scores, second[0]["instances"].scores)


@pytest.mark.slow
def test_overfits_to_a_high_ap(stills, tmp_path):
    cfg = small_cfg(stills, tmp_path, iterations=240)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SOLVER.CHECKPOINT_PERIOD = 1000
    cfg.TEST.EVAL_PERIOD = 1000
    trainer = run(cfg)
    results = trainer._last_eval_results
    assert results["bbox"]["AP50"] > 60 and results["segm"]["AP50"] > 50
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {"image_id", "category_id", "bbox", "score", "segmentation"} == set(written[0])


def _process(folder: str, output: str) -> None:
    from pathlib import Path

    from detectron2.utils import comm

    cfg = small_cfg(Path(folder), Path(output), iterations=3)
    cfg.TEST.EVAL_PERIOD = 1000
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    report = {
        "weights": weights.double().sum().item(),
        "ddp": type(trainer.model).__name__,
        "results": trainer._last_eval_results,
        "start": trainer.start_iter,
    }
    Path(output, f"report_{comm.get_rank()}.json").write_text(json.dumps(report))


@pytest.mark.lite
@pytest.mark.slow
def test_two_processes(stills, tmp_path):
    """Data-parallel training and evaluation over gloo: one model, one result, one file."""
    small_cfg(stills, tmp_path, iterations=1)
    launch(_process, 2, dist_url="auto", args=(str(stills), str(tmp_path)))
    reports = [json.loads((tmp_path / f"report_{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["ddp"] == reports[1]["ddp"] == "DistributedDataParallel"
    assert reports[0]["weights"] == reports[1]["weights"]
    assert set(reports[0]["results"]) == {"bbox", "segm"} and reports[1]["results"] == {}
    found = torch.load(tmp_path / "instances_predictions.pth", weights_only=True)
    assert len({p["image_id"] for p in found}) == 8, "every image once, from both processes"
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    cfg = small_cfg(stills, tmp_path, iterations=1)
    assert set(saved["model"]) == set(build_model(cfg).state_dict()), "no prefix 'module.'"
    assert saved["iteration"] == 2
