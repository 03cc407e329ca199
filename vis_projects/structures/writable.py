"""Whether files can be written somewhere: found out before the work, not after it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .errors import InputError

# Below this, nothing worth having can be written; megabytes.
_LEAST_SPACE_MB = 4


def check_writable(folder: str | Path, option: str) -> None:
    """See that a folder, which may not exist yet, can take files.

    Args:
        option: that names the folder, for the message.

    Raises:
        InputError: a file is in its place or in the place of a parent, no permission, a read-only
            or full disk.
    """
    place = Path(folder).expanduser()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{place}: is a file; name a folder with {option}")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({error.strerror}); name another {option}"
        ) from None
    if shutil.disk_usage(place).free < _LEAST_SPACE_MB * 1e6:
        raise InputError(f"{place}: the disk is full; free some space or name another {option}")
