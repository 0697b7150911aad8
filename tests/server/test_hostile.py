"""Requests that would cost, keep or open more than they may, and clients that say more than they must."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from typing import Any

import pytest

pytest.importorskip("fastapi")

from szilard.server.access import Keys
from tests.server.conftest import serving

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "w3 w4 w5"}], "max_tokens": 8}


def options(method: str, **given: Any) -> dict[str, Any]:
    return {"szilard": {"method": method, "options": given}}


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        (options("draft-model", draft=123), 400, "cannot be set by a request"),
        (options("aded", table=True), 400, "cannot be set by a request"),
        (options("beam-search", beams=100_000), 400, "beams may be at most 16"),
        (options("prompt-lookup", draft_tokens=10**9), 400, "draft_tokens may be at most 64"),
        (options("lead", window=10**9), 400, "window may be at most 1,048,576"),
        (options("lead", **{"x" * 1000: 1}), 422, "at most 100 characters"),
        (options("lead", **{f"x{place}": 1 for place in range(1000)}), 422, "at most 64 items"),
        ({f"x{place}": 1 for place in range(1000)}, 422, "fields are more than there are"),
        ({"x" * 10_000: 1}, 422, "is not a field"),
        ({"stop": "w" * 2000}, 422, "at most 1000 characters"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "w3"}] * 2000}]},
            422,
            "at most 1000 items",
        ),
        ({"messages": [{"role": "user", "content": "w3 " * 100_000}]}, 400, "300000 characters"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "needs its content"),
    ],
)
def test_what_would_cost_or_open_too_much_is_refused(
    client: Any, changed: dict[str, Any], status: int, said: str
) -> None:
    reply = client.post("/v1/chat/completions", json=CHAT | changed)
    assert reply.status_code == status and said in reply.json()["error"]["message"]
    assert len(reply.content) < 2000


@pytest.mark.parametrize("prompt", [[1.5] * 10_000, [[1.5]] * 200, ["w3"] * 300, [3] * (2**20 + 1)])
def test_long_lists_end_at_their_first_fault(client: Any, prompt: list[Any]) -> None:
    reply = client.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
    assert reply.status_code in (400, 422) and len(reply.content) < 2000


def test_more_answers_than_the_queue_holds_are_not_sent_away_to_come_back(client: Any) -> None:
    reply = client.post("/v1/completions", json={"model": "tiny", "prompt": ["w3"] * 200, "n": 8})
    assert reply.status_code == 400 and "1600 answers" in reply.json()["error"]["message"]


@pytest.mark.parametrize("body", ["[" * 100_000, json.dumps(CHAT)[:-1] + ', "seed": ' + "9" * 5000 + "}"])
def test_bodies_that_break_parsers_are_the_clients_fault(client: Any, body: str) -> None:
    reply = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400


def test_an_answer_can_be_sent_back_as_it_came_and_nulls_ask_for_nothing(client: Any) -> None:
    first = client.post("/v1/chat/completions", json=CHAT | {"tools": None, "response_format": None}).json()
    turns = [*CHAT["messages"], first["choices"][0]["message"], {"role": "user", "content": "w9"}]
    assert client.post("/v1/chat/completions", json=CHAT | {"messages": turns}).status_code == 200
    turns[1] = {"role": "assistant", "content": None, "tool_calls": None}
    assert client.post("/v1/chat/completions", json=CHAT | {"messages": turns, "stop": []}).status_code == 200


def test_a_default_length_that_does_not_fit_becomes_what_fits(client: Any) -> None:
    asked = {"model": "tiny", "prompt": [5] * 252}
    assert client.post("/v1/completions", json=asked).json()["usage"]["completion_tokens"] <= 4
    assert client.post("/v1/completions", json=asked | {"max_tokens": 8}).status_code == 400


def test_pages_of_named_origins_may_ask_where_there_are_keys(tiny_engine: Any) -> None:
    page = {"Origin": "http://a.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for client in serving(tiny_engine, keys=Keys(["one"]), cors_origins=("http://a.example",)):
        assert client.options("/v1/chat/completions", headers=page | asks).status_code == 200
        refused = client.post("/v1/chat/completions", json=CHAT, headers=page)
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == page["Origin"]


def test_paths_that_nobody_knows_are_one_label_of_the_counters(client: Any) -> None:
    for place in range(3):
        client.get(f"/v1/x{place}")
    labels = [line for line in client.get("/metrics").text.splitlines() if line.startswith("szilard_requests_total")]
    assert labels == ['szilard_requests_total{path="other",status="404"} 3.0']


def test_prompts_are_logged_where_that_is_asked_for(tiny_engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    for log_prompts in (False, True):
        with caplog.at_level(logging.INFO, "szilard.server"):
            for client in serving(tiny_engine, log_prompts=log_prompts):
                client.post("/v1/chat/completions", json=CHAT)
        assert ("w3 w4 w5" in caplog.text) == log_prompts


def test_streams_are_finished_when_the_server_is_told_to_end(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sse_starlette.sse import AppStatus

    monkeypatch.setattr(AppStatus, "should_exit", True)
    assert client.post("/v1/chat/completions", json=CHAT | {"stream": True}).text.rstrip().endswith("[DONE]")


def test_a_stream_whose_client_is_gone_before_it_begins_frees_its_row(tiny_engine: Any) -> None:
    body = json.dumps(CHAT | {"stream": True, "max_tokens": 240}).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "query_string": b"",
        "path": "/v1/chat/completions", "headers": [(b"content-type", b"application/json")], "scheme": "http",
        "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    async def send(_: Any) -> None:
        await asyncio.sleep(0)

    for client in serving(tiny_engine, max_new_tokens=240):
        scheduler = client.app.state.server.scheduler
        asyncio.run(client.app(scope, receive, send))
        for _ in range(500):
            if scheduler.rows == scheduler.waiting == 0:
                break
            time.sleep(0.01)
        assert sum(rows * steps for rows, steps in scheduler.steps.items()) < 240


def test_a_streams_records_are_json_and_its_offsets_go_on() -> None:
    from szilard.server.jobs import Step
    from szilard.server.replies import Replies

    replies = Replies(chat=False, model="tiny", word=lambda token: "ab", trace=True, logprobs=True)
    step = Step(5, "ab", logprob=-math.inf, top=((5, -math.inf),), record={"entropy": math.nan, "mode": "discrete"})
    told = [replies.piece(0, step) for _ in range(2)]
    json.dumps(told, allow_nan=False)
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in told if chunk is not None] == [[0], [2]]
