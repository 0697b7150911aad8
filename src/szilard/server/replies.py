"""Replies in OpenAI's shapes, whole and as chunks of a stream."""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from szilard.server.jobs import Finished, Step

Word = Callable[[int], str]
_PARTIAL = "\N{REPLACEMENT CHARACTER}"
_LOWEST = -9999.0  # a log-probability: JSON knows no infinity


@dataclass
class Answer:
    """What has been said for one choice."""

    text: str = ""
    reason: str | None = None
    tokens: int = 0
    steps: list[Step] = field(default_factory=list)  # kept only where logprobs or records are wanted
    cost: dict[str, Any] | None = None

    def end(self, event: Finished) -> None:
        """Take in the end."""
        self.text += event.text
        self.reason, self.tokens, self.cost = event.reason, event.tokens, event.cost


class Replies:
    """Builds the replies to one request.

    Args:
        chat: chat completions, or completions.
        model: as the request named it.
        word: token id -> text, special tokens kept.
        trace, logprobs: whether they are wanted.
    """

    def __init__(self, *, chat: bool, model: str, word: Word, trace: bool, logprobs: bool) -> None:
        self._chat, self._word = chat, word
        self.trace, self.logprobs = trace, logprobs
        self._said: Counter[int] = Counter()  # characters of every choice that a stream has told log-probabilities of
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    @property
    def keeps_steps(self) -> bool:
        """Whether a whole reply needs every step."""
        return self.trace or self.logprobs

    def whole(self, answers: Sequence[Answer], prompt_tokens: int) -> dict[str, Any]:
        """The reply."""
        choices = []
        for index, answer in enumerate(answers):
            choice: dict[str, Any] = {"index": index, "finish_reason": answer.reason, "logprobs": None}
            if self.logprobs:
                choice["logprobs"] = self._logprobs(answer.steps)
            if self._chat:
                choice["message"] = {"role": "assistant", "content": answer.text, "refusal": None}
            else:
                choice["text"] = answer.text
            if self.trace:
                choice["szilard"] = {"trace": [self._record(step) for step in answer.steps], "cost": answer.cost}
            choices.append(choice)
        return self._head | {"choices": choices, "usage": usage(prompt_tokens, sum(one.tokens for one in answers))}

    def first(self, index: int) -> dict[str, Any]:
        """The chunk that opens a choice of a chat."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, step: Step) -> dict[str, Any] | None:
        """The chunk of a step; None: there is nothing to say of it."""
        if not step.text and not (self.trace or self.logprobs):
            return None
        chunk = self._chunk(index, step.text)
        if self.logprobs:
            chunk["choices"][0]["logprobs"] = self._logprobs([step], self._said[index])
            if step.token is not None:
                self._said[index] += len(self._word(step.token))
        if self.trace:
            chunk["choices"][0]["szilard"] = self._record(step)
        return chunk

    def last(self, index: int, event: Finished) -> dict[str, Any]:
        """The chunk that ends a choice."""
        chunk = self._chunk(index, event.text)
        chunk["choices"][0]["finish_reason"] = event.reason
        if self.trace:
            chunk["choices"][0]["szilard"] = {"cost": event.cost}
        return chunk

    def totals(self, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """The chunk of the usage."""
        return self._streamed() | {"choices": [], "usage": usage(prompt_tokens, tokens)}

    def _streamed(self) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk"} if self._chat else dict(self._head)

    def _chunk(self, index: int, said: Any) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
        if self._chat:
            choice["delta"] = said if isinstance(said, dict) else {"content": said} if said else {}
        else:
            choice["text"] = said
        return self._streamed() | {"choices": [choice]}

    def _record(self, step: Step) -> dict[str, Any]:
        found = (step.record or {}).items()
        told = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found}
        return {"token": step.token, "text": step.text} | told

    def _logprobs(self, steps: Sequence[Step], here: int = 0) -> dict[str, Any]:
        known = [step for step in steps if step.token is not None and step.logprob is not None]
        if self._chat:
            return {"content": [self._entry(step) for step in known], "refusal": None}
        words = [self._word(step.token) for step in known if step.token is not None]
        offsets = []
        for word in words:
            offsets.append(here)
            here += len(word)
        tops = [{self._word(token): max(value, _LOWEST) for token, value in step.top} for step in known]
        return {
            "tokens": words,
            "token_logprobs": [max(step.logprob or 0.0, _LOWEST) for step in known],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _entry(self, step: Step) -> dict[str, Any]:
        assert step.token is not None and step.logprob is not None
        return self._told(step.token, step.logprob) | {"top_logprobs": [self._told(*one) for one in step.top]}

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        word = self._word(token)
        known = None if _PARTIAL in word else list(word.encode("utf-8"))  # of a part of a character nothing is known
        return {"token": word, "logprob": max(logprob, _LOWEST), "bytes": known}


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """Counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
