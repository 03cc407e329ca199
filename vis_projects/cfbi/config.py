"""Options of CFBI, under ``MODEL.CFBI``."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("cfbi")
def add_config(cfg: CfgNode) -> None:
    """Add the options of CFBI (ECCV 2020); defaults are the released model's."""
    cfg.MODEL.CFBI = CfgNode()
    options = cfg.MODEL.CFBI
    # Depth of the ResNet: 18, 50 or 101.
    options.DEPTH = 101
    # Channels of the extractor, of the embedding, and of the ensembler's first stage.
    options.WIDTH = 256
    options.EMBEDDING_DIM = 100
    # What is matched: "learned", the paper's, or on a timm trunk "trunk", its maps of strides 8 and
    # 16 as they are, which EMBEDDING_DIM channels bring to the ensembler (ours; no WIDTH, no NORM).
    options.EMBEDDING = "learned"
    options.HEAD_WIDTH = 256
    # Norm of the extractor: FrozenBN for trained weights, BN or GN to train from scratch.
    options.NORM = "FrozenBN"
    # Initial weight of the embedding's last norm. From scratch a small one keeps distances where
    # the sigmoid of the matching has a slope (chosen; 1 is PyTorch's).
    options.EMBEDDING_GAIN = 1.0
    # Statistics of pixels in 0..1, applied in the order of INPUT_FORMAT: the released weights want
    # RGB statistics on BGR pixels.
    options.INPUT_FORMAT = "BGR"
    options.PIXEL_MEAN = [0.485, 0.456, 0.406]
    options.PIXEL_STD = [0.229, 0.224, 0.225]
    # Limit of the network's long edge in pixels, with one scale and with several.
    options.LONG_EDGE = 1040
    options.LONG_EDGE_MULTI_SCALE = 800
    # Runs whose probabilities are averaged; MSN uses (1.0, 1.15, 1.3, 1.5) and flips.
    options.SCALES = (1.0,)
    options.FLIP = False
    # Global matching: every r-th row and column of the references (2 is the "fast" setting), and
    # the megabytes of distances that are held at once at most (a CPU holds 1, for its cache).
    options.GLOBAL_ATROUS_RATE = 1
    options.GLOBAL_CHUNK_MB = 256.0
    # Number format of the embeddings in matching and of the distances: "float32", or "float16" (the
    # released code's option; the networks are not touched: MODEL.INFERENCE_DTYPE is theirs).
    options.MATCHING_DTYPE = "float32"
    # In evaluation on data sets, follow the ids that a first mask leaves out below its highest as
    # well, as the released evaluator does: objects without pixels, which take some later.
    options.FILL_ID_GAPS = False
    # Objects, the background included, that go through the ensembler at once, at most: bounds its
    # memory. A CPU takes fewer where their maps are large.
    options.OBJECTS_PER_BATCH = 4
    # References kept: the first and the newest others; 0 keeps all, as released.
    options.MAX_REFERENCES = 0
    # Loss: share of the hardest pixels at the end of the mining, and its length in steps; -1 is
    # half of SOLVER.MAX_ITER, as released.
    options.TOP_K_SHARE = 0.15
    options.MINING_STEPS = -1
    # Step from which the prediction for one frame is the previous mask of the next; before it that
    # is the true mask (CFBI 3.5); -1 is half of SOLVER.MAX_ITER, as released.
    options.SEQUENTIAL_FROM = -1
    # Objects of a training clip, at most; which of more is random. 0 takes all.
    options.MAX_OBJECTS = 5
