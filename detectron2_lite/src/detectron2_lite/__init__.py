"""The distribution that provides ``detectron2`` where no official Detectron2 is installed."""

from __future__ import annotations

from detectron2_lite._hook import install

__version__ = "0.1.0"

__all__ = ["install"]
