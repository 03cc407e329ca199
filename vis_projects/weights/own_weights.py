"""Parts that bring weights of their own: a timm network, FRTM's trunk.

Such a part is asked for them only if nothing else gives them a value: ``MODEL.WEIGHTS`` that
holds the part, or a checkpoint that a training resumes from, makes a download needless.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from .verdict import (
    Verdict,
    absent_tensors,
    given_tensors,
    loaded_by_others,
    mark_given,
    trained_tensors,
)

_LATER: ContextVar[bool] = ContextVar("own_weights_later", default=False)


@contextmanager
def own_weights_later(when: bool = True) -> Iterator[None]:
    """Build a model inside, then call ``load_for_test`` or ``load_for_training``.

    Without it a part that brings its own weights fetches them while it is built.

    Args:
        when: False changes nothing. Builders say ``bool(cfg.MODEL.WEIGHTS)``: whoever loads that
            file (Detectron2's DefaultPredictor, a script), the model asks for what is missing
            at its first call (``see_to_weights``).
    """
    token = _LATER.set(_LATER.get() or when)
    try:
        yield
    finally:
        _LATER.reset(token)


def bring_own_weights(
    part: nn.Module, fill: Callable[[], None], *, fresh: Collection[str] = ()
) -> None:
    """Say that ``fill()`` gives ``part`` its weights; called now, or when they turn out missing.

    ``fill`` raises InputError if it cannot.

    Args:
        fresh: tensors of ``part`` that ``fill`` leaves as they are: a head of other classes.
    """
    brought = trained_tensors(part).keys() - set(fresh)
    if _LATER.get():
        object.__setattr__(part, "_fill_own_weights", fill)
        object.__setattr__(part, "_own_weights", frozenset(brought))
        return
    fill()
    _mark(part, brought)


def _mark(part: nn.Module, brought: Collection[str]) -> None:
    mark_given(part, None if trained_tensors(part).keys() <= set(brought) else brought)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, frozenset[str]]]:
    """Yield name, part, and what it brings, of the parts that have not been asked by then."""
    for name, part in model.named_modules():
        if hasattr(part, "_fill_own_weights"):
            yield name, part, part._own_weights


def own_tensors(model: nn.Module) -> set[str]:
    """Return the names of the tensors that parts bring along if they are asked."""
    return {
        f"{name}.{tensor}" if name else tensor
        for name, _, brought in _parts(model)
        for tensor in brought
    }


def fill_missing_parts(model: nn.Module) -> list[str]:
    """Let the parts that bring their own weights fill themselves, where something is missing.

    Returns the names of those that did.
    """
    given = given_tensors(model)
    done = []
    for name, part, brought in list(_parts(model)):
        prefix = f"{name}." if name else ""
        if not all(prefix + n in given for n in brought):
            part._fill_own_weights()
            _mark(part, brought)
            done.append(name or type(part).__name__)
        del part._fill_own_weights  # asked once
    return done


def see_to_weights(model: nn.Module) -> None:
    """At a model's first call: parts bring the weights that no file gave; is all there?

    Our commands did both when they loaded; this is for a model that somebody else builds and
    loads (Detectron2's DefaultPredictor or trainer, a script). Only a test needs every tensor, and
    only if the model says so (``needs_weights``).

    Raises:
        InputError: a trained part has no weights, or nothing was loaded at all.
    """
    strict = model.needs_weights and not model.training
    if not getattr(model, "_weights_seen", False):
        model._weights_seen = True
        if not strict or own_tensors(model).issuperset(absent_tensors(model)):
            fill_missing_parts(model)
    if strict and (absent := absent_tensors(model)):
        total = len(trained_tensors(model))
        source = "MODEL.WEIGHTS" if loaded_by_others(model) else ""
        verdict = Verdict(
            source, type(model).__name__, total, tuple(absent), loaded=total - len(absent)
        )
        verdict.require_for_test()
    model.needs_weights = False
