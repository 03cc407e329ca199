"""Parts that bring weights of their own: a timm network, FRTM's trunk.

Such a part is asked for them only if nothing else gives them a value: ``MODEL.WEIGHTS`` that
holds the part, or a checkpoint that a training resumes from, makes a download needless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from .verdict import given_tensors, mark_given, trained_tensors

_LATER: ContextVar[bool] = ContextVar("own_weights_later", default=False)


@contextmanager
def own_weights_later() -> Iterator[None]:
    """Build a model inside, then call ``load_for_test`` or ``load_for_training``.

    Without it a part that brings its own weights fetches them while it is built.
    """
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def bring_own_weights(part: nn.Module, fill: Callable[[], None]) -> None:
    """Say that ``fill()`` gives ``part`` its weights; called now, or when they turn out missing.

    ``fill`` raises InputError if it cannot.
    """
    if _LATER.get():
        object.__setattr__(part, "_fill_own_weights", fill)
        return
    fill()
    mark_given(part)


def own_part_names(model: nn.Module) -> tuple[str, ...]:
    """Return prefixes, ``"backbone."``, of the parts that bring their own weights if asked."""
    parts = (n for n, part in model.named_modules() if hasattr(part, "_fill_own_weights"))
    return tuple(f"{name}." if name else "" for name in parts)


def fill_missing_parts(model: nn.Module) -> list[str]:
    """Let the parts that bring their own weights fill themselves, where something is missing.

    Returns the names of those that did.
    """
    given = given_tensors(model)
    done = []
    for name, part in model.named_modules():
        fill = getattr(part, "_fill_own_weights", None)
        if fill is None:
            continue
        prefix = f"{name}." if name else ""
        if all(prefix + n in given for n in trained_tensors(part)):
            continue
        fill()
        mark_given(part)
        done.append(name or type(part).__name__)
    return done
