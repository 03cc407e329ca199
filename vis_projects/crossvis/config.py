"""Options of FCOS, CondInst and CrossVIS. Names are the official ones; new ones say "chosen"."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("crossvis")
def add_config(cfg: CfgNode) -> None:
    """Add MODEL.FCOS, MODEL.CONDINST and MODEL.CROSSVIS."""
    _add_fcos(cfg)
    _add_condinst(cfg)
    _add_crossvis(cfg)


def _add_fcos(cfg: CfgNode) -> None:
    cfg.MODEL.FCOS = CfgNode()
    fcos = cfg.MODEL.FCOS
    fcos.NUM_CLASSES = 40  # 0: count those of the training sets
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    fcos.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels
    # Upper limits, in pixels, of the largest distance to a box side per level; the last is open.
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]
    fcos.NUM_CLS_CONVS = 4
    fcos.NUM_BOX_CONVS = 4
    fcos.NUM_SHARE_CONVS = 0
    # GN or NaiveGN; BN or SyncBN (one layer per level, as published); FrozenBN, LN, none.
    fcos.NORM = "GN"
    fcos.USE_SCALE = True  # a learned factor per level on the distances
    fcos.TOP_LEVELS = 2  # levels computed from the coarsest one of the backbone: P6 and P7
    fcos.CENTER_SAMPLE = True
    fcos.POS_RADIUS = 1.5  # strides around the object's centre
    fcos.LOC_LOSS_TYPE = "giou"
    fcos.BOX_QUALITY = "ctrness"
    fcos.LOSS_ALPHA = 0.25
    fcos.LOSS_GAMMA = 2.0
    fcos.LOSS_NORMALIZER_CLS = "fg"
    fcos.LOSS_WEIGHT_CLS = 1.0
    fcos.PRIOR_PROB = 0.01
    # Initial bias of the distances in strides (chosen: 0 as published; the quickstart, which
    # trains from scratch, starts with boxes of four strides).
    fcos.BOX_BIAS = 0.0
    fcos.THRESH_WITH_CTR = True  # the threshold applies to class * centerness
    fcos.INFERENCE_TH_TEST = 0.05  # probability; scores are its square root
    fcos.PRE_NMS_TOPK_TEST = 1000  # per level
    fcos.NMS_TH = 0.6  # IoU
    fcos.POST_NMS_TOPK_TEST = 100  # per frame


def _add_condinst(cfg: CfgNode) -> None:
    cfg.MODEL.CONDINST = CfgNode()
    condinst = cfg.MODEL.CONDINST
    condinst.MASK_OUT_STRIDE = 4  # pixels per mask logit
    # At most this many positives per process feed the mask losses, a random choice; -1: all.
    condinst.MAX_PROPOSALS = 500
    # Or: at most max(int(k / objects), 1) best positives of each object of an image; -1: all.
    condinst.TOPK_PROPOSALS_PER_IM = -1
    condinst.MASK_HEAD = CfgNode()
    condinst.MASK_HEAD.CHANNELS = 8
    condinst.MASK_HEAD.NUM_LAYERS = 3
    condinst.MASK_HEAD.DISABLE_REL_COORDS = False
    condinst.MASK_BRANCH = CfgNode()
    condinst.MASK_BRANCH.OUT_CHANNELS = 8
    condinst.MASK_BRANCH.IN_FEATURES = ["p3", "p4", "p5"]
    condinst.MASK_BRANCH.CHANNELS = 128
    condinst.MASK_BRANCH.NORM = "BN"  # BN, SyncBN, GN, ... or "" for none
    condinst.MASK_BRANCH.NUM_CONVS = 4
    condinst.MASK_BRANCH.SEMANTIC_LOSS_ON = False  # True is refused: no published result uses it


def _add_crossvis(cfg: CfgNode) -> None:
    cfg.MODEL.CROSSVIS = CfgNode()
    crossvis = cfg.MODEL.CROSSVIS
    # Objects of the training sets, M of section 3.3; 0: count them in DATASETS.TRAIN (chosen:
    # 3774 is YouTube-VIS 2019, as released).
    crossvis.NUM_IDENTITIES = 3774
    # Factor on the gradient that reaches backbone and FPN (released code, not in the paper).
    crossvis.BACKBONE_GRAD_SCALE = 0.1
    crossvis.CROSSOVER = CfgNode()
    # Crossover learning, section 3.2; off gives the first lines of tables 6 and 8. The reach of
    # the frame pairs, the paper's T, is INPUT.SAMPLER.RANGE.
    crossvis.CROSSOVER.ENABLED = True
    crossvis.EMBEDDING = CfgNode()
    crossvis.EMBEDDING.DIM = 256
    # "global" (Eq. 11, 13) or "pairwise" (Eq. 9), table 7.
    crossvis.EMBEDDING.TYPE = "global"
    # "focal" (Eq. 14) or "ce" (Eq. 10, 12), table 7.
    crossvis.EMBEDDING.LOSS = "focal"
    crossvis.EMBEDDING.LOSS_WEIGHT = 1.0
    # "pairwise": factor on the products of two embeddings. 0 is 1 / DIM (chosen): embeddings leave
    # a batch norm with a squared length of about DIM, so that products start in -1 .. 1 and the
    # loss at the size of the others; 1 is Eq. 9 as printed, which starts at 10 to 200.
    crossvis.EMBEDDING.PAIRWISE_SCALE = 0.0
    crossvis.TRACKER = CfgNode()
    # How detections find their tracks: "crossvis" (the released rule: cosine + IoU), "masktrack"
    # (the paper's reference: MaskTrack R-CNN's) or "iou" (boxes alone, a baseline).
    crossvis.TRACKER.RULE = "crossvis"
    # Rules "crossvis" and "iou": a lower match score opens a new track.
    crossvis.TRACKER.MATCH_THRESH = 0.4
    # A track that was not seen for more frames than this is forgotten; 0: never (as released).
    crossvis.TRACKER.MAX_AGE = 0
    # Tracks remembered at a time, those seen last; 0: no limit (as released).
    crossvis.TRACKER.MAX_TRACKS = 0
