"""A server as a process of its own: started on a free port, watched, and ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil


class ServerProcess:
    """A command that serves HTTP, for as long as the `with` lasts.

    Args:
        command: with "{port}" where the port belongs.
        ready: a path that answers 200 when the server works.
        patience: seconds until it must.
    """

    def __init__(self, command: list[str], ready: str = "/healthz", patience: float = 600.0) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._ready, self._patience = ready, patience
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log", delete=False)  # noqa: SIM115

    def __enter__(self) -> ServerProcess:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=subprocess.STDOUT)
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended at once:\n{self.log()}")
            try:
                if httpx.get(self.url + self._ready, timeout=5).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        self.__exit__()
        raise RuntimeError(f"the server does not answer after {self._patience:.0f} s:\n{self.log()}")

    def __exit__(self, *_: Any) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(90)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def log(self) -> str:
        """The end of what it printed."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")[-3000:]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return round(total / 2**20, 1)


class Memory:
    """Samples the resident memory of a process while an `async with` lasts.

    Attributes:
        samples: (second, megabytes).
    """

    def __init__(self, pid: int | None, every: float = 1.0) -> None:
        self.samples: list[tuple[float, float]] = []
        self._pid, self._every = pid, every

    async def __aenter__(self) -> Memory:
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while self._pid is not None:
            self.samples.append((round(time.monotonic() - self._began, 1), resident_megabytes(self._pid)))
            await asyncio.sleep(self._every)

    def figures(self) -> dict[str, Any]:
        """At the begin, a tenth of the time apart, at the end, and the most."""
        sizes = [size for _, size in self.samples]
        if not sizes:
            return {}
        shown = self.samples[:: max(1, len(sizes) // 10)]
        return {
            "resident_mb": {"first": sizes[0], "most": max(sizes), "last": sizes[-1]},
            "resident_mb_over_time": [list(one) for one in shown],
        }


async def left_over(client: httpx.AsyncClient, patience: float = 30.0) -> dict[str, float]:
    """Rows and waiting jobs of a szilard server once the load is over; those of departed clients get a while to end."""
    end = time.monotonic() + patience
    while True:
        text = (await client.get("/metrics")).text
        found: dict[str, float] = {}
        for name, value in re.findall(r"^szilard_(rows|waiting_requests)(?:{.*})? (\S+)$", text, re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)  # of all replicas, where there are several
        if (len(found) == 2 and not any(found.values())) or time.monotonic() > end:
            return found
        await asyncio.sleep(0.5)


def threads() -> str:
    """How many threads the server's arithmetic may use, as its environment says."""
    return os.environ.get("OMP_NUM_THREADS", "all")
