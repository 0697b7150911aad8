"""Running the application: a socket that is bound before the model loads, and an end that lets answers finish."""

from __future__ import annotations

import logging
import socket
from typing import Any


def bind(host: str, port: int) -> socket.socket:
    """A listening address.

    Raises:
        ValueError: it is taken, not ours, or unknown.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        raise ValueError(f"cannot serve at {host}:{port} ({error.strerror or error}): choose another --port.") from None
    return found


def run(app: Any, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; answers that are under way are finished first."""
    import uvicorn

    log_to_stderr()
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=30)
    uvicorn.Server(config).run(sockets=[listening])


def log_to_stderr() -> None:
    """Let the server's own log be seen."""
    log = logging.getLogger("szilard.server")  # nobody else has set it up
    log.setLevel(logging.INFO)
    told = logging.StreamHandler()
    told.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(told)
    log.propagate = False
