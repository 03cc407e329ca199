"""A name that nobody knows: one line with the names close to it, for every kind of name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from .errors import InputError


def near_names(name: str, known: Iterable[str], *, prefix: str = "", count: int = 3) -> str:
    """Return "; did you mean A or B?" and, where they are few, "; there are A, B, C".

    Letter case does not count for closeness.
    """
    known = sorted(set(known))
    lower = {k.lower(): k for k in known}
    close = get_close_matches(str(name).lower(), lower, n=count, cutoff=0.6)
    text = ""
    if close:
        text = "; did you mean " + " or ".join(prefix + lower[c] for c in close) + "?"
    if known and len(known) <= 12:
        text += "; there are " + ", ".join(prefix + k for k in known)
    return text


def check_name(key: str, name: str, known: Iterable[str], *, remedy: str = "") -> None:
    """Check that an option's value is a registered name.

    Raises:
        InputError: it is not; names close to it are given, and ``remedy``.
    """
    known = list(known)
    if name not in known:
        tail = f" ({remedy})" if remedy else ""
        raise InputError(f"{key} {name!r} is not registered{near_names(name, known)}{tail}")
