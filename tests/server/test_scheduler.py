"""Jobs are decoded together, join and leave, and none is lost, crossed or kept."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from szilard.decoding.greedy import Greedy
from szilard.decoding.lead import Lead
from szilard.decoding.method import Method
from szilard.decoding.sampling import Sampling
from szilard.server.errors import RequestError
from szilard.server.jobs import Event, Failed, Finished, Job, Step
from szilard.server.scheduler import Scheduler
from szilard.server.settings import ServerSettings


class Listener:
    """Who waits for a job."""

    def __init__(self, ids: list[int], method: Method | None = None, tokens: int = 10, **more: Any) -> None:
        self.events: list[Event] = []
        self.over = threading.Event()
        self.began = threading.Event()
        deadline = time.monotonic() + more.pop("seconds", 60)
        self.job = Job(ids, method or Greedy(), tokens, self.tell, deadline, raw=True, **more)

    def tell(self, event: Event) -> None:
        self.events.append(event)
        (self.began if isinstance(event, Step) else self.over).set()

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.events if isinstance(event, Step) and event.token is not None]

    def wait(self) -> Any:
        assert self.over.wait(60)
        return self.events[-1]


@pytest.fixture
def scheduler(tiny_engine: Any) -> Iterator[Scheduler]:
    made = Scheduler(tiny_engine, ServerSettings(max_batch=4, max_queue=64, wait_ms=1))
    yield made
    made.close(20)


def alone(engine: Any, ids: list[int], method: Any = None, tokens: int = 10, **options: Any) -> list[int]:
    return engine.generate(torch.tensor(ids), method, max_new_tokens=tokens, raw=True, **options).tokens


def test_every_job_gets_the_answer_that_it_gets_alone(scheduler: Scheduler, tiny_engine: Any) -> None:
    draw = random.Random(0)
    asked = []
    for place in range(24):
        ids = [draw.randrange(7, 97) for _ in range(draw.randrange(1, 30))]
        method = (None, None, Lead(), Sampling())[place % 4]
        asked.append(Listener(ids, method, draw.randrange(1, 25), seed=7 if place % 4 == 3 else None))
    for listener in asked:
        scheduler.submit([listener.job])
        time.sleep(draw.random() * 0.01)
    for listener in asked:
        job, end = listener.job, listener.wait()
        assert isinstance(end, Finished) and end.tokens == len(listener.tokens)
        if job.method.slug == "sampling":
            continue  # draws of a job of its own: see below
        assert listener.tokens == alone(tiny_engine, job.ids, job.method, job.max_new_tokens)
    assert max(scheduler.steps) > 1
    assert scheduler.rows == scheduler.waiting == 0


def test_what_others_draw_changes_no_draws(scheduler: Scheduler) -> None:
    lonely = Listener([9, 8], Sampling(), seed=3)
    scheduler.submit([lonely.job])
    lonely.wait()
    crowd = [Listener([9, 8], Sampling(temperature=0.5 + place), seed=place) for place in range(3)]
    again = Listener([9, 8], Sampling(), seed=3)
    scheduler.submit([one.job for one in [*crowd, again]])
    again.wait()
    assert again.tokens == lonely.tokens


def test_a_job_that_nobody_waits_for_ends_and_the_others_go_on(scheduler: Scheduler, tiny_engine: Any) -> None:
    for method in (None, Lead()):
        gone, stays = (Listener([5, 6, place], method, 120) for place in (7, 8))
        stays.job.max_new_tokens = 40
        scheduler.submit([gone.job, stays.job])
        assert gone.began.wait(60)
        gone.job.cancelled = True
        assert gone.wait().tokens < 120
        stays.wait()
        assert stays.tokens == alone(tiny_engine, stays.job.ids, method, 40)


@pytest.mark.parametrize("method", [None, Lead()])
def test_a_long_prompt_and_a_long_answer_that_do_not_fit_together(
    scheduler: Scheduler, tiny_engine: Any, method: Any
) -> None:
    long, short = Listener([5] * 240, method, 10), Listener([6], method, 100)
    scheduler.submit([long.job, short.job])
    for listener in (long, short):
        assert listener.wait().tokens == len(listener.tokens)
        assert listener.tokens == alone(tiny_engine, listener.job.ids, method, listener.job.max_new_tokens)


def test_a_deadline_cuts_an_answer(scheduler: Scheduler) -> None:
    late = Listener([5], None, 120, seconds=0.03)
    scheduler.submit([late.job])
    end = late.wait()
    assert end.reason == "length" and end.tokens < 120


def test_a_full_queue_refuses_and_a_closed_one_too(tiny_engine: Any) -> None:
    scheduler = Scheduler(tiny_engine, ServerSettings(max_batch=1, max_queue=2))
    jobs = [Listener([4], None, 120) for _ in range(4)]
    scheduler.submit([jobs[0].job])
    assert jobs[0].began.wait(60)
    scheduler.submit([jobs[1].job, jobs[2].job])
    with pytest.raises(RequestError, match="2 requests wait already, of at most 2") as refused:
        scheduler.submit([jobs[3].job])
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    for listener in jobs[1:3]:
        listener.job.cancelled = True
    assert scheduler.close(60)
    assert [type(listener.wait()) for listener in jobs[:3]] == [Finished, Failed, Failed]
    with pytest.raises(RequestError, match="shutting down"):
        scheduler.submit([jobs[3].job])


def test_a_batch_that_fails_is_told_and_the_next_one_runs(
    scheduler: Scheduler, tiny_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(type(tiny_engine), "state", lambda *_, **__: 1 / 0)
        broken = Listener([4])
        scheduler.submit([broken.job])
        end = broken.wait()
    assert isinstance(end, Failed) and end.status == 500 and "Zero" not in end.message
    whole = Listener([4])
    scheduler.submit([whole.job])
    whole.wait()
    assert whole.tokens == alone(tiny_engine, [4])


def test_other_methods_have_their_turn_beside_an_endless_stream_of_plain_jobs(scheduler: Scheduler) -> None:
    plain = [Listener([4, place], None, 30) for place in range(7, 31)]
    other = Listener([5], Lead(), 5)
    for place, listener in enumerate(plain):
        scheduler.submit([listener.job])
        if place == 3:
            scheduler.submit([other.job])
    other.wait()
    assert sum(listener.over.is_set() for listener in plain) < len(plain)
    for listener in plain:
        listener.wait()


def test_images_that_wait_are_bounded_in_pixels(tiny_engine: Any) -> None:
    from PIL import Image

    made = Scheduler(tiny_engine, ServerSettings(max_waiting_pixels=250))
    made.close(20)
    made._open = True  # nobody takes jobs any more: they wait
    image = Image.new("RGB", (10, 10))
    shared = [Listener([3], images=[image]).job, Listener([4], images=[image]).job]
    made.submit(shared)  # two choices of one request: 100 pixels
    made.submit([Listener([5], images=[image.copy()]).job])
    with pytest.raises(RequestError, match="as many pixels as are allowed") as error:
        made.submit([Listener([6], images=[image.copy()]).job])
    assert error.value.status == 429
    with pytest.raises(RequestError, match="300 pixels together") as error:
        made.submit([Listener([6], images=[image.copy() for _ in range(3)]).job])
    assert error.value.status == 413
    made.submit([Listener([7]).job])


def test_free_pages_are_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from szilard.server import heap

    given: list[int] = []
    monkeypatch.setattr(heap, "_malloc_trim", lambda: given.append)
    trimmer = heap.Trimmer(every=0.05)
    trimmer.maybe()
    assert not given
    time.sleep(0.06)
    trimmer.maybe()
    trimmer.maybe()
    assert given == [0]


def test_a_job_whose_deadline_passes_in_the_queue_is_told_so(tiny_engine: Any) -> None:
    listener = Listener([3], seconds=-1)
    assert listener.job.forgotten()
    told = listener.wait()
    assert isinstance(told, Failed) and told.status == 503 and "deadline" in told.message


def test_methods_share_a_batch_only_with_the_same_length() -> None:
    same, other = Listener([3], Lead(), 8).job, Listener([3], Lead(), 9).job
    assert same.group == Listener([4], Lead(), 8).job.group != other.group
    assert Listener([3], tokens=8).job.group == Listener([3], tokens=9).job.group
