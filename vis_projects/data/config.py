"""Options of training data. ``INPUT.MIN_SIZE_TRAIN``, ``MAX_SIZE_TRAIN``,
``MIN_SIZE_TRAIN_SAMPLING``, ``FORMAT``, ``MASK_FORMAT`` (polygon draws outlines after scaling,
bitmask before) and ``DATALOADER.NUM_WORKERS``, ``ASPECT_RATIO_GROUPING`` are Detectron2's own; its
other input options are mapped or refused (``detectron2_options.py``). A MIN_SIZE_TRAIN of (0,)
leaves frames as they are. What is called chosen is our decision."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("data")
def add_data_config(cfg: CfgNode) -> None:
    """Add the keys of frame sampling, mixing and clip augmentation."""
    # One entry per data set of DATASETS.TRAIN, or empty.
    # Class map by its key in class_maps.json ("crossvis/coco/ytvis_2019"), "" for none.
    cfg.DATASETS.CLASS_MAPS = ()
    # Shares in which the sets are mixed; empty: in proportion to their number of keys.
    cfg.DATASETS.WEIGHTS = ()
    # INPUT.SAMPLER.MAX_GAP per set (SRNet: 2 for DAVIS, 1 for YouTube-VIS); empty: the same for
    # all.
    cfg.DATASETS.MAX_GAPS = ()
    # Give all objects class 0 (unsupervised video object segmentation).
    cfg.DATASETS.CLASS_AGNOSTIC = False

    sampler = cfg.INPUT.SAMPLER = CfgNode()
    # still, pair, covering_pair, consecutive, reference_and_validation, clip or window.
    sampler.NAME = "pair"
    # Frames of an item, where the sampler does not fix it (clip, window, reference_and_validation).
    sampler.FRAMES = 2
    # pair, covering_pair, window: largest distance to the key frame, frames; 0 is the whole video
    # (CrossVIS: 20, Propose-Reduce: 0).
    sampler.RANGE = 20
    # consecutive, clip: gaps are drawn from 1..MAX_GAP (SRNet 1 or 2, CFBI 3).
    sampler.MAX_GAP = 1
    # clip: the first frame lies at most this far from the reference; 0 is anywhere (chosen).
    sampler.REFERENCE_GAP = 0
    # clip: probability of running backwards in time (CFBI, section 7; 0.5 chosen).
    sampler.REVERSE_PROB = 0.5
    # reference_and_validation: the object has this many pixels in the reference frame, and this
    # share of its largest area (FRTM: 100 px; DAVIS also 0.25), in a video of at least MIN_LENGTH
    # frames.
    sampler.MIN_PIXELS = 100
    sampler.MIN_FRACTION = 0.0
    sampler.MIN_LENGTH = 4
    # reference_and_validation: "any" draws the reference among such frames anew each time (FRTM),
    # "first" takes the first, so that an object has one target model, and leaves out objects
    # that have none (chosen, short trainings).
    sampler.REFERENCE = "any"
    # Key order: "uniform" (each key once per epoch), "repeat_factor" (rare classes more often) or
    # "uniform_class" (a class, then a key that shows it). Frames are counted, not videos (MSN), and
    # all training sets together; their shares follow, unless DATASETS.WEIGHTS fixes them.
    sampler.BALANCE = "uniform"
    # repeat_factor: max(1, (threshold / share of the class)**power) (1/40 and 0.5 chosen for MSN).
    sampler.BALANCE_THRESHOLD = 0.025
    sampler.BALANCE_POWER = 0.5
    # Draw another key if an item shows no object after augmentation.
    sampler.NEEDS_OBJECTS = True

    aug = cfg.INPUT.AUGMENTATIONS = CfgNode()
    # Probability of mirroring all frames of a clip.
    aug.FLIP_PROB = 0.5
    # Probability of reversing the frames (SRNet: 0.5).
    aug.REVERSE_PROB = 0.0
    # Stretch frames to exactly (H, W) instead of INPUT.MIN_SIZE_TRAIN (FRTM: 480, 854); (0, 0) does
    # not.
    aug.RESIZE_TO = (0, 0)
    # RESIZE_TO's filter for images: bilinear, or area_bicubic (area when shrinking, else bicubic:
    # FRTM).
    aug.RESIZE_FILTER = "bilinear"
    # Scale by U[low, high] after the resize (CFBI: 1.0, 1.3).
    aug.SCALE = (1.0, 1.0)
    # Objects with fewer visible pixels than this are dropped.
    aug.MIN_VISIBLE_PIXELS = 1
    # Boxes are tight boxes of the masks instead of the data set's (always after crops and warps).
    aug.BOXES_FROM_MASKS = False
    # Pad items below and right to (H, W); (0, 0) does not pad (SRNet: 480, 864).
    aug.PAD_TO = (0, 0)
    # Clips with one object: probability of pasting a shifted copy over it (SRNet: 0.5).
    aug.DUPLICATE_PROB = 0.0

    crop = aug.CROP = CfgNode()
    # (H, W) at most, the same window for all frames; (0, 0) does not crop (CFBI: 465, 465).
    crop.SIZE = (0, 0)
    # any, instance (some object in it) or balanced (enough foreground in the first frame; CFBI).
    crop.STYLE = "any"
    # Draws at most, and the share of the window that "balanced" asks for (0.01 chosen).
    crop.TRIES = 5
    crop.MIN_SHARE = 0.01
    # "balanced" asks instead that some object has this many pixels (CFBI: 100); 0 asks for
    # MIN_SHARE.
    crop.MIN_PIXELS = 0

    colour = aug.COLOUR = CfgNode()
    # Factors from U[1 - x, 1 + x]; hue in degrees. All off by default (chosen).
    colour.BRIGHTNESS = 0.0
    colour.CONTRAST = 0.0
    colour.SATURATION = 0.0
    colour.HUE = 0.0
    colour.PER_FRAME = False

    blur = aug.BLUR = CfgNode()
    # Probabilities, for all frames of a clip; sigma in pixels at most.
    blur.MOTION_PROB = 0.0
    blur.GAUSSIAN_PROB = 0.0
    blur.GAUSSIAN_SIGMA = 1.5

    jitter = aug.MOTION = CfgNode()
    # Independent random turn (degrees) and shift (share of the side) of every frame, at most.
    jitter.ROTATION = 0.0
    jitter.TRANSLATION = 0.0
    jitter.PERSPECTIVE = 0.0

    pseudo = cfg.INPUT.PSEUDO_CLIP = CfgNode()
    # How a still becomes a clip: repeat, rotation (Propose-Reduce) or affine (SRNet).
    pseudo.KIND = "repeat"
    # rotation: largest turn in degrees (Propose-Reduce: 30).
    pseudo.DEGREES = 30.0
    # affine: perspective (share of the side), rotation (degrees), translation (share), colour,
    # blur.
    pseudo.PERSPECTIVE = 0.08
    pseudo.ROTATION = 12.0
    pseudo.TRANSLATION = 0.1
    pseudo.VALUE = 40
    pseudo.HUE_SATURATION = 5
    pseudo.BLUR_PROB = 0.25
