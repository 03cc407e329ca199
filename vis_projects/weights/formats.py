"""The registry of weight formats: whose a file is, by its keys, and how its names become ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from ..structures import InputError

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class WeightFormat:
    """One layout of weights.

    Attributes:
        name: for people, such as "CFBI of its authors".
        system: name in ``vis weights convert`` and ``tools/convert_weights.py``.
        matches: whether a file with these keys is of this layout.
        convert: names and tensors of the file to ours.
        unsupported: why such a file cannot be used; "" for layouts that can.
        own: a layout of this project, which needs no conversion.
    """

    name: str
    system: str
    matches: Callable[[Collection[str]], bool]
    convert: Callable[[State], dict[str, torch.Tensor]]
    unsupported: str = ""
    own: bool = False


_FORMATS: dict[tuple[str, str], WeightFormat] = {}


def register_weight_format(
    name: str,
    matches: Callable[[Collection[str]], bool],
    convert: Callable[[State], dict[str, torch.Tensor]] = dict,
    *,
    system: str,
    unsupported: str = "",
    own: bool = False,
) -> None:
    """Register a layout; every system does so for its own in its ``convert.py``.

    ``convert`` returns names as the system has them at its top, or below any module of it: the
    loader finds the place. It may raise KeyError or InputError for a file that is not whole.
    """
    known = _FORMATS.get((system, name))
    if known is not None and known.matches is not matches:
        raise ValueError(f"two weight formats are called {name!r} of {system!r}")
    _FORMATS[system, name] = WeightFormat(name, system, matches, convert, unsupported, own)


def formats_of(keys: Collection[str]) -> list[WeightFormat]:
    """Return the layouts that a file with these keys may have, most telling first."""
    found = [f for f in _FORMATS.values() if f.matches(keys)]
    return sorted(found, key=lambda f: (f.own, not f.unsupported))


def systems() -> list[str]:
    """Return the names of systems whose authors' files can be converted."""
    return sorted({f.system for f in _FORMATS.values() if not f.own})


def converted(file: str, state: State, system: str) -> tuple[dict[str, torch.Tensor], WeightFormat]:
    """Convert a file's tensors for one system.

    Raises:
        InputError: a file of another system or of none, or a layout that is not supported.
    """
    found = [f for f in formats_of(state.keys()) if not f.own]
    ours = [f for f in found if f.system == system]
    if not ours:
        raise InputError(
            f"{file}: this is no {system} checkpoint; {whose(state.keys())}".rstrip("; ")
        )
    return apply(file, state, ours[0]), ours[0]


def apply(file: str, state: State, layout: WeightFormat) -> dict[str, torch.Tensor]:
    """Convert by one layout.

    Raises:
        InputError: not supported, or a tensor is missing or unexpected.
    """
    if layout.unsupported:
        raise InputError(f"{file}: {layout.name} is recognised but not supported: "
                         f"{layout.unsupported}")  # fmt: skip
    try:
        return layout.convert(state)
    except KeyError as error:
        raise InputError(
            f"{file}: looks like {layout.name}, but {error.args[0]} does not fit or is missing"
        ) from None


def whose(keys: Collection[str]) -> str:
    """Say in a clause whose file this is, "" if nobody's."""
    found = formats_of(keys)
    names = sorted({f.name for f in found})
    if names:
        return f"it is {' or '.join(names)}"
    sample = next(iter(keys), None)
    return f"nothing here knows its names, such as {sample!r}" if sample else "it holds no tensor"
