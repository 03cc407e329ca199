"""Where DAVIS keeps its annotations and sequence lists.

<root>/Annotations/480p/<sequence>/00000.png           2016 and 2017
<root>/Annotations_unsupervised/480p/<sequence>/...    2019
<root>/ImageSets/{2016,2017,2019}/val.txt
"""

from __future__ import annotations

from pathlib import Path

from ..errors import GroundTruthError, ResultFileError
from .label_files import video_folders

PROTOCOLS = ("2016", "semi", "unsup")
PROTOCOL_NAMES = {"2017": "semi", "2019": "unsup"}  # what people call them
LIST_YEARS = {"2016": ("2016",), "semi": ("2017",), "unsup": ("2017", "2019")}
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


def find_annotations(ground_truth: Path, protocol: str) -> tuple[Path, Path | None]:
    """Return the folder of sequence folders and the DAVIS root, None if there is none around it.

    ``ground_truth`` may be the DAVIS root, its ``Annotations`` folder or the folder of sequences.
    Raises GroundTruthError if the folder does not exist or holds no sequence.
    """
    ground_truth = Path(ground_truth)
    if not ground_truth.is_dir():
        raise GroundTruthError(
            f"{ground_truth}: no such folder; give the DAVIS root or a folder of sequences"
        )
    folder = ground_truth
    if (folder / "Annotations").is_dir():
        unsupervised = folder / "Annotations_unsupervised"
        use = protocol == "unsup" and unsupervised.is_dir()
        folder = unsupervised if use else folder / "Annotations"
    for resolution in RESOLUTIONS:
        if (folder / resolution).is_dir():
            folder = folder / resolution
            break
    if not video_folders(folder, error=GroundTruthError):
        raise GroundTruthError(
            f"{folder}: holds no sequence folders with PNGs; give the DAVIS root or a folder such "
            "as Annotations/480p"
        )
    root = next((p for p in (folder, *folder.parents[:2]) if (p / "ImageSets").is_dir()), None)
    return folder, root


def list_sequences(annotations: Path, root: Path | None, results: Path, protocol: str) -> list[str]:
    """Return the names of the sequences to score.

    The official validation list if ``root`` has it and all its annotations are there; otherwise
    the folders of the results, which must all be in the ground truth.
    Raises ResultFileError if the results lack a sequence of the list or hold unknown ones.
    """
    present = video_folders(results, error=ResultFileError)
    known = set(video_folders(annotations, error=GroundTruthError))
    for year in LIST_YEARS[protocol] if root is not None else ():
        listed = read_sequence_list(root / "ImageSets" / year / "val.txt")
        if listed and known.issuperset(listed):
            missing = [name for name in listed if name not in set(present)]
            if missing:
                raise ResultFileError(
                    f"{results}: lacks {len(missing)} of the {len(listed)} sequences of "
                    f"ImageSets/{year}/val.txt, first {missing[0]}; write them, or name the "
                    "sequences to score"
                )
            return listed
    if not present:
        raise ResultFileError(
            f"{results}: holds no sequence folder with PNGs; expected "
            f"{results}/<sequence>/<frame>.png"
        )
    unknown = [name for name in present if name not in known]
    if unknown:
        raise ResultFileError(
            f"{results / unknown[0]}: no such sequence in {annotations}; results of another data "
            "set, or a folder to move away"
        )
    return present


def read_sequence_list(file: Path) -> list[str]:
    """Return the names in a sequence list, [] if there is no file.

    Lines are names, or the 2016 toolbox's ``/JPEGImages/480p/<name>/00000.jpg ...``.
    """
    if not file.is_file():
        return []
    names: dict[str, None] = {}
    for line in file.read_text().splitlines():
        words = line.split()
        if words:
            names[Path(words[0]).parent.name if "/" in words[0] else words[0]] = None
    return list(names)
