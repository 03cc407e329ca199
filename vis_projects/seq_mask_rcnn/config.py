"""Options of Seq Mask R-CNN and Propose-Reduce, all under MODEL.SEQ_MASK_RCNN.

The paper is Lin et al., "Video Instance Segmentation with a Propose-Reduce Paradigm" (ICCV 2021).
It and its published code differ; defaults follow the code ("released"), whose checkpoints exist.
docs/seq_mask_rcnn.md lists both presets. "chosen" marks values that neither states. The detector's
own options are Detectron2's (MODEL.RPN, ROI_HEADS, ROI_BOX_HEAD, ROI_MASK_HEAD, TEST).
"""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("seq_mask_rcnn")
def add_config(cfg: CfgNode) -> None:
    """Add MODEL.SEQ_MASK_RCNN."""
    node = cfg.MODEL.SEQ_MASK_RCNN = CfgNode()
    # "vis" (tracks with class scores) or "uvos" (one class, ranked sequences, DAVIS).
    node.TASK = "vis"

    head = node.PROP_HEAD = CfgNode()
    # Channels at stride 16, of keys, of values, and of the decoder (released).
    head.HIDDEN_CHANNELS = 512
    head.KEY_CHANNELS = 64
    head.VALUE_CHANNELS = 256
    head.DECODER_CHANNELS = 256
    # Backbone stages added in the decoder: released; the paper's text has ["res2"].
    head.SKIP_FEATURES = ["res3", "res2"]
    # How what was read joins the query: "concat" (released) or "sum" (paper, Fig. 4).
    head.FUSION = "concat"
    # Normalisation after the head's 3x3 convolutions, a name Detectron2 knows ("BN", "GN"); "" for
    # none (released).
    head.NORM = ""
    # Instances of a training pair that are propagated at most (released).
    head.MAX_TRAIN_INSTANCES = 5
    head.LOSS_WEIGHT = 1.0

    # Key frames K (section 3.1.1); paper 6 and 4, released scripts 5 and 8 (YouTube-VIS, DAVIS);
    # 0 takes every frame (K = infinity of Fig. 7).
    node.NUM_KEY_FRAMES = 5
    # "released" reaches the last frame, "paper" is Eq. 1.
    node.KEY_FRAME_RULE = "released"
    # Proposals of a key frame whose mask IoU with a better one reaches this are dropped (released:
    # 0.2; above 1 switches it off, as in the paper).
    node.PROPOSAL_IOU_THRESH = 0.2
    # The mask of the key frame itself is segmented again from its memory (released), not kept.
    node.REDO_KEY_FRAME = True
    # Every MEM_STEP-th frame enters the memory; MEM_NUM > 0 sets MEM_STEP to max(T // MEM_NUM, 1),
    # so that a memory has fewer than 2 MEM_NUM + 2 entries (released: 1 and, DAVIS, MEM_NUM 10).
    node.MEM_STEP = 1
    node.MEM_NUM = 0
    # Instances that advance in lock step at most, and instances in one call of the network; they
    # bound memory and change no result (chosen).
    node.MAX_ROWS = 32
    node.CHUNK_ROWS = 4
    # A pixel belongs to a sequence from this probability on (section 3.2; released).
    node.MASK_THRESH = 0.5
    # Class scores are averaged over the frames where the mask is "visible" (released) or over
    # "all" frames (Eq. 2).
    node.SCORE_MEAN = "visible"

    reduce = node.REDUCE = CfgNode()
    # "hard", "category_aware" (table 5), "soft" (DAVIS, released) or "none" (table 4).
    reduce.MODE = "hard"
    # First step: score below which nothing more is selected (released: 0.05; "soft" 0.001).
    reduce.SCORE_THRESH = 0.05
    # Sequence IoU that removes (released: 0.5; "category_aware" 0.9).
    reduce.IOU_THRESH = 0.5
    # Scores decay by exp(-IoU^2 / SIGMA) in "soft" and in the second step of "category_aware".
    reduce.SIGMA = 0.5
    # Sequences that "soft" selects at most (DAVIS evaluates 20).
    reduce.MAX_SEQUENCES = 20
    # Second step of "category_aware", per class.
    reduce.CLASS_SCORE_THRESH = 0.001
    reduce.CLASS_MAX = 100
    # A sequence is reported for every class that scores at least this (released: 0.05,
    # category-aware 0.001, DAVIS all).
    node.RESULT_SCORE_THRESH = 0.05

    # Conventions of official checkpoints: deltas limited on both sides and masks pasted into
    # integer boxes. With MODEL.ANCHOR_GENERATOR.NAME InclusiveAnchorGenerator and POOLER_TYPE
    # ROIAlign their detections are reproduced; models trained here need none of it.
    node.INCLUSIVE_BOXES = False
