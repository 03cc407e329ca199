"""A system of your own, outside ``vis_projects``: foreground from the change between two frames.

Importing the package registers it: `vis train --import moving_foreground --config-file ...`.
"""

from . import config, model  # noqa: F401  they register themselves
