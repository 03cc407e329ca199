"""Reading and writing video, the predictor, drawing."""

from .drawing import draw_frame, draw_label_map, id_colour
from .predictor import VideoPredictor
from .reading import CameraSource, VideoFileSource, open_source
from .writing import VideoWriter

__all__ = [
    "CameraSource",
    "VideoFileSource",
    "VideoPredictor",
    "VideoWriter",
    "draw_frame",
    "draw_label_map",
    "id_colour",
    "open_source",
]
