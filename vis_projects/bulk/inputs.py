"""The job list: which videos a command line means, and the name of each in the outputs."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vis_metrics.files.names import is_hidden, natural_key, safe_name

from ..structures import InputError
from ..structures.frame_source import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".flv", ".wmv", ".3gp", ".ogv", ".gif", ".h264", ".264", ".h265", ".hevc", ".y4m", ".vob"),
    *(".ivf", ".mxf", ".asf", ".f4v", ".m2v", ".mpv", ".dv", ".divx", ".mjpeg", ".mjpg", ".obu"),
    *(".qt", ".rm", ".rmvb", ".3g2", ".ogg", ".ogm", ".avc", ".m1v", ".mp2", ".nut"),
)


@dataclass(frozen=True)
class VideoJob:
    """One video to segment.

    Attributes:
        name: of its folder in the outputs; unique, safe on every system.
        input: what ``open_source`` opens: a file, a folder of frames, a URL.
        mask: file with the first frame's objects, "" without.
    """

    name: str
    input: str
    mask: str = ""


def is_single(inputs: Sequence[str]) -> bool:
    """True if a command line means one video itself: its outputs need no folder per video."""
    if len(inputs) != 1:
        return False
    given = inputs[0]
    if given.startswith("@"):
        return False
    path = Path(given).expanduser()
    if path.is_dir():
        return _holds_images(path) or not _videos_in(path)
    return path.exists() or not glob.has_magic(given)


def list_videos(inputs: Sequence[str]) -> list[str]:
    """Expand files, folders of videos, folders of frame folders, globs, ``@list.txt`` and URLs.

    The order is that of the arguments, natural order within each; a video named twice comes once.

    Raises:
        InputError: an argument that is nothing, or a list or folder without a video; several
            images, which are no videos each.
    """
    images = [g for g in inputs if Path(g).suffix.lower() in IMAGE_SUFFIXES]
    if len(images) > 1:
        folder = Path(images[0]).parent
        raise InputError(
            f"{images[0]}, {images[1]}{', ...' * (len(images) > 2)}: {len(images)} images; the "
            f"frames of a video are named by their folder: {folder}"
        )
    found: list[str] = []
    for given in inputs:
        found += _expand(given)
    return list(dict.fromkeys(found))


def make_jobs(
    videos: Sequence[str], *, mask: str = "", known: Mapping[str, str] | None = None
) -> list[VideoJob]:
    """Give every video its name, and its mask by pattern.

    A name is the file's without suffix; videos of one name get their folder's before it, and a
    number where that does not suffice.

    Args:
        mask: pattern of the mask files: ``{name}`` is the video's name, ``{stem}`` its file's,
            ``{parent}`` its folder's.
        known: names given by an earlier call, by input; they stay.

    Raises:
        InputError: a pattern with another word in braces.
    """
    names = _unique_names(videos, known or {})
    return [
        VideoJob(name, video, _mask_of(mask, name, video)) for name, video in zip(names, videos)
    ]


def _expand(given: str) -> Iterator[str]:
    if given.startswith("@"):
        yield from _read_list(Path(given[1:]).expanduser())
        return
    path = Path(given).expanduser()
    if "://" in given or (given.isdigit() and not path.exists()):
        yield given
    elif path.is_dir():
        if _holds_images(path):
            yield str(path)
            return
        videos = _videos_in(path)
        yield from map(str, videos if videos else [path])  # an empty folder fails by itself
    elif path.exists():
        yield str(path)
    elif glob.has_magic(given):
        matches = sorted(glob.glob(str(path), recursive=True), key=natural_key)
        usable = [m for m in matches if Path(m).is_dir() or _is_video(Path(m))]
        if not usable:
            raise InputError(f"{given}: no video matches this pattern")
        for match in usable:
            yield from _expand(glob.escape(match) if glob.has_magic(match) else match)
    else:
        raise InputError(
            f"{given}: no such file or folder; give videos, folders, patterns, @list.txt or URLs"
        )


def _read_list(file: Path) -> list[str]:
    """One input a line; relative ones lie beside the list, or else in the working directory."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"@{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"@{file}: is no text file with one video a line") from None
    found: list[str] = []
    for line in (row.strip() for row in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        beside = file.parent / line
        relative = "://" not in line and not Path(line).expanduser().is_absolute()
        path = str(beside) if relative and beside.exists() else line
        exists = "://" in path or Path(path).expanduser().exists() or glob.has_magic(path)
        found += _expand(path) if exists else [path]  # of thousands one that is gone fails alone
    if not found:
        raise InputError(f"@{file}: names no video")
    return found


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_hidden(path.name)


def _visible(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if not is_hidden(p.name)]
    return sorted(found, key=lambda p: natural_key(p.name))


def _holds_images(folder: Path) -> bool:
    return any(p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() for p in _visible(folder))


def _videos_in(folder: Path) -> list[Path]:
    """Video files and frame folders of a folder; a subfolder of videos is none of them."""
    return [p for p in _visible(folder) if p.is_dir() or _is_video(p)]


def _stem(video: str) -> str:
    if "://" in video:
        return safe_name(video.split("://", 1)[1])
    path = Path(video).expanduser()
    path = path if path.name not in ("", ".", "..") else path.resolve()
    return safe_name(path.name if path.is_dir() else path.stem)


def _parent(video: str) -> str:
    return safe_name(Path(video).expanduser().resolve().parent.name or "root")


def _unique_names(videos: Sequence[str], known: Mapping[str, str]) -> list[str]:
    names: list[str] = [known.get(video, "") for video in videos]
    taken = {name.lower() for name in names if name} | {"manifest.jsonl", "times.jsonl"}
    stems = [_stem(video) for video in videos]
    open_ = [i for i, name in enumerate(names) if not name]
    often = Counter(stems[i].lower() for i in range(len(videos)))
    for i in open_:
        unique = often[stems[i].lower()] == 1 and stems[i].lower() not in taken
        wanted = stems[i] if unique else f"{_parent(videos[i])}_{stems[i]}"
        names[i] = _first_free(wanted, taken)
        taken.add(names[i].lower())
    return names


def _first_free(wanted: str, taken: Iterable[str]) -> str:
    name, number = wanted, 1
    while name.lower() in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def _mask_of(pattern: str, name: str, video: str) -> str:
    if not pattern:
        return ""
    try:
        return pattern.format(name=name, stem=_stem(video), parent=_parent(video))
    except (KeyError, IndexError, ValueError):
        raise InputError(
            f"--first-mask {pattern}: a pattern may hold {{name}}, {{stem}} and {{parent}} only"
        ) from None
