"""Where DAVIS keeps its annotations and sequence lists.

<root>/Annotations/480p/<sequence>/00000.png           2016 and 2017
<root>/Annotations_unsupervised/480p/<sequence>/...    2019
<root>/ImageSets/{2016,2017,2019}/val.txt
"""

from __future__ import annotations

from pathlib import Path

from ..errors import GroundTruthError, ResultFileError
from .label_tree import LabelTree, find_results

PROTOCOLS = ("2016", "semi", "unsup", "unsup-all")
PROTOCOL_NAMES = {"2017": "semi", "2019": "unsup"}  # what people call them
LIST_YEARS = {"2016": ("2016",), "semi": ("2017",)}
LIST_YEARS |= dict.fromkeys(("unsup", "unsup-all"), ("2017", "2019"))
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


def known_protocol(name: str) -> str:
    """Return the protocol of a name; raises ValueError for an unknown one."""
    protocol = PROTOCOL_NAMES.get(name, name)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is none of {', '.join((*PROTOCOLS, *PROTOCOL_NAMES))}")
    return protocol


def find_annotations(ground_truth: Path, protocol: str) -> tuple[LabelTree, Path | None]:
    """Return the sequences' label maps and the DAVIS root, None if there is none around them.

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
        use = protocol.startswith("unsup") and unsupervised.is_dir()
        folder = unsupervised if use else folder / "Annotations"
    for resolution in RESOLUTIONS:
        if (folder / resolution).is_dir():
            folder = folder / resolution
            break
    annotations = LabelTree(folder, error=GroundTruthError)
    if not annotations.videos():
        raise GroundTruthError(
            f"{folder}: holds no sequence folders with PNGs; give the DAVIS root or a folder such "
            "as Annotations/480p"
        )
    root = next((p for p in (folder, *folder.parents[:2]) if (p / "ImageSets").is_dir()), None)
    return annotations, root


def list_sequences(
    annotations: LabelTree, root: Path | None, results: Path, protocol: str
) -> tuple[LabelTree, list[str]]:
    """Return the results and the names of the sequences to score.

    ``results`` may also be a folder above those of the sequences, or that of one sequence. The
    official validation list if ``root`` has it and all its annotations are there; otherwise
    the folders of the results, which must all be in the ground truth.
    Raises ResultFileError if the results lack a sequence of the list or hold unknown ones.
    """
    known = set(annotations.videos())
    tree, named = find_results(results, known)
    if named is not None:
        return tree, named
    present = tree.videos()
    for year in LIST_YEARS[protocol] if root is not None else ():
        listed = read_sequence_list(root / "ImageSets" / year / "val.txt")
        if listed and known.issuperset(listed):
            missing = [name for name in listed if name not in set(present)]
            if missing:
                raise ResultFileError(
                    f"{tree.place}: lacks {len(missing)} of the {len(listed)} sequences of "
                    f"ImageSets/{year}/val.txt, first {missing[0]}; write them, or name the "
                    "sequences to score"
                )
            return tree, listed
    if not present:
        raise ResultFileError(
            f"{tree.place}: holds no sequence folder with PNGs; expected "
            f"{tree.place}/<sequence>/<frame>.png"
        )
    unknown = [name for name in present if name not in known]
    if unknown:
        raise ResultFileError(
            f"{tree.place / unknown[0]}: no such sequence in {annotations.place}; results of "
            "another data set, or a folder to move away"
        )
    return tree, present


def read_sequence_list(file: Path) -> list[str]:
    """Return the names in a sequence list, [] if there is no file.

    Lines are names, or the 2016 toolbox's ``/JPEGImages/480p/<name>/00000.jpg ...``.
    """
    if not file.is_file():
        return []
    names: dict[str, None] = {}
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        words = line.replace("\\", "/").split()
        if words:
            names[Path(words[0]).parent.name if "/" in words[0] else words[0]] = None
    return list(names)
