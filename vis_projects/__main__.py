"""``python -m vis_projects``: another name of the command ``vis``."""

import sys

from .cli import main

sys.exit(main())
