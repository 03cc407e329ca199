"""Moved to ``vis_projects.weights``; the names here stay for a version."""

from __future__ import annotations

from ..weights import load_weights

__all__ = ["load_weights"]
