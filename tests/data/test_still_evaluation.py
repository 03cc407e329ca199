"""The synthetic stills go through Detectron2's own COCO evaluation without any file."""

from __future__ import annotations

import pytest
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from vis_projects import get_cfg
from vis_projects.data import build_test_loader, load_videos, read_objects


def test_perfect_detections_score_100(tmp_path):
    name = "synthetic_stills_val:videos=12"
    loader = build_test_loader(get_cfg(), name)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path), use_fast_impl=False)
    evaluator.reset()
    for batch, video in zip(loader, load_videos(name)):
        objects = read_objects(video, 0)
        item = batch[0]
        assert item["image"].shape == (3, item["height"], item["width"])
        found = Instances((item["height"], item["width"]))
        found.pred_boxes = Boxes(torch.from_numpy(objects.boxes))
        found.scores = torch.ones(len(objects))
        found.pred_classes = torch.from_numpy(objects.classes)
        found.pred_masks = torch.from_numpy(objects.masks.astype(bool))
        evaluator.process(batch, [{"instances": found}])
    scores = evaluator.evaluate()
    assert scores["segm"]["AP"] == pytest.approx(100)
    assert scores["bbox"]["AP"] == pytest.approx(100)
