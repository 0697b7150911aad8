"""What requests may say. Fields of OpenAI's API that nothing here acts on are refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

Number = StrictFloat | StrictInt
_MOST_SEED = 2**63 - 1
_Stop = Annotated[StrictStr, Field(min_length=1, max_length=1000)]
_MOST_FIELDS = 64
_MOST_PARTS = 1000
_MOST_IDS = 2**20
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]

_Ids = Annotated[list[TokenId], Field(min_length=1, max_length=_MOST_IDS, fail_fast=True)]


class Strict(BaseModel):
    """Fields that are not known are refused, unless they ask for nothing: null, or what `neutral` says of them."""

    model_config = ConfigDict(extra="forbid")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # field -> values that ask for nothing; none named: any

    @model_validator(mode="before")
    @classmethod
    def _spoken(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if len(given) > _MOST_FIELDS:  # each would be a complaint of its own
            raise ValueError(f"{len(given)} fields are more than there are")
        return {name: value for name, value in given.items() if not cls._asks_for_nothing(name, value)}

    @classmethod
    def _asks_for_nothing(cls, name: str, value: Any) -> bool:
        if value is None:
            return True
        known = cls.neutral.get(name)
        return known is not None and (not known or any(type(value) is type(one) and value == one for one in known))


class Extension(Strict):
    """What szilard adds to a request.

    Attributes:
        method: a decoding method, or a pair with a cache or attention method (`lead`, `lead+snapkv`).
        options: its hyperparameters.
        trace: whether the reply carries the step records.
    """

    method: Annotated[StrictStr, Field(max_length=200)] | None = None
    options: Annotated[dict[Annotated[str, Field(max_length=100)], Any], Field(max_length=64)] = Field(
        default_factory=dict
    )
    trace: StrictBool = False


class ImageUrl(Strict):
    """A picture, as a data URL."""

    url: StrictStr
    detail: StrictStr | None = None


class Part(Strict):
    """A piece of a message: text, or a picture."""

    type: Literal["text", "image_url"]
    text: StrictStr | None = None
    image_url: ImageUrl | None = None


class Message(Strict):
    """A turn of a chat."""

    neutral = {"tool_calls": ([],), "annotations": ([],)}

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | Annotated[list[Part], Field(max_length=_MOST_PARTS, fail_fast=True)] | None = None
    name: StrictStr | None = None


class StreamOptions(Strict):
    """Of a streamed reply."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class Request(Strict):
    """What both kinds of requests have in common."""

    neutral = {
        "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (),
        "response_format": ({"type": "text"},), "modalities": (["text"],), "logit_bias": ({},), "seed": (-1,),
        "best_of": (1,), "suffix": ("",), "store": (False,), "metadata": (), "service_tier": (),
        "safety_identifier": (), "prompt_cache_key": (),
    }  # fmt: skip

    model: Annotated[StrictStr, Field(max_length=400)]
    n: Annotated[StrictInt, Field(ge=1)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=10**6)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=_MOST_SEED)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
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

    messages: Annotated[list[Message], Field(min_length=1, max_length=2000, fail_fast=True)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None


class CompletionRequest(Request):
    """/v1/completions"""

    prompt: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1, max_length=256, fail_fast=True)]
        | _Ids
        | Annotated[list[_Ids], Field(min_length=1, max_length=256, fail_fast=True)]
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    echo: StrictBool | None = None
