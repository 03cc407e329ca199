"""Reading json files, also from a zip, with messages that name the file and the place."""

from __future__ import annotations

import gc
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError


def load_json(
    file: Path, *, error: type[InputError], parse: Callable[[bytes], Any] = json.loads
) -> Any:
    """Return the content of a json file, or of the one json at the root of a zip.

    ``parse`` makes the content of the text, and raises what ``json.loads`` does.
    Raises ``error`` if the file is missing, is not json, or the zip holds something else.
    """
    file = Path(file)
    try:
        text = _zipped_text(file, error) if zipfile.is_zipfile(file) else file.read_bytes()
    except FileNotFoundError:
        raise error(f"{file}: no such file") from None
    except IsADirectoryError:
        raise error(f"{file}: is a folder; give the json file or its zip") from None
    except (OSError, zipfile.BadZipFile) as reason:
        raise error(f"{file}: cannot be read ({reason})") from None
    if not text.strip():
        raise error(f"{file}: is empty; write it again")
    collecting = gc.isenabled()
    gc.disable()  # a hundred thousand fresh dicts would set off one full collection after another
    try:
        return parse(text)
    except json.JSONDecodeError as reason:
        raise error(
            f"{file}, line {reason.lineno}, column {reason.colno}: not valid json "
            f"({reason.msg}); the file may be cut off, write it again"
        ) from None
    except UnicodeDecodeError:
        raise error(f"{file}: not a text file; give a json file or its zip") from None
    finally:
        if collecting:
            gc.enable()


def _zipped_text(file: Path, error: type[InputError]) -> bytes:
    """Return the only json in a zip; it must lie at the root, as the servers demand."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
        if len(names) != 1 or "/" in names[0] or not names[0].endswith(".json"):
            raise error(
                f"{file}: must hold exactly one json file at its root, no folder; it holds "
                f"{', '.join(names[:3]) or 'nothing'}"
            )
        return archive.read(names[0])
