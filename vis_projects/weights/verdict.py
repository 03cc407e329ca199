"""What a network got from a weights file, what it did not, and whether it may run like that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..structures import InputError

# Buffers that training fills or that come with trained weights; all others are computed.
_TRAINED_BUFFERS = ("running_mean", "running_var", "weight", "bias")
_STATISTICS = ("running_mean", "running_var")
_GIVEN_NAMES = "_weights_given_names"
GIVEN = "weights_given"  # attribute of a module whose tensors all have their values


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that training makes: parameters, and the statistics of norms."""
    out = dict(model.named_parameters(remove_duplicate=False))
    stored = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in stored and name.rpartition(".")[2] in _TRAINED_BUFFERS:
            out[name] = buffer
    return out


def frozen_tensors(model: nn.Module) -> set[str]:
    """Return the trained tensors that no training of this model changes.

    Parameters without gradient and the affine part of frozen batch norms. Ordinary batch norms
    below a frozen part are told by their own parameters.
    """
    names = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name.rpartition(".")[2] in ("weight", "bias") and buffer.is_floating_point():
            names.add(name)
    return names & trained_tensors(model).keys()


def tied_names(model: nn.Module) -> list[set[str]]:
    """Return groups of names that share one tensor: one value fills all of them."""
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return [g for g in groups.values() if len(g) > 1]


def given_by_parts(model: nn.Module) -> set[str]:
    """Return the trained tensors that modules, the model among them, say are given."""
    out: set[str] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if getattr(module, GIVEN, False):
            out |= {dot + n for n in trained_tensors(module)}
        out |= {dot + n for n in getattr(module, _GIVEN_NAMES, ())}
    return out


def mark_given(model: nn.Module, names: Collection[str] | None = None) -> None:
    """Remember that tensors have their values: of a whole module, or the named ones below it."""
    if names is None:
        setattr(model, GIVEN, True)
        return
    known = getattr(model, _GIVEN_NAMES, frozenset())
    object.__setattr__(model, _GIVEN_NAMES, frozenset(known) | set(names))


def given_tensors(model: nn.Module) -> set[str]:
    """Return the trained tensors that have got a value, from a file or by the part itself."""
    trained = trained_tensors(model)
    given = given_by_parts(model)
    for group in tied_names(model):
        if group & given:
            given |= group
    # MSRA's and other files have statistics folded into the affine part of frozen norms.
    for name in trained.keys() - given:
        module, _, last = name.rpartition(".")
        if last in _STATISTICS and f"{module}.weight" in given:
            given.add(name)
    return given & trained.keys()


def unneeded_tensors(model: nn.Module, trained: Collection[str]) -> set[str]:
    """Return the trained tensors that the model's options leave unused at test.

    The model says so in ``unused_at_test``, names of modules.
    """
    names = tuple(f"{part}." for part in getattr(model, "unused_at_test", ()))
    return {n for n in trained if n.startswith(names)} if names and not model.training else set()


def absent_tensors(model: nn.Module) -> list[str]:
    """Return the trained tensors without a value that the model needs."""
    trained = trained_tensors(model)
    return sorted(trained.keys() - given_tensors(model) - unneeded_tensors(model, trained))


# Models that somebody else loads (Detectron2's DefaultPredictor) ---------------------------------

_FILLING = "_weights_filling"


def watch_loading(model: nn.Module) -> None:
    """Remember what any ``load_state_dict`` of the model brings."""
    model.register_load_state_dict_post_hook(_remember_loaded)


def _remember_loaded(model: nn.Module, incompatible: Any) -> None:
    if not getattr(model, _FILLING, False):
        mark_given(model, trained_tensors(model).keys() - set(incompatible.missing_keys))


def loaded_by_others(model: nn.Module) -> bool:
    """Return whether any ``load_state_dict`` of the watched model brought tensors."""
    return hasattr(model, _GIVEN_NAMES)


@contextmanager
def filling(model: nn.Module) -> Iterator[None]:
    """Inside, ``load_state_dict`` hands the model's own values back to it beside new ones.

    Models inside it that are watched, too (a pipeline's detector), learn nothing from that either.
    """
    for module in model.modules():
        setattr(module, _FILLING, True)
    try:
        yield
    finally:
        for module in model.modules():
            setattr(module, _FILLING, False)


