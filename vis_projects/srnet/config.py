"""Options of SRNet, all under MODEL.SRNET. Sections and equations are the paper's (Ying et al.,
"SRNet", ACM MM 2021). "chosen" marks values that the paper does not state. Lengths "in grid units"
are those of the spatial grid (Eq. 1), cells those of the maps at stride 4."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("srnet")
def add_config(cfg: CfgNode) -> None:
    """Add SRNet's options."""
    srnet = cfg.MODEL.SRNET = CfgNode()
    # Classes of the category head (section 3.6), YouTube-VIS has 40. 0 counts those of the training
    # sets; data without classes (UVOS, DATASETS.CLASS_AGNOSTIC) leave the head out.
    srnet.NUM_CLASSES = 0

    # Channels of the decoder's four blocks; the last are those of X (chosen).
    srnet.DECODER_CHANNELS = (256, 256, 128, 128)
    # Groups of the decoder's group normalisation (chosen).
    srnet.DECODER_GROUPS = 32
    # Normalisation of the pyramid levels where they enter the decoder: "" (none: the paper draws
    # none) or "GN" (chosen in the quickstarts; without it the features of frame t - 1 hardly reach
    # X, see docs/srnet.md). The pyramid itself keeps its form, so COCO weights fit either way.
    srnet.LEVEL_NORM = ""
    # Width between the two convolutions of every head (chosen: "lightweight").
    srnet.HEAD_CHANNELS = 64
    # Free dimensions of the pixel offset (section 3.3, "Extra Dimensions"); 0 leaves them out.
    srnet.EXTRA_DIMS = 2
    # Their bandwidths phi, one per free dimension (chosen: STEm-Seg's).
    srnet.EXTRA_BANDWIDTH = (0.3, 0.3)

    # Eq. 5: "lovasz" or "dice" (Table 1).
    srnet.IOU = "lovasz"
    # Second term of Eq. 5: "paper" (norm of Sigma's deviation) or "log_sq" (squared deviation of
    # the head's raw output, as Neven et al. do).
    srnet.SMOOTH = "paper"
    # Eq. 8: mean over "pixel" (paper) or over background and instances, "instance".
    srnet.OBJ_BALANCE = "pixel"
    # Data sets (names that begin so) whose background may hold unannotated objects: objectness is
    # learned on foreground only. () learns the background everywhere (chosen: DAVIS).
    srnet.IGNORE_BACKGROUND_OF = ("davis",)
    # Gradients also flow through frame t - 1 (chosen: "end-to-end"); False saves memory.
    srnet.PREV_FEATURE_GRAD = True
    # Probability of training a pair as if frame t were the first of its video (chosen).
    srnet.FIRST_FRAME_PROB = 0.1
    # Noise of the heat map in training (chosen: CenterTrack's): movement of the peak, share of the
    # box's sides; probability that an object is missing; probability of a second peak.
    srnet.HEATMAP_JITTER = 0.05
    srnet.HEATMAP_DROP = 0.4
    srnet.HEATMAP_DUPLICATE = 0.1
    # Start values of the tracking head's weights for the heat map are multiplied by this (chosen;
    # above 1 this one channel speaks as loud as those of X, which a short training needs).
    srnet.HEATMAP_GAIN = 1.0
    # Above 0 the heat map has a bowl of so many cells round every centre in place of the paper's
    # bells, in training and at test (chosen: 0.0, bells). A bell is 1 or 2 cells wide for a small
    # object, and the head sees 3 x 3: nobody who moves farther in a frame can be followed.
    srnet.HEATMAP_BOWL = 0.0
    # Train the tracking head alone, from a finished model; all else stays as it is (chosen: off).
    srnet.TRACKING_ONLY = False
    # Eq. 7 also at this many points round the centre, drawn with a standard deviation of
    # TRACK_SPREAD of the box's sides (0: the paper). The vectors still lead to the previous centre,
    # so one that ignores where it was never pays.
    srnet.TRACK_POINTS = 0
    srnet.TRACK_SPREAD = 0.1

    test = srnet.TEST = CfgNode()
    # A seed needs more objectness than this (Algorithm 1, line 3; chosen; tune in 0.4 .. 0.9).
    test.MIN_SCORE = 0.5
    # A cell belongs to an instance above this probability (Algorithm 1, line 8).
    test.MASK_THR = 0.5
    # ... and needs more objectness than this (chosen; 0 is the paper, STEm-Seg has 0.25): nothing
    # teaches the background's embeddings to lie outside all proposals.
    test.MASK_OBJECTNESS = 0.0
    # Instances have at least this many cells of their own (chosen; 1 is the paper).
    test.MIN_AREA = 16
    # ... and this share of their proposal is not taken by earlier ones (chosen; 0 is the paper).
    test.MIN_FREE = 0.5
    # Instances at most in a frame (chosen: DAVIS evaluates 20), and seeds that are tried.
    test.MAX_INSTANCES = 20
    test.MAX_SEEDS = 64
    # Which pairs may be linked: those no farther apart than both boxes are large, "box" (chosen);
    # than GATE_DISTANCE grid units, "distance" (for a long memory, see MAX_AGE); or all, "none"
    # (paper). The shorter side of the picture measures 2.
    test.GATE = "box"
    test.GATE_DISTANCE = 0.75
    # Centre of an instance for tracking, in training too: "mass" (section 3.4) or "snap", the
    # nearest mask cell.
    test.CENTER = "mass"
    # Order of linking: "global" takes the smallest distance first, "score" goes by objectness.
    test.GREEDY = "global"
    # Link detections of one class only, as CenterTrack's gate asks too (VIS; False: the paper).
    test.SAME_CLASS = False
    # Frames for which a lost track is remembered (0: the paper).
    test.MAX_AGE = 0
    # Masks from the upsampled embedding, "full" (chosen), or from enlarged labels, "stride".
    test.OUTPUT = "full"
    # A track's score: mean objectness times class probability, "obj_cls" (chosen), or without it,
    # "obj"; "obj_cls_length" also multiplies by the share of the video's frames that the track has.
    test.TRACK_SCORE = "obj_cls"
    # Table 2, at test only: no heat map; the current frame in place of the previous one.
    test.ZERO_HEATMAP = False
    test.REPEAT_FRAME = False
    # What links instances: "tracking" (the vectors of section 3.4) or a baseline that is not in the
    # paper: "centre", their distance with every vector zero, or "box_iou", the IoU of the boxes in
    # both frames, at least LINK_IOU.
    test.LINK = "tracking"
    test.LINK_IOU = 0.1
    # Evaluate the tracking and bandwidth heads only where they are needed (same results up to
    # rounding).
    test.LAZY_HEADS = True
    # Frames that go through backbone, decoder and heads together in run_video; 1 is online.
    test.BATCH_FRAMES = 1
    # Results keep MAX_INSTANCES rows, absent ones with empty masks, score 0 and id 0: no
    # synchronisation with the host in a step on CUDA.
    test.FIXED_ROWS = False
