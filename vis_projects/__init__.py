"""Video instance and video object segmentation on Detectron2: five systems, one code base."""

from __future__ import annotations

from importlib.util import find_spec as _find_spec


def _ensure_detectron2() -> None:
    """Make ``import detectron2`` work: official, or the small provider in its place."""
    if _find_spec("detectron2") is not None:
        return
    try:
        from detectron2_lite import _hook
    except ImportError:
        raise ImportError(
            "vis_projects needs Detectron2: install the small provider that comes with it "
            "(pip install ./detectron2_lite) or official Detectron2 from its repository"
        ) from None
    _hook.install()


def _ensure_vis_metrics() -> None:
    """Say in one line what is missing; the folder of that name in a checkout is not the package."""
    spec = _find_spec("vis_metrics")
    if spec is None or spec.origin is None:
        raise ImportError(
            "vis_projects needs vis_metrics, the metrics that come with it: "
            "pip install ./vis_metrics"
        )


_ensure_detectron2()
_ensure_vis_metrics()

from .moved_modules import forward_moved_modules as _forward_moved_modules  # noqa: E402

_forward_moved_modules()

from . import data as _data  # noqa: E402, F401  registers the known data sets
from . import engine as _engine  # noqa: E402, F401  registers its options
from .config import get_cfg, load_config  # noqa: E402
from .video import VideoPredictor  # noqa: E402

# The systems. Each line registers one; a system's folder and its line can be deleted together.
from . import copy_first as _copy_first  # noqa: E402, F401  isort: skip
from . import feature_match as _feature_match  # noqa: E402, F401  isort: skip
from . import frtm as _frtm  # noqa: E402, F401  isort: skip
from . import crossvis as _crossvis  # noqa: E402, F401  isort: skip
from . import srnet as _srnet  # noqa: E402, F401  isort: skip
from . import cfbi as _cfbi  # noqa: E402, F401  isort: skip
from . import msn as _msn  # noqa: E402, F401  isort: skip
from . import seq_mask_rcnn as _seq_mask_rcnn  # noqa: E402, F401  isort: skip
from . import consensus_voting as _consensus_voting  # noqa: E402, F401  isort: skip

# Systems of other people that are installed and name themselves.
from .plug_ins import load_entry_points as _load_entry_points  # noqa: E402  isort: skip

_load_entry_points()

__version__ = "0.1.0"
__all__ = ["VideoPredictor", "__version__", "get_cfg", "load_config"]
