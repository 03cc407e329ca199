"""Names of options in other people's config files, said in ours while a file is read.

A system registers what its authors call an option; ``load_config`` then takes their files and
``KEY VALUE`` pairs as they are. Nothing of it stays in the config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from .structures.errors import InputError


@dataclass(frozen=True)
class Alias:
    """What an option of another implementation means here.

    Attributes:
        ours: the key that takes its value; "": the option has no effect here.
        convert: theirs to ours.
        only: the values that mean what is built here; others are refused. Empty: any.
        why: completes "KEY VALUE is not provided: ...".
    """

    ours: str = ""
    convert: Callable[[Any], Any] = lambda value: value
    only: tuple[Any, ...] = ()
    why: str = ""


CONFIG_ALIASES: dict[str, Alias] = {}


def register_alias(theirs: str, alias: Alias) -> None:
    """Register another name of an option, ``MODEL.X.Y``."""
    CONFIG_ALIASES[theirs] = alias


def translate_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return nested values of a config file under our names.

    Raises:
        InputError: a value that asks for what is not provided.
    """
    for theirs, alias in CONFIG_ALIASES.items():
        *parents, last = theirs.split(".")
        nodes = [values]
        for name in parents:
            node = nodes[-1].get(name)
            if not isinstance(node, Mapping):
                break
            nodes.append(node)
        if len(nodes) <= len(parents) or last not in nodes[-1]:
            continue
        value = _ours(theirs, alias, nodes[-1].pop(last))
        for name, node in zip(reversed(parents), reversed(nodes[:-1])):
            if not node[name]:  # the section held other people's names only
                del node[name]
        if alias.ours:
            node = values
            *sections, key = alias.ours.split(".")
            for name in sections:
                node = node.setdefault(name, {})
            node[key] = value
    return values


def translate_options(opts: Sequence[str]) -> list[str]:
    """Return ``KEY VALUE`` pairs under our names; see ``translate_values``."""
    out: list[str] = []
    for theirs, value in zip(opts[::2], opts[1::2]):
        alias = CONFIG_ALIASES.get(str(theirs))
        if alias is None:
            out += [theirs, value]
            continue
        ours = _ours(theirs, alias, yaml.safe_load(value) if isinstance(value, str) else value)
        if alias.ours:
            out += [alias.ours, str(ours)]
    return out + list(opts[len(opts) // 2 * 2 :])


def _ours(theirs: str, alias: Alias, value: Any) -> Any:
    if alias.only and value not in alias.only:
        raise InputError(
            f"{theirs} {value!r} is not provided: {alias.why or f'use {alias.only[0]!r}'}"
        )
    return alias.convert(value)
