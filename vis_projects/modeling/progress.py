"""How far a system has come with a video, told while it works.

::

    with reporting(lambda done, total, what: bar.update(...)):
        model.run_video(source)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
# Steps done of this part of the work, how many there are (None: unknown), what the part is.
OnProgress = Callable[[int, "int | None", str], None]

_LISTENER: ContextVar[OnProgress | None] = ContextVar("progress_listener", default=None)


@contextmanager
def reporting(on_progress: OnProgress | None) -> Iterator[None]:
    """Within the block systems tell ``on_progress`` how far they are."""
    token = _LISTENER.set(on_progress)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def steps(items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """Yield the items and report each when its work is done; free unless somebody listens."""
    for done, item in enumerate(items, start=1):
        yield item
        listener = _LISTENER.get()
        if listener is not None:
            listener(done, total, what)
