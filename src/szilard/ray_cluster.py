"""The Ray cluster that servers and sweeps run on: one that exists, or one on this machine while it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

# Read by the processes that Ray starts here. A busy machine needs more than the five seconds after which Ray would
# start its proxy anew; and what is nice by 15, as Ray's workers are by default, starves beside anything else.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
os.environ.setdefault("RAY_worker_niceness", "0")
if not os.environ.get("RAY_ADDRESS"):  # of a cluster on this machine alone all ports are on 127.0.0.1
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray


@contextlib.contextmanager
def joined(**options: Any) -> Iterator[bool]:
    """Be part of the cluster that RAY_ADDRESS names, or of one that is started here and ends with the block.

    A process that is part of a cluster already stays so. While the block lasts SIGTERM interrupts as Ctrl-C does: Ray's
    own handlers would end the process at once.

    Args:
        options: of `ray.init`.

    Yields:
        Whether the cluster is ours to end.
    """
    if ray.is_initialized():
        yield False
        return
    own = not os.environ.get("RAY_ADDRESS")
    ray.init(include_dashboard=False, logging_level=logging.WARNING, **options)
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield own
    finally:
        ray.shutdown()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
