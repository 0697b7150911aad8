"""The stock openai client against a server on a real port, streams and disconnects among it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from szilard.server.row import Row

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def address(tiny_engine: Any) -> Iterator[tuple[str, Any]]:
    """Where a server listens, and the application."""
    import uvicorn

    from szilard.server.app import create_app
    from szilard.server.run import bind
    from szilard.server.settings import ServerSettings

    app = create_app(tiny_engine, ServerSettings())
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", app
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "w3 w4 w5"}]}


def test_the_stock_client_asks_streams_and_reads_errors(address: tuple[str, Any], tiny_engine: Any) -> None:
    with openai.OpenAI(base_url=address[0], api_key="none") as client:
        assert client.models.list().data[0].id == "tiny"
        whole = client.chat.completions.create(**CHAT, max_completion_tokens=9)
        assert whole.choices[0].message.content == tiny_engine.generate(CHAT["messages"], max_new_tokens=9).text
        more = {"szilard": {"method": "lead", "trace": True}}
        stream = client.chat.completions.create(**CHAT, max_tokens=9, stream=True, extra_body=more)
        pieces = [chunk.choices[0] for chunk in stream]
        said = "".join(piece.delta.content or "" for piece in pieces)
        assert said == tiny_engine.generate(CHAT["messages"], "lead", max_new_tokens=9).text
        assert all("entropy" in piece.model_extra["szilard"] for piece in pieces[1:-1])
        with pytest.raises(openai.NotFoundError, match="did you mean 'lead'"):
            client.chat.completions.create(**CHAT | {"model": "tiny:leed"})
        with pytest.raises(openai.BadRequestError, match="at most"):
            client.chat.completions.create(**CHAT, max_tokens=2000)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("method", [None, "lead"])
def test_a_client_that_goes_away_frees_its_row(
    address: tuple[str, Any], streamed: bool, method: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = address[1].state.server.scheduler
    more = {} if method is None else {"szilard": {"method": method}}
    said: list[int] = []
    plain = Row.say
    monkeypatch.setattr(Row, "say", lambda row, token, **found: (said.append(token), plain(row, token, **found)))
    with openai.OpenAI(base_url=address[0], api_key="none", max_retries=0) as client:
        if streamed:
            stream = client.chat.completions.create(**CHAT, max_tokens=240, stream=True, extra_body=more)
            for _ in range(3):
                next(stream)
            stream.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(**CHAT, max_tokens=240, extra_body=more, timeout=0.05)
    for _ in range(200):
        if scheduler.rows == scheduler.waiting == 0:
            break
        time.sleep(0.02)
    assert scheduler.rows == scheduler.waiting == 0
    assert len(said) < 240
