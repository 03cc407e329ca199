"""Options of ConsensusVoting, under ``MODEL.CONSENSUS_VOTING``; all values are chosen on held-out
clips (docs/real_video.md)."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("consensus_voting")
def add_config(cfg: CfgNode) -> None:
    """Add the options of voting; how cells are compared, ``MODEL.FEATURE_MATCH`` says."""
    options = cfg.MODEL.CONSENSUS_VOTING = CfgNode()
    # Registered name of the system whose tracks vote; one that finds objects of any class.
    options.DETECTOR = "SRNet"
    # Frames that vote on each frame, and how many frames they span: spread over a shorter video,
    # in a longer one the nearest in time.
    options.REFERENCES = 9
    options.SPAN = 100
    # Shortest edge of the frames whose features are compared.
    options.MIN_SIZE = 480
    # Weight of the classifier's evidence beside the tracks' scores; 0 does without a classifier.
    options.OBJECTNESS = 0.2
    # Shortest edge of the frames that the classifier sees.
    options.OBJECTNESS_SIZE = 320
    # A pixel is an object's where scores and weighted evidence together exceed this.
    options.THRESHOLD = 0.55
    # Objects with less than this share of the pixels of the largest one, over the whole video, are
    # left out.
    options.MIN_SHARE = 0.05
