"""What can be said of a weights file without a network to put it into."""

from __future__ import annotations

from .formats import whose
from .reading import read_weights


def describe_file(path: str) -> list[str]:
    """Return lines that say whose a file is, how large, and what its card says.

    Raises:
        InputError: the file cannot be read.
    """
    file = read_weights(path)
    count = sum(v.numel() for v in file.state.values())
    lines = [f"file: {path}", f"tensors: {len(file.state)}, {count / 1e6:.2f} M numbers"]
    card = file.card
    if card:
        lines += [f"{k}: {card[k]}" for k in ("system", "version", "datasets") if k in card]
        if card.get("class_names"):
            lines.append(f"class_names: {', '.join(card['class_names'])}")
    else:
        lines.append(f"layout: {whose(file.state.keys())}")
    if file.unread:
        lines.append(f"left unread: objects of {', '.join(file.unread)}")
    return lines
