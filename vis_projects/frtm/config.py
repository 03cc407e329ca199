"""Options of FRTM, all under MODEL.FRTM. "C" marks values of the authors' code that the paper does
not state; "chosen" marks ours."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("frtm")
def add_config(cfg: CfgNode) -> None:
    """Add FRTM's options."""
    frtm = cfg.MODEL.FRTM = CfgNode()
    # ResNet depth of the frozen feature extractor: 101 ("Ours") or 18 ("Ours-fast") (section 3.5).
    frtm.DEPTH = 18
    # The extractor's weights: a torchvision ResNet's state dict, or a checkpoint of FRTM or
    # FRTMTrunk; "" leaves them to MODEL.WEIGHTS (a trained model holds its extractor).
    frtm.BACKBONE_WEIGHTS = ""
    # What makes the coarse scores: "discriminative" (the target model D, section 3.1), "matching"
    # (labels carried on by nearest neighbours, MODEL.FEATURE_MATCH; ours), "encoder" (Base net) or
    # "fine_tuned" (first-frame fine-tuning) (section 4.1).
    frtm.TARGET_MODEL = "discriminative"
    # False: the upsampled scores are the result, without segmentation network (D-only, Table 1).
    frtm.SEGMENTATION = True
    # Number format of the target model's solver: "float32", or "float64" for checks.
    frtm.TARGET_DTYPE = "float32"
    # Frames between updates of the target model, t_s (section 3.4); 0 never updates (Table 1).
    frtm.UPDATE_INTERVAL = 8
    # Second enlargement of the head (C): "bicubic_bilinear" (DAVIS) or "bicubic" (YouTube-VOS).
    frtm.HEAD_RESIZE = "bicubic_bilinear"
    # How often the objects' planes are merged for the label map (C): 2 (DAVIS), 1 (YouTube-VOS).
    frtm.MERGE_PASSES = 2
    # Objects that go through the segmentation network, or start, together; more are cut into
    # batches, which bounds the peak memory (chosen).
    frtm.OBJECTS_PER_BATCH = 8
    # Seed of the initial filters and of the augmentation (chosen; per object: seed and id).
    frtm.SEED = 0

    target = frtm.TARGET = CfgNode()
    # Layers whose maps target models read; several are joined at the finest grid (paper: layer4).
    target.LAYERS = ("layer4",)
    # Channels c after the first layer (section 3.5).
    target.WIDTH = 96
    # Factors f_1, f_2 of the filters inside the residual: lambda_j = f_j^2 (C).
    target.FILTER_REG = (1e-4, 1e-2)
    # Divisors of the residual in conjugate gradient, per layer (C).
    target.PRECONDITION = (1e-4, 1e-2)
    # CG steps of each Gauss-Newton iteration on the first frame (section 3.5).
    target.INIT_STEPS = (5, 10, 10, 10)
    # CG steps of each iteration of an update; it also runs once after the first frame (C).
    target.UPDATE_STEPS = (5,)
    # Rule for beta (C): "polak_ribiere" (DAVIS) or "fletcher_reeves" (YouTube-VOS).
    target.CG_VARIANT = "polak_ribiere"
    # The last direction is forgotten by 0.9^rate between iterations (C: 750); 0 restarts.
    target.CG_FORGET_RATE = 750.0
    # Pixel weights of Eq. 4 and their least target influence kappa_min.
    target.PIXEL_WEIGHTS = True
    target.K_MIN = 0.1
    # Samples kept, K_max, and the update rate eta (section 3.4).
    target.CAPACITY = 80
    target.ETA = 0.1
    # Samples of the first frame, the frame itself included (section 3.5).
    target.SAMPLES = 5
    # What fills the target's place in the augmented background (C): "telea" or "grey".
    target.FILL = "telea"

    training = frtm.TRAINING = CfgNode()
    # Frames and masks are resized to this (H, W); (0, 0) keeps the mapper's size (C: 480, 854).
    training.SIZE = (480, 854)
    # Filter of that resize: "bilinear" (what the authors' training does) or "area_bicubic" (what
    # it asks for: area where a frame shrinks, else bicubic).
    training.RESIZE_FILTER = "bilinear"
    # Target models of the reference frames are kept here, one file each (section 3.3), for later
    # runs and other processes; "" only in memory.
    training.CACHE_DIR = ""
    # At most this many target models in memory (chosen).
    training.CACHE_MODELS = 20000
    # Training starts with D's score passed through the segmentation network, instead of with random
    # weights (chosen; for short trainings). A checkpoint in MODEL.WEIGHTS overrides it.
    training.START_FROM_SCORES = False
    # Settings of the target models in training, the same for every data set (C).
    training.WIDTH = 32
    training.FILTER_REG = (1e-5, 1e-4)
    training.PRECONDITION = (1e-5, 1e-4)
    training.INIT_STEPS = (5, 10, 10, 10, 10)
    training.UPDATE_STEPS = (10,)
    training.CG_VARIANT = "polak_ribiere"
    training.CG_FORGET_RATE = 75.0
    training.PIXEL_WEIGHTS = False
    training.CAPACITY = 20
    training.SAMPLES = 15
    training.FILL = "telea"
    # The head's second enlargement in training (C: all models are trained with this one).
    training.HEAD_RESIZE = "bicubic_bilinear"

    # Base net: channels inside the offline-trained target encoder (chosen).
    frtm.ENCODER = CfgNode()
    frtm.ENCODER.WIDTH = 64

    # First-frame fine-tuning: iterations, batch and samples (section 4.1); Adam's rate is chosen.
    frtm.FINE_TUNING = CfgNode()
    frtm.FINE_TUNING.ITERATIONS = 100
    frtm.FINE_TUNING.BATCH = 4
    frtm.FINE_TUNING.SAMPLES = 20
    frtm.FINE_TUNING.RATE = 1e-3

    # Pre-training of a trunk from nothing (META_ARCHITECTURE FRTMTrunk; ours, not in the paper).
    frtm.TRUNK = CfgNode()
    # Regularisation of the ridge classifier, relative to the mean feature energy.
    frtm.TRUNK.RIDGE = 0.03
    # Weight of the loss of the ridge classifier's own scores.
    frtm.TRUNK.SCORE_LOSS = 0.5
