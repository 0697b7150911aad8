"""What requests may say. Fields of OpenAI's API that nothing here acts on are refused, not ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

_Strict = ConfigDict(extra="forbid")
Number = StrictFloat | StrictInt
_MOST_SEED = 2**63 - 1
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]


class Extension(BaseModel):
    """What szilard adds to a request.

    Attributes:
        method: a decoding method, or a pair with a cache or attention method (`lead`, `lead+snapkv`).
        options: its hyperparameters.
        trace: whether the reply carries the step records.
    """

    model_config = _Strict
    method: Annotated[StrictStr, Field(max_length=200)] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    trace: StrictBool = False


class ImageUrl(BaseModel):
    """A picture, as a data URL."""

    model_config = _Strict
    url: StrictStr
    detail: StrictStr | None = None


class Part(BaseModel):
    """A piece of a message: text, or a picture."""

    model_config = _Strict
    type: Literal["text", "image_url"]
    text: StrictStr | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """A turn of a chat."""

    model_config = _Strict
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part]
    name: StrictStr | None = None


class StreamOptions(BaseModel):
    """Of a streamed reply."""

    model_config = _Strict
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class Request(BaseModel):
    """What both kinds of requests have in common."""

    model_config = _Strict
    model: Annotated[StrictStr, Field(max_length=400)]
    n: Annotated[StrictInt, Field(ge=1)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=10**6)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=_MOST_SEED)] | None = None
    stop: (
        Annotated[StrictStr, Field(min_length=1)]
        | Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(max_length=16)]
        | None
    ) = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: StrictStr | None = None
    presence_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    szilard: Extension = Field(default_factory=Extension)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Request):
    """/v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2000)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None


class CompletionRequest(Request):
    """/v1/completions"""

    prompt: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=256)]
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    echo: StrictBool | None = None
