"""Who runs on a model: any number of runs that leave it as it is, or one that changes it while it is open."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary


@contextlib.contextmanager
def running_on(model: Any, *, alone: bool = False) -> Iterator[None]:
    """While this is open, no other thread's run changes the model; with `alone` no other thread runs on it at all.

    Threads wait for one another; one thread may open it several times.

    Raises:
        RuntimeError: `alone` inside a run of the same thread, which it would wait for without end.
    """
    with _lock:
        use = _uses.setdefault(model, _Use())
    use.enter(alone)
    try:
        yield
    finally:
        use.leave(alone)


class _Use:
    """The runs that are open on one model."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.runs: dict[int, int] = {}  # of each thread
        self.alone: int | None = None  # the thread whose run changes the model

    def enter(self, alone: bool) -> None:
        me = threading.get_ident()
        with self.changed:
            if alone and me in self.runs:
                raise RuntimeError("this method changes the model while it runs: it cannot start inside another run.")
            self.changed.wait_for(lambda: self.alone in (None, me) and not (alone and self.runs))
            self.runs[me] = self.runs.get(me, 0) + 1
            if alone:
                self.alone = me

    def leave(self, alone: bool) -> None:
        me = threading.get_ident()
        with self.changed:
            self.runs[me] -= 1
            if not self.runs[me]:
                del self.runs[me]
            if alone:
                self.alone = None
            self.changed.notify_all()


_lock = threading.Lock()
_uses: WeakKeyDictionary[Any, _Use] = WeakKeyDictionary()
