"""A server on a tiny model, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_engine() -> Any:
    """An engine on the tiny Llama, in float64, so that no batch changes which token is likeliest."""
    from szilard.engines import TransformersEngine

    return TransformersEngine(tiny_model("llama").double(), tiny_tokenizer(), name="tiny")


@pytest.fixture
def client(tiny_engine: Any) -> Iterator[Any]:
    """A client of a server with small limits."""
    yield from serving(tiny_engine)


def serving(engine: Any, keys: Any = None, **settings: Any) -> Iterator[Any]:
    """A client of a server on an engine; the server closes afterwards."""
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from szilard.server.app import create_app
    from szilard.server.settings import ServerSettings

    app = create_app(engine, ServerSettings(**{"max_new_tokens": 64, "default_new_tokens": 8} | settings), keys=keys)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
