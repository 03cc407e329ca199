"""Options of MSN, under ``MODEL.MSN``. "chosen" marks what the paper does not state."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("msn")
def add_config(cfg: CfgNode) -> None:
    """Add the options of the detector, of stages 2 and 3 and of the selection network."""
    msn = cfg.MODEL.MSN = CfgNode()
    _add_detector(msn)
    _add_stages(msn)
    _add_selector(msn)


def _add_detector(msn: CfgNode) -> None:
    # Registered name of the detector: any META_ARCH that gives {"instances"} for an image.
    msn.DETECTOR = "MSNDetector"
    # "official": class-specific boxes, a mask head per stage, as the official Swin detectors;
    # "detectron2": its own cascade; "": MODEL.ROI_HEADS.NAME as it stands (chosen: official).
    msn.CASCADE_STYLE = "official"
    # Loss weights of the cascade's stages (official Swin detector), style "official" only.
    msn.STAGE_WEIGHTS = (1.0, 0.5, 0.25)
    # Table 3: coco_pretrain_vis_finetune, coco_vis_joint or coco_vis_openimages_joint. Checked
    # against DATASETS.TRAIN and CLASS_MAPS; "" allows any. Balanced: INPUT.SAMPLER.BALANCE.
    msn.DATA_STAGES = ""
    # Registered name of a classifier that may correct the detector's classes, such as
    # TimmReclassifier; "" for none (Section 4.1, unpublished; off chosen).
    msn.RECLASSIFIER = ""
    # Its class counts from this probability on; crops are boxes grown by this share (chosen).
    msn.RECLASSIFY_THRESH = 0.9
    msn.RECLASSIFY_MARGIN = 0.1
    # RECLASSIFIER "TimmReclassifier" and its training, META_ARCHITECTURE CropClassifier (chosen).
    classifier = msn.CLASSIFIER = CfgNode()
    # Name in timm; the paper says "ViT-based".
    classifier.NAME = "vit_base_patch16_224"
    # Classes of a network trained on crops; 0: ImageNet's network as it is, whose classes CLASS_MAP
    # adds up to the detector's.
    classifier.NUM_CLASSES = 40
    classifier.CLASS_MAP = "msn/imagenet1k/ytvis_2021"
    # Side of the crops in pixels.
    classifier.SIZE = 224
    # Training starts from ImageNet weights.
    classifier.PRETRAINED = True
    # Training: corners of the boxes move by up to this share of the sides, and an image gives at
    # most so many crops.
    classifier.JITTER = 0.1
    classifier.MAX_CROPS = 16


def _add_stages(msn: CfgNode) -> None:
    # Detections that enter stage 2 score more than this (Section 3.1: "a certain threshold").
    msn.SCORE_THRESH = 0.5
    # Of two detections of a frame with a larger mask IoU the better one stays (chosen).
    msn.DUPLICATE_IOU = 0.7
    # Stage 2: detections and propagated masks are associated above this IoU (Section 3.1: 0.1).
    msn.ASSOCIATE_IOU = 0.1
    # "msn", "propagation", "segmentation" or "oracle" (ground truth, for analysis; Table 4).
    msn.SELECT = "msn"
    # The segmented mask is taken above probability 0.5 + SWITCH_MARGIN (chosen: 0).
    msn.SWITCH_MARGIN = 0.0
    # Share of a new mask that may lie on a track that blocks it (Section 3.1: none).
    msn.NEW_MAX_OVERLAP = 0.0
    # Which tracks block: "same_class" (Section 3.1), "any_class" or "always" (none; Table 4).
    msn.NEW_OBJECT_RULE = "same_class"
    # Tracks per direction (Section 4.1: 15).
    msn.MAX_OBJECTS = 15
    # Tracks of a video, the best-scoring ones, after the directions are merged; 0: no limit
    # (chosen). Section 4.1 says 15 "a video", which may mean either.
    msn.MAX_VIDEO_OBJECTS = 0
    # Clear the image border of propagated masks and drop their parts below a quarter of the
    # largest one (FrameSelect; off chosen).
    msn.CLEAN_UP = False
    # "both", "forward" or "backward" (Table 4); "none" links detections by their IoU alone, without
    # a propagator (to compare with).
    msn.DIRECTIONS = "both"
    # Stage 3: forward and backward masks vote for one object above this IoU (chosen: 0.5).
    msn.MERGE_IOU = 0.5
    # Which of two masks a merged track takes: "msn" or "forward" (chosen: msn).
    msn.MERGE_CHOICE = "msn"
    # Merge only tracks of one class (chosen: no).
    msn.MERGE_SAME_CLASS = False
    # The track with the higher score takes pixels that two tracks claim (chosen: no).
    msn.RESOLVE_OVERLAP = False
    # Join what one person holds (Section 3.1; Table 4); classes are contiguous, of YouTube-VIS
    # 2021: boat, motorbike, skateboard, snowboard, surfboard, tennis racket.
    msn.HUMAN_OBJECT = True
    msn.PERSON_CLASS = 25
    msn.HELD_CLASSES = (3, 22, 28, 30, 32, 33)
    # Share of its sides by which an object's box grows towards its owner (chosen: 0.1).
    msn.HUMAN_OBJECT_MARGIN = 0.1


def _add_selector(msn: CfgNode) -> None:
    selector = msn.SELECTOR = CfgNode()
    # "patch" is the mask selection network, "selector_net" the older one (Table 1).
    selector.NAME = "patch"
    # Channels of the first layer and number of strided layers of "patch" (64 and 5 give the
    # published cost).
    selector.WIDTH = 64
    selector.LAYERS = 5
    # Side of the crops in pixels (Section 3.2: 256).
    selector.SIZE = 256
    # "union": the box around both masks; "each": every mask in its own (Section 3.2; union chosen);
    # "image": the whole frame, as the older selector sees it (Section 3.2, Table 1).
    selector.CROP = "union"
    # How patches vote: mean_logit, mean_prob or vote (chosen: mean_logit).
    selector.AGGREGATE = "mean_logit"
    # Average f(A, B) and -f(B, A) at test: exactly antisymmetric, twice the cost (chosen: no).
    selector.SYMMETRIC = False
    # Cross-entropy on every "patch" or on the "pair" (chosen: patch).
    selector.LOSS = "patch"
    # Training: files of pairs, made by tools/make_selection_pairs.py.
    selector.PAIRS = ()
    # Pairs whose two IoUs differ less than this are left out of training (chosen: 0.01).
    selector.MIN_IOU_GAP = 0.01
    # As many pairs whose propagated mask is better as such whose segmented one is (chosen: yes; the
    # paper says nothing). False trains on the pairs as the pipeline makes them, three of four with
    # the better segmented mask in the quickstart; then SWAP_PROB has to be 0, or nothing of that
    # stays.
    selector.BALANCED = True
    # Probabilities of swapping A and B and of mirroring (swapping: Section 4.1; 0.5 chosen).
    selector.SWAP_PROB = 0.5
    selector.FLIP_PROB = 0.5
