"""The thread that decodes: jobs of one group together, plain ones joining and leaving at every step.

Only this thread touches the model. Jobs are taken in the order in which they came; those of the oldest one's group go
with it. While plain rows decode, further plain jobs join, unless a job of another group has become the oldest: then
nobody joins any more, the batch drains, and it has its turn.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from szilard.server.errors import RequestError, busy
from szilard.server.heap import Trimmer
from szilard.server.jobs import Job, failure_of_ours
from szilard.server.method_run import run_method
from szilard.server.plain_run import PlainRun
from szilard.server.settings import ServerSettings

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


class Scheduler:
    """A bounded queue and the thread that works on it.

    Args:
        engine: the model.
        settings: batch size, waiting, queue.

    Attributes:
        rows: how many rows the last step had.
        steps: steps by number of rows.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine, self.settings = engine, settings
        self.rows = 0
        self.steps: Counter[int] = Counter()
        self._queue: list[Job] = []
        self._changed = threading.Condition()
        self._open = True
        self._trimmer = Trimmer()
        self._running: Callable[[], list[Job]] = list  # jobs that have been taken and not told of their end
        self._thread = threading.Thread(target=self._work, name="szilard-decode", daemon=True)
        self._thread.start()

    # ---- for the requests' side ----

    def submit(self, jobs: list[Job]) -> None:
        """Take jobs, all or none.

        Raises:
            RequestError: 400 for more than the queue can ever hold, 413 for pictures of more pixels than may wait, 429
                where it is full, 503 where the server is closing.
        """
        pixels, most = _pixels(jobs), self.settings.max_waiting_pixels
        if len(jobs) > self.settings.max_queue:
            raise RequestError(
                400, f"{len(jobs)} answers at once are more than the {self.settings.max_queue} that may wait here."
            )
        if pixels > most:
            raise RequestError(413, f"the images have {pixels:,} pixels together, and {most:,} are allowed.")
        with self._changed:
            if not self._open:
                raise RequestError(503, "the server is shutting down: ask another one.", code="shutting_down")
            self._queue = [job for job in self._queue if not job.forgotten()]
            if len(self._queue) + len(jobs) > self.settings.max_queue:
                raise busy(f"{len(self._queue)} requests wait already, of at most {self.settings.max_queue}.")
            if pixels and _pixels(self._queue) + pixels > most:
                raise busy(f"the images of waiting requests have as many pixels as are allowed, {most:,} with yours.")
            self._queue += jobs
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def is_alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    def close(self, seconds: float) -> bool:
        """Take no more jobs, finish those taken; after so many seconds give the rest up. Whether all ended."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return True
        with self._changed:
            for job in [*self._queue, *self._running()]:
                job.cancelled = True
        self._thread.join(10)
        return False

    # ---- the thread ----

    def _work(self) -> None:
        while (jobs := self._next_group()) is not None:
            if not jobs:
                continue
            self._running = partial(list, jobs)
            try:
                if jobs[0].is_plain:
                    run = PlainRun(self.engine, self._more_plain, self._count, jobs)
                    self._running = lambda run=run: run.jobs  # type: ignore[misc]
                    run.run(self.settings.max_batch)
                else:
                    self._count(len(jobs))
                    run_method(self.engine, jobs)
            except Exception:
                told = failure_of_ours()
                for job in self._running():
                    job.tell(told)
            finally:
                self._running = list
                self.rows = 0
                self._trimmer.maybe()

    def _next_group(self) -> list[Job] | None:
        """The oldest job and those that go with it; None: the end."""
        with self._changed:
            while not self._queue:
                if not self._open:
                    return None
                self._changed.wait()
            oldest = self._queue[0]
            until = oldest.entered + self.settings.wait_ms / 1000
            while self._open and len(self._of(oldest)) < self.settings.max_batch:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._take(oldest, self.settings.max_batch)

    def _more_plain(self, most: int) -> list[Job]:
        """Plain jobs that may join the running batch."""
        if not self._queue:  # read without the lock: a job that comes just now joins at the next step
            return []
        with self._changed:
            if not self._queue or not self._queue[0].is_plain:
                return []
            return self._take(self._queue[0], most)

    def _of(self, job: Job) -> list[Job]:
        return [other for other in self._queue if other.group == job.group]

    def _take(self, job: Job, most: int) -> list[Job]:
        found = self._of(job)[:most]
        taken = set(map(id, found))
        self._queue = [other for other in self._queue if id(other) not in taken]
        return [other for other in found if not other.forgotten()]

    def _count(self, rows: int) -> None:
        self.rows = rows
        self.steps[rows] += 1
        self._trimmer.maybe()


def _pixels(jobs: list[Job]) -> int:
    """Of all images; those that jobs share count once."""
    images = {id(image): image for job in jobs for image in job.images}
    return sum(image.width * image.height for image in images.values())