@dataclass(frozen=True)
class Verdict:
    """The outcome of loading.

    Attributes:
        source: the file, or "" if none was given.
        system: the model's class.
        layout: of the file, "" for the model's own names.
        trained: how many trained tensors the model has.
        absent: those without a value.
        frozen_absent: those of them that no training would change.
        reshaped: (name, shape in the file, shape in the model) of tensors that do not fit.
        unused: names in the file that the model has not.
        loaded: tensors taken from the file.
        owner: a clause that says whose file it is.
        hint: what else to say if it does not fit.
        class_names, class_ids: on the file's card, by contiguous category.
    """

    source: str
    system: str
    trained: int
    absent: tuple[str, ...]
    layout: str = ""
    frozen_absent: tuple[str, ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    unused: tuple[str, ...] = ()
    loaded: int = 0
    owner: str = ""
    hint: str = ""
    class_names: tuple[str, ...] | None = field(default=None)
    class_ids: tuple[int, ...] | None = field(default=None)

    @property
    def given(self) -> int:
        """Trained tensors that have a value."""
        return self.trained - len(self.absent)

    def __str__(self) -> str:
        layout = f" ({self.layout})" if self.layout else ""
        line = (
            f"weights {self.source or 'of its own parts'}{layout}: {self.given} of "
            f"{self.trained} trained tensors given"
        )
        if self.absent:
            line += f"; without a value: {listed(parts(self.absent))}"
        if self.reshaped:
            line += f"; of another shape: {self._reshaped()}"
        if self.unused:
            line += f"; {len(self.unused)} names of the file are not in {self.system}"
        return line

    def _reshaped(self) -> str:
        name, theirs, ours = self.reshaped[0]
        more = f" and {len(self.reshaped) - 1} more" if len(self.reshaped) > 1 else ""
        return f"{name} {_by(theirs)} instead of {_by(ours)}{more}"

    def require_for_test(self, *, allow: bool = False) -> None:
        """Refuse to test or segment with a network of which a trained part is missing.

        Raises:
            InputError: unless ``allow`` (``MODEL.ALLOW_MISSING_WEIGHTS``).
        """
        if not self.absent or allow:
            return
        if not self.source:
            raise InputError(
                f"MODEL.WEIGHTS is empty: {self.system} has no weights and would give noise; name "
                "a file (--weights W or MODEL.WEIGHTS W; vis weights list shows known ones) or "
                f"set MODEL.ALLOW_MISSING_WEIGHTS True{self.hint}"
            )
        raise InputError(f"weights {self.source}: {self._misfit()}; "
                         "MODEL.ALLOW_MISSING_WEIGHTS True runs it all the same")  # fmt: skip

    def _misfit(self) -> str:
        if not self.loaded:
            text = f"no tensor fits {self.system}"
            return f"{text}: {self.owner}" if self.owner else text
        text = f"{self.system} gets {self.given} of its {self.trained} trained tensors"
        if self.reshaped:
            text += f" ({self._reshaped()})"
        text += f"; without a value: {listed(parts(self.absent))}"
        if self.owner:
            text += f"; {self.owner}"
        return text + self.hint

    def require_for_training(self, *, allow: bool = False) -> None:
        """Refuse a file without one fitting tensor, and to train a frozen part from nothing.

        Raises:
            InputError: see above; ``allow`` permits the frozen part.
        """
        if self.source and not self.loaded:
            raise InputError(f"weights {self.source}: {self._misfit()}")
        if self.frozen_absent and not allow:
            where = f"weights {self.source}" if self.source else "MODEL.WEIGHTS is empty"
            raise InputError(
                f"{where}: {listed(parts(self.frozen_absent))} of {self.system} is frozen and "
                "would stay random through the training; give weights for it, unfreeze it "
                f"(MODEL.BACKBONE.FREEZE_AT 0 and another norm than FrozenBN) or set "
                f"MODEL.ALLOW_MISSING_WEIGHTS True{self.hint}"
            )


def parts(names: Iterable[str], *, depth: int = 4, most: int = 6) -> list[str]:
    """Return the modules of tensors, so far down that at most ``most`` of them name all."""
    names = sorted(names)
    found: list[str] = []
    for level in range(1, depth + 1):
        deeper = list(dict.fromkeys(_module(n, level) for n in names))
        deeper = [d for d in deeper if not any(o.startswith(f"{d}.") for o in deeper)]
        if found and len(deeper) > most:
            break
        found = deeper
    return found


def _module(name: str, level: int) -> str:
    return ".".join(name.split(".")[:-1][:level]) or name


def listed(items: Collection[str], limit: int = 6) -> str:
    """``a, b, c and 4 more``."""
    shown = list(items)[:limit]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
