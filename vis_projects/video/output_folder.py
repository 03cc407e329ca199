"""A folder of outputs: what this program wrote there is known, and nothing else is ever touched.

Files are made in a hidden folder inside the wanted one (so that a mount point, a symlink or a
closed parent does not matter) and take their places at the end. A record lists them; only what it
lists is replaced or removed by a later run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..structures import InputError

RECORD = ".vis_projects.json"
_PARTIAL = ".vis_projects-partial-"
# Below this, nothing worth having can be written; megabytes.
_LEAST_SPACE_MB = 4


class OutputFolder:
    """Context manager: write below ``partial``, call ``commit`` to put the files in place.

    Without ``commit`` nothing stays, and a folder that was made for this goes too.

    Args:
        folder: the outputs; it must be new or empty unless ``overwrite``.
        overwrite: replace the files of an earlier run; all other files stay as they are.
        inputs: files that are read: none of them may be one that would be replaced.
        names: top-level names that will be written, checked against what is there.

    Raises:
        InputError: at construction, before anything is written: a file of that name, a folder that
            is not empty, not writable or full, an input or a foreign file in the way.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        inputs: Sequence[str | Path] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.overwrite = overwrite
        self.names = tuple(names)
        self.partial: Path | None = None
        self._made: list[Path] = []
        self._check(inputs)

    # Before the work -----------------------------------------------------------------------------

    def _check(self, inputs: Sequence[str | Path]) -> None:
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file; name a folder for the outputs")
        try:
            present = [p for p in folder.iterdir() if not self._ours_and_stale(p)]
        except FileNotFoundError:
            present = []
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed ({error.strerror})") from None
        if present and not self.overwrite:
            raise InputError(
                f"{folder}: this folder is not empty; name another, or use --overwrite"
            )
        recorded = set(self.recorded())
        self._refuse_inputs(inputs, recorded)
        for name in self.names:
            for file in _files_at(folder / name):
                if file.relative_to(folder).as_posix() not in recorded:
                    raise InputError(
                        f"{file}: is in the way and was not written by this program; move it, or "
                        "name another --output"
                    )
        self._check_writable()

    def _refuse_inputs(self, inputs: Sequence[str | Path], recorded: set[str]) -> None:
        folder = self.folder.resolve()
        ours = {folder / name for name in recorded}
        for given in inputs:
            path = Path(given).expanduser().resolve()
            if path == folder:
                raise InputError(f"{given}: is the input and the output; name another --output")
            if path in ours or any(path in file.parents for file in ours):
                raise InputError(
                    f"{given}: is an output of an earlier run that would be replaced; name another "
                    "--output, or move the input"
                )

    def _check_writable(self) -> None:
        place = self.folder
        while not place.exists():
            place = place.parent
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise InputError(
                f"{place}: cannot be written ({error.strerror}); name another --output"
            ) from None
        if shutil.disk_usage(place).free < _LEAST_SPACE_MB * 1e6:
            raise InputError(f"{place}: the disk is full; free some space or name another --output")

    def recorded(self) -> list[str]:
        """Relative paths that an earlier run wrote here and that still exist."""
        files = _read_record(self.folder) or _of_an_old_version(self.folder)
        return [name for name in files if (self.folder / name).is_file()]

    def _ours_and_stale(self, path: Path) -> bool:
        return path.name.startswith(_PARTIAL) and (path / RECORD).is_file() and not _alive(path)

    # The work ------------------------------------------------------------------------------------

    def __enter__(self) -> OutputFolder:
        try:
            for parent in [*reversed(self.folder.parents), self.folder]:
                if not parent.exists():
                    parent.mkdir()
                    self._made.append(parent)
            for path in self.folder.iterdir():
                if self._ours_and_stale(path):  # of a run that was killed
                    shutil.rmtree(path, ignore_errors=True)
            self.partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))
            (self.partial / RECORD).write_text(json.dumps({"pid": os.getpid(), "host": _host()}))
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror}); name another --output"
            ) from None
        return self

    def commit(self) -> None:
        """Put everything below ``partial`` in its place and take away what is left of old runs."""
        (self.partial / RECORD).unlink()
        new = [p.relative_to(self.partial).as_posix() for p in _files_at(self.partial)]
        old = self.recorded()
        # Between the two records a kill leaves every file listed: the next run can clean up.
        self._write_record([*old, *new])
        for name in set(old) - set(new):
            (self.folder / name).unlink(missing_ok=True)
        for name in new:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.partial / name, target)
        for name in old:
            for parent in list(Path(name).parents)[:-1]:
                with suppress(OSError):  # a folder that still holds something stays
                    (self.folder / parent).rmdir()
        self._write_record(new)
        self._made = []

    def _write_record(self, files: Sequence[str]) -> None:
        text = json.dumps(
            {"about": "files that vis_projects wrote here", "files": sorted({*files})}
        )
        part = self.folder / f"{RECORD}.part"
        part.write_text(text)
        os.replace(part, self.folder / RECORD)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()


def _files_at(path: Path) -> Iterator[Path]:
    """The path itself if it is a file, else all files below it."""
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            yield from _files_at(child)
    elif path.exists() or path.is_symlink():
        yield path


def _read_record(folder: Path) -> list[str]:
    content = _json(folder / RECORD)
    files = content.get("files", []) if isinstance(content, dict) else []
    return [name for name in files if isinstance(name, str) and _inside(name)]


def _inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _of_an_old_version(folder: Path) -> list[str]:
    """Files of a run before there was a record: its results.json lists the frames."""
    content = _json(folder / "results.json")
    if not isinstance(content, dict) or not {"system", "frames", "tracks"} <= content.keys():
        return []
    masks = [f"masks/{frame}.png" for frame in content["frames"] if _inside(str(frame))]
    return ["overlay.mp4", "results.json", *masks]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _host() -> str:
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def _alive(partial: Path) -> bool:
    """True while the run that makes this partial folder may still go on."""
    owner = _json(partial / RECORD) or {}
    if owner.get("host") != _host() or not isinstance(owner.get("pid"), int):
        return True
    if os.name == "nt":  # there signal 0 is Ctrl-C
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
