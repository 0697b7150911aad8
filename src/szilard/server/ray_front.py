"""What stands between Ray's HTTP proxy and the replicas: it asks again where a replica is lost, or says so.

It reads no model and imports none of what reads one, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from szilard.server.access import Keys
from szilard.server.errors import RequestError, busy

Message = dict[str, Any]  # of ASGI, from a replica's application

ATTEMPTS = 3
_LOST = (RayActorError, WorkerCrashedError, ObjectLostError, ReplicaUnavailableError)
# What a stream begins with before there is any text; until more comes, a request can still go to another replica.
_NO_TEXT_YET = b'"delta":{"role":"assistant","content":""}'


class Front:
    """Hands requests to replicas and their replies back, piece by piece.

    A request whose replica dies before any text was sent is asked of another one, at most `ATTEMPTS` times in all:
    requests leave nothing behind on a server, so that asking twice is harmless. Where text was sent, the stream ends
    with an error in OpenAI's format.

    Args:
        replicas: deployment whose `answer` runs the application.
        max_body_bytes: of a request.
        keys: that open the server; asked before a body is read.
    """

    def __init__(self, replicas: DeploymentHandle, max_body_bytes: int = 2**24, keys: Keys | None = None) -> None:
        self._replicas, self._most, self._keys = replicas, max_body_bytes, keys or Keys([])
        self._answer = replicas.options(stream=True, method_name="answer")

    async def __call__(self, request: Request) -> Response:
        """Any request."""
        scope = plain_scope(request.scope)
        try:
            body = await self._body(request)
        except RequestError as error:
            return told(error)
        if request.url.path == "/metrics":
            return await self._metrics(scope)
        messages = self._messages(scope, body)
        try:
            start = await anext(messages)
        except RequestError as error:
            return told(error)
        reply = StreamingResponse(pieces(messages), start["status"])
        reply.raw_headers = list(start["headers"])
        return reply

    async def _body(self, request: Request) -> bytes:
        """The body.

        Raises:
            RequestError: 401 without a key, 413 for more than is allowed.
        """
        found = bytearray()
        if request.method == "POST":
            self._keys.check(request.headers.get("authorization"))
        async for piece in request.stream():
            found += piece
            if len(found) > self._most:
                raise RequestError(413, f"the body is larger than the {self._most} bytes allowed here.")
        return bytes(found)

    async def _messages(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """What the application of one replica sends.

        Raises:
            RequestError: 429 where all queues are full, 503 where no replica could answer.
        """
        started = False  # the headers of a stream are sent at once: those who wait for text see that it will come
        for attempt in range(1, ATTEMPTS + 1):
            held: list[Message] = []
            speaks = False
            response: Any = self._answer.remote(scope, body)
            try:
                async for message in response:
                    if message["type"] == "http.response.start":
                        if started:
                            if message["status"] != 200:
                                raise RequestError(
                                    503, "no other replica took it over: ask again.", code="replica_lost"
                                )
                            continue
                        if attempt > 1:
                            message["headers"].append((b"x-szilard-attempts", str(attempt).encode()))
                        if not _is_stream(message):
                            held.append(message)
                            continue
                        started = True
                    elif _is_comment(message):  # it keeps the connection open
                        pass
                    elif not speaks and _NO_TEXT_YET in message.get("body", b""):
                        held.append(message)
                        continue
                    else:
                        speaks = True
                        while held:
                            yield held.pop(0)
                    yield message
                for message in held:
                    yield message
                return
            except BackPressureError as error:
                raise busy(f"{error.message} Ask again later.") from None
            except DeploymentUnavailableError as error:
                raise RequestError(503, f"no replica runs: {error.message}", code="replica_lost") from None
            except _LOST:
                if speaks:
                    raise RequestError(
                        503, "the replica that wrote this answer was lost: ask again.", code="replica_lost"
                    ) from None
            finally:
                response.cancel()  # of a request that is over, nothing; of one whose client left, its rows
        raise RequestError(503, f"{ATTEMPTS} replicas were lost with this request: ask again.", code="replica_lost")

    async def _metrics(self, scope: dict[str, Any]) -> Response:
        """The counters of all replicas."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(*_LOST):  # one died just now: ask those that are left
                found = await self._replicas.broadcast("told", scope).results_async()
                break
        else:
            return told(RequestError(503, "replicas are being lost: ask again.", code="replica_lost"))
        for _, status, headers, body in found:
            if status != 200:
                refused = Response(body, status)
                refused.raw_headers = list(headers)
                return refused
        merged = merged_metrics({replica: body.decode() for replica, _, _, body in found})
        return Response(merged, media_type="text/plain; version=0.0.4; charset=utf-8")


async def pieces(messages: AsyncIterator[Message]) -> AsyncIterator[bytes]:
    """Bodies; a loss becomes the last event of the stream."""
    async with contextlib.aclosing(messages):  # type: ignore[type-var]
        try:
            async for message in messages:
                if body := message.get("body"):
                    yield body
        except RequestError as error:
            yield f"data: {json.dumps(error.body())}\n\n".encode()


def plain_scope(scope: Any) -> dict[str, Any]:
    """What of an ASGI scope another process can read."""
    names = ("type", "http_version", "method", "path", "raw_path", "query_string", "scheme", "client", "server")
    found = {name: scope[name] for name in names if scope.get(name) is not None}
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return found | {"headers": headers, "root_path": "", "asgi": {"version": "3.0"}}


def told(error: RequestError) -> Response:
    """An error as a reply."""
    return Response(json.dumps(error.body()), error.status, error.headers, "application/json")


def merged_metrics(texts: dict[str, str]) -> str:
    """Prometheus texts of replicas as one, every sample with a label that says whose it is.

    Args:
        texts: by replica.
    """
    about: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                known = about.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line:
                name, _, value = line.rpartition(" ")
                name, brace, labels = name.partition("{")
                labels = f'{{replica="{replica}"' + (f",{labels}" if brace else "}")
                samples.setdefault(family, []).append(f"{name}{labels} {value}")
    return "".join(f"{line}\n" for family, lines in about.items() for line in [*lines, *samples.get(family, [])])


def _is_stream(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] == 200 and any(kind.startswith(b"text/event-stream") for kind in kinds)


def _is_comment(message: Message) -> bool:
    return bool(message.get("body", b"").startswith(b": "))
