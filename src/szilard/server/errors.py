"""Errors as OpenAI's API tells them: {"error": {message, type, param, code}} with a status that fits."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request that cannot be served.

    Args:
        status: of HTTP.
        message: one sentence: what was given, what is allowed, what to do.
        param: the field that is at fault, where it is one.
        code: a short name for programs.
        headers: of the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The reply's JSON."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(message: str, seconds: int = 1) -> RequestError:
    """429 with the time after which it may work."""
    return RequestError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})
