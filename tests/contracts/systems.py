"""The systems that the contract suite runs over: one entry each.

A case names a config and the overrides that make it tiny, so that the whole suite takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.modeling import VideoModel


@dataclass(frozen=True)
class SystemCase:
    """One system under test.

    Attributes:
        name: for the test's id.
        config: config file.
        opts: KEY, VALUE, ... overrides that make it tiny and give random weights.
        size: rows and columns of the test frames.
        package: folder below ``vis_projects`` whose options are checked.
        section: key below ``MODEL`` that holds the options, or "".
        overfit_steps: training steps of the overfitting test; 0 for systems that do not train.
        slow_overfit: the overfitting test takes more than about five seconds.
    """

    name: str
    config: str
    opts: tuple[str, ...] = ()
    size: tuple[int, int] = (64, 96)
    package: str = ""
    section: str = ""
    overfit_steps: int = 0
    slow_overfit: bool = False

    def cfg(self, device: str = "cpu", **overrides: object) -> CfgNode:
        flat = [str(x) for pair in overrides.items() for x in pair]
        return load_config(
            self.config,
            [
                *self.opts,
                *("MODEL.DEVICE", device, "MODEL.WEIGHTS", ""),
                *("MODEL.ALLOW_MISSING_WEIGHTS", "True"),
                *flat,
            ],
        )

    def build(self, device: str = "cpu") -> VideoModel:
        torch.manual_seed(0)
        return build_model(self.cfg(device)).eval()


CASES = [
    SystemCase("copy_first", "configs/copy_first/davis2016.yaml", package="copy_first"),
    SystemCase(
        "feature_match",
        "configs/feature_match/lite0.yaml",
        opts=(
            *("MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.PRETRAINED", "False"),
            *("INPUT.MIN_SIZE_TEST", "0", "MODEL.TIMM.STANDARDISE", ""),
        ),
        package="feature_match",
        section="FEATURE_MATCH",
    ),
    SystemCase(
        "crossvis",
        "configs/crossvis/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.FCOS.INFERENCE_TH_TEST", "0.001", "MODEL.CROSSVIS.TRACKER.MAX_TRACKS", "20"),
            *("SOLVER.IMS_PER_BATCH", "2"),
        ),
        package="crossvis",
        section="CROSSVIS",
        overfit_steps=10,
    ),
    SystemCase(
        "cfbi",
        "configs/cfbi/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.CFBI.WIDTH", "32", "MODEL.CFBI.EMBEDDING_DIM", "16"),
            *("MODEL.CFBI.HEAD_WIDTH", "32", "SOLVER.IMS_PER_BATCH", "1"),
            *("MODEL.CFBI.MINING_STEPS", "1000000", "INPUT.AUGMENTATIONS.CROP.SIZE", "(96, 96)"),
        ),
        package="cfbi",
        section="CFBI",
        overfit_steps=12,
        slow_overfit=True,
    ),
    SystemCase(
        "srnet",
        "configs/srnet/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SRNET.DECODER_CHANNELS", "(32, 32, 32, 32)"),
            *("MODEL.SRNET.HEAD_CHANNELS", "16", "MODEL.SRNET.TEST.MIN_SCORE", "0.05"),
            *("SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TEST", "0"),
            *("INPUT.MIN_SIZE_TRAIN", "(0,)"),
        ),
        package="srnet",
        section="SRNET",
        overfit_steps=12,
    ),
    SystemCase(
        "frtm",
        "configs/frtm/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.FRTM.TARGET.WIDTH", "16", "MODEL.FRTM.TARGET.CAPACITY", "10"),
            *("MODEL.FRTM.TRAINING.WIDTH", "16", "MODEL.FRTM.TRAINING.SAMPLES", "2"),
            *("MODEL.FRTM.TARGET.SAMPLES", "3", "MODEL.FRTM.TARGET.INIT_STEPS", "(3, 3)"),
            *("INPUT.MIN_SIZE_TEST", "0", "SOLVER.IMS_PER_BATCH", "2"),
            *("DATASETS.TRAIN", "('synthetic_vos_train',)", "DATASETS.WEIGHTS", "()"),
        ),
        package="frtm",
        section="FRTM",
        overfit_steps=12,
    ),
    SystemCase(
        "frtm_matching",
        "configs/frtm/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.FRTM.TARGET_MODEL", "matching", "INPUT.MIN_SIZE_TEST", "0"),
            *("SOLVER.IMS_PER_BATCH", "2", "DATASETS.TRAIN", "('synthetic_vos_train',)"),
            *("DATASETS.WEIGHTS", "()"),
        ),
        package="frtm",
        section="FRTM",
        overfit_steps=12,
    ),
    SystemCase(
        "seq_mask_rcnn",
        "configs/seq_mask_rcnn/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01"),
            *("MODEL.SEQ_MASK_RCNN.NUM_KEY_FRAMES", "2", "MODEL.SEQ_MASK_RCNN.MEM_NUM", "4"),
            *("MODEL.SEQ_MASK_RCNN.RESULT_SCORE_THRESH", "0.0", "TEST.DETECTIONS_PER_IMAGE", "3"),
            *("SOLVER.IMS_PER_BATCH", "2", "MODEL.SEQ_MASK_RCNN.REDO_KEY_FRAME", "False"),
        ),
        package="seq_mask_rcnn",
        section="SEQ_MASK_RCNN",
        overfit_steps=10,
    ),
    SystemCase(
        "msn",
        "configs/msn/quickstart_synthetic.yaml",
        opts=(
            *("MODEL.CFBI.WIDTH", "32", "MODEL.CFBI.EMBEDDING_DIM", "16"),
            *("MODEL.CFBI.HEAD_WIDTH", "32", "MODEL.FPN.OUT_CHANNELS", "16"),
            *("MODEL.MSN.SCORE_THRESH", "0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
            *("TEST.DETECTIONS_PER_IMAGE", "3"),
        ),
        package="msn",
        section="MSN",
    ),
    SystemCase(
        "consensus_voting",
        "configs/consensus_voting/lite0.yaml",
        opts=(
            *("MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.PRETRAINED", "False"),
            *("MODEL.TIMM.STANDARDISE", "", "MODEL.FPN.OUT_CHANNELS", "32"),
            *("MODEL.SRNET.DECODER_CHANNELS", "(32, 32, 32, 32)", "INPUT.MIN_SIZE_TEST", "0"),
            *("MODEL.SRNET.HEAD_CHANNELS", "16", "MODEL.SRNET.TEST.MIN_SCORE", "0.05"),
            *("MODEL.CONSENSUS_VOTING.MIN_SIZE", "0", "MODEL.CONSENSUS_VOTING.REFERENCES", "3"),
            *("MODEL.CONSENSUS_VOTING.OBJECTNESS_SIZE", "0"),
            *("MODEL.CONSENSUS_VOTING.THRESHOLD", "0.0"),
        ),
        package="consensus_voting",
        section="CONSENSUS_VOTING",
    ),
]
