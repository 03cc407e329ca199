"""Reading and writing video, the predictor, drawing."""

from ..structures.palette import id_colour
from .drawing import OverlayPainter, draw_frame, draw_label_map, side_by_side
from .predictor import VideoPredictor
from .reading import CameraSource, VideoFileSource, open_source
from .writing import VideoWriter

__all__ = [
    "CameraSource",
    "OverlayPainter",
    "VideoFileSource",
    "VideoPredictor",
    "VideoWriter",
    "draw_frame",
    "draw_label_map",
    "id_colour",
    "open_source",
    "side_by_side",
]
