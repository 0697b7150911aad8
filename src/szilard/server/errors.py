"""Errors as OpenAI's API tells them: {"error": {message, type, param, code}} with a status that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError

_MOST_TOLD = 200  # characters of a field's name


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


def invalid_request(error: RequestValidationError) -> RequestError:
    """The first complaint about a body, in one sentence: 400 where it is no JSON, 422 where it is of another shape."""
    found = error.errors()
    first = next((one for one in found if not one["type"].endswith("_type")), found[0])  # a union tells of each member
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "it cannot be parsed")
        return RequestError(400, f"the body is no valid JSON: {why}.")
    place = ".".join(str(part) for part in first["loc"] if part not in ("body",))[:_MOST_TOLD] or "body"
    if first["type"] == "extra_forbidden":
        return RequestError(422, f"{place!r} is not a field that this server knows: leave it out.", param=place)
    return RequestError(422, f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}.", param=place)
