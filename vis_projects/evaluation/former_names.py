"""Old function names, now in ``vis_metrics``: they work, each with one warning."""

from __future__ import annotations

import warnings
from typing import Any

PACKAGE = __package__


def forward(name: str) -> Any:
    """Return a function or class of ``vis_metrics`` asked for under ``vis_projects.evaluation``."""
    import vis_metrics

    if name.startswith("_") or name not in vis_metrics.__all__:
        raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
    warnings.warn(
        f"{PACKAGE}.{name} has moved: import vis_metrics.{name} instead",
        FutureWarning,
        stacklevel=3,
    )
    return getattr(vis_metrics, name)
