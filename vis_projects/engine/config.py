"""Options of training beyond Detectron2's ``SOLVER``. What is called chosen is our decision."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("engine")
def add_engine_config(cfg: CfgNode) -> None:
    """Add the keys of optimiser, schedule, accumulation and averaging.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` takes "full_model" beside Detectron2's "norm" and "value",
    ``SOLVER.LR_SCHEDULER_NAME`` takes "WarmupPolyLR" and "FlatExponentialLR" beside its three.
    """
    solver = cfg.SOLVER
    # "SGD" (MOMENTUM, NESTEROV), "Adam" (decay added to the gradient) or "AdamW" (decoupled).
    solver.OPTIMIZER = "SGD"
    # Adam and AdamW.
    solver.BETAS = (0.9, 0.999)
    solver.EPS = 1e-8
    solver.AMSGRAD = False
    # Learning-rate factor of every parameter below a module called "backbone".
    solver.BACKBONE_MULTIPLIER = 1.0
    # Parameters with these last names get no weight decay ("relative_position_bias_table").
    solver.NO_DECAY = ()
    # The batch of IMS_PER_BATCH items goes through the network in this many equal parts, and
    # their gradients are averaged: less memory, the same step for losses that are batch means.
    solver.ACCUMULATE_STEPS = 1
    # Number format of the forward pass with SOLVER.AMP.ENABLED: "auto" is float16 with loss
    # scaling on CUDA and bfloat16 elsewhere.
    solver.AMP.DTYPE = "auto"
    # Above 0: MAX_ITER becomes EPOCHS passes over DATASETS.TRAIN (at SOLVER.IMS_PER_BATCH), and
    # STEPS the epochs of EPOCH_STEPS.
    solver.EPOCHS = 0
    solver.EPOCH_STEPS = ()
    # WarmupPolyLR: (1 - k / MAX_ITER)^POLY_POWER, never below BASE_LR_END (CFBI: 0.9).
    solver.POLY_POWER = 0.9
    # FlatExponentialLR: BASE_LR for FLAT_ITERS iterations, then exponentially to
    # BASE_LR * EXPONENTIAL_END at MAX_ITER (SRNet: 60000 of 160000, 0.01).
    solver.FLAT_ITERS = 0
    solver.EXPONENTIAL_END = 0.01
    # Keep this many of the periodic checkpoints; 0 keeps all (chosen).
    solver.KEEP_CHECKPOINTS = 0
    # Also keep the weights of the best evaluation by this score (AP, J&F, ...) as model_best.pth;
    # needs TEST.EVAL_PERIOD. "" keeps none.
    solver.BEST_METRIC = ""
    # Above 0: end after this many evaluations without a better BEST_METRIC.
    solver.EARLY_STOP = 0
    # Train on CPUs with sums in a fixed order: with any number of threads, a run then gives the
    # same bits again, and an interrupted run those of an uninterrupted one.
    solver.DETERMINISTIC_ON_CPU = True
    # Several processes: look for parameters that got no gradient; slower.
    solver.FIND_UNUSED_PARAMETERS = False

    # After training, draw this many of the first test videos into OUTPUT_DIR/overlay.mp4.
    cfg.TEST.OVERLAY_VIDEOS = 3

    average = cfg.MODEL_EMA = CfgNode()
    # Keep an exponential moving average of the parameters, evaluate it, and store it in the
    # checkpoints and, by itself, as model_ema.pth.
    average.ENABLED = False
    average.DECAY = 0.999
    # The decay of update n is at most (1 + n) / (10 + n), so that the start is forgotten.
    average.WARMUP = True
