"""``python -m vis_projects.evaluation``, another name of ``vis-score``."""

from __future__ import annotations

import sys

from vis_metrics.cli import main

if __name__ == "__main__":
    sys.exit(main())
