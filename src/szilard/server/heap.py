"""Memory that caches have freed goes back to the system.

Caches of all lengths come and go in a server, and glibc's allocator keeps what lies between those that are still there:
resident memory creeps upward though nothing is held. `malloc_trim` gives whole free pages back wherever they lie.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable


class Trimmer:
    """Returns free pages now and then; does nothing where the C library is not glibc.

    Args:
        every: seconds between two times.
    """

    def __init__(self, every: float = 5.0) -> None:
        self._every, self._next = every, time.monotonic() + every
        self._trim = _malloc_trim()

    def maybe(self) -> None:
        """Return free pages if it is time to: some milliseconds."""
        if self._trim is not None and time.monotonic() >= self._next:
            self._trim(0)
            self._next = time.monotonic() + self._every


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # no C library under this name (Windows), or another one (musl, macOS)
        return None
    return found
