"""A folder of outputs: what this program wrote there is known, and nothing else is ever touched.

Files are made in a hidden folder inside the wanted one (so that a mount point, a symlink or a
closed parent does not matter) and take their places at the end. A record lists them; only what it
lists is replaced or removed by a later run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..structures import InputError
from ..structures.writable import check_writable

RECORD = ".vis_projects.json"
# The process that writes there is named, so that what killed ones left is known.
_PARTIAL = re.compile(r"\.vis_projects-partial-(?P<pid>\d+)-(?P<host>[0-9a-f]+)-\w+")


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
        check_writable(folder, "--output")
        stopped = self._files_of_a_killed_commit()
        try:
            present = [p for p in folder.iterdir() if not self._ours_and_stale(p)]
            present = [p for p in present if not stopped.issuperset(_files_at(p))]
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

    def recorded(self) -> list[str]:
        """Relative paths that an earlier run wrote here and that still exist."""
        files = _read_record(self.folder) or _of_an_old_version(self.folder)
        return [name for name in files if (self.folder / name).is_file()]

    def _files_of_a_killed_commit(self) -> set[Path]:
        """What lies here of a run that was killed while it put its files in place."""
        if not (_json(self.folder / RECORD) or {}).get("unfinished"):
            return set()
        return {self.folder / RECORD, *(self.folder / name for name in self.recorded())}

    def _ours_and_stale(self, path: Path) -> bool:
        found = _PARTIAL.fullmatch(path.name)
        if found:
            return not _alive(int(found["pid"]), found["host"])
        return path.name == f"{RECORD}.part"

    # The work ------------------------------------------------------------------------------------

    def __enter__(self) -> OutputFolder:
        try:
            for parent in [*reversed(self.folder.parents), self.folder]:
                if not parent.exists():
                    parent.mkdir()
                    self._made.append(parent)
            for path in self.folder.iterdir():
                if path.is_dir() and self._ours_and_stale(path):  # of a run that was killed
                    shutil.rmtree(path, ignore_errors=True)
            prefix = f".vis_projects-partial-{os.getpid()}-{_host()}-"
            self.partial = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror}); name another --output"
            ) from None
        return self

    def commit(self) -> None:
        """Put everything below ``partial`` in its place and take away what is left of old runs."""
        new = [p.relative_to(self.partial).as_posix() for p in _files_at(self.partial)]
        old = self.recorded()
        # Between the two records a kill leaves every file listed: the next run can clean up.
        self._write_record([*old, *new], unfinished=True)
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

    def _write_record(self, files: Sequence[str], *, unfinished: bool = False) -> None:
        content = {"about": "files that vis_projects wrote here", "files": sorted({*files})}
        text = json.dumps({**content, "unfinished": True} if unfinished else content)
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
    """A digest of this machine's name, short and safe in the name of a folder."""
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _alive(pid: int, host: str) -> bool:
    """True while a run may still go on."""
    if host != _host() or os.name == "nt":  # there signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
