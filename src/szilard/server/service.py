"""From requests to jobs: what is asked is checked against the model and the limits before anything waits."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch

from szilard.decoding.greedy import Greedy
from szilard.decoding.method import Method
from szilard.decoding.sampling import Sampling
from szilard.decoding.under import Under, decoding_of
from szilard.server.errors import RequestError
from szilard.server.jobs import Event, Job
from szilard.server.methods import Offered, Presets
from szilard.server.pictures import picture_of
from szilard.server.schemas import ChatRequest, CompletionRequest, Message, Request
from szilard.server.settings import ServerSettings

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

Teller = Callable[[Event], None]


class Service:
    """What a server offers on one engine.

    Args:
        engine: the model.
        settings: limits.
        default: the method of requests that name none; None: plain decoding.
        name: under which the model is asked for; None: the engine's.
        presets: hyperparameters by method that requests find set.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        default: Method | None = None,
        name: str | None = None,
        presets: Presets | None = None,
    ) -> None:
        self.engine, self.settings = engine, settings
        self.name = name or engine.name
        self.offered = Offered(engine, default, presets)
        self._encoding = threading.Lock()  # tokenizers refuse to be set up by two threads at once
        self._pictures = threading.Lock()  # one request's pictures are decoded at a time: they are large
        self.word = lru_cache(maxsize=2**17)(self._word)

    def names(self) -> list[str]:
        """The model, alone and with every method that it can run."""
        return [self.name, *(f"{self.name}:{method.slug}" for method in self.offered.entries)]

    # ---- what is asked for ----

    def method_of(self, request: Request) -> Method | None:
        """The request's method, by the model's suffix or the extension; None: plain decoding.

        Raises:
            RequestError: 404 for an unknown model or method, 400 where both name one.
        """
        asked, rest = request.model[: len(self.name)], request.model[len(self.name) :]  # a name may have a colon itself
        colon, suffix = rest[:1], rest[1:]
        if asked.lower() != self.name.lower() or colon not in ("", ":"):
            raise RequestError(
                404, f"there is no model {request.model!r} here; this server runs {self.name!r}.", param="model",
                code="model_not_found",
            )  # fmt: skip
        own = request.szilard
        if colon and own.method is not None and own.method != suffix:
            raise RequestError(
                400, f"the model's suffix says {suffix!r} and szilard.method {own.method!r}: give one.", param="model"
            )
        return self.offered.chosen(suffix if colon else own.method, own.options)

    def chat_jobs(self, request: ChatRequest, tellers: list[Teller]) -> list[Job]:
        """A job for every choice of a chat.

        Raises:
            RequestError: what cannot be served.
        """
        self.method_of(request)
        most = self._new_tokens(request.max_completion_tokens or request.max_tokens)
        top = request.top_logprobs
        if top is not None and not request.logprobs:
            raise RequestError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        pictures: list[Any] = []
        with self._pictures if any(isinstance(one.content, list) for one in request.messages) else nullcontext():
            chat = [self._turn(message, pictures) for message in request.messages]
        if not pictures and not chat[-1]["content"].strip():
            raise RequestError(400, "the last message is empty: write something.", param="messages")
        wanted = (top or 0) if request.logprobs else None
        return self._jobs(request, chat, pictures, most, wanted, raw=False, tellers=tellers)

    def completion_jobs(self, request: CompletionRequest, tellers: list[Teller]) -> list[Job]:
        """A job for every prompt and choice of a completion."""
        if request.echo:
            raise RequestError(400, "echo is not offered: the prompt is yours already.", param="echo")
        most = self._new_tokens(request.max_tokens)
        prompts = self.prompts_of(request)
        each = len(tellers) // len(prompts)
        jobs: list[Job] = []
        for place, prompt in enumerate(prompts):
            own = tellers[place * each : (place + 1) * each]
            jobs += self._jobs(request, prompt, [], most, request.logprobs, raw=True, tellers=own)
        return jobs

    @staticmethod
    def prompts_of(request: CompletionRequest) -> list[Any]:
        """Texts, or tensors of ids."""
        given: Any = request.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], int):
            return [torch.tensor(given)]
        return [one if isinstance(one, str) else torch.tensor(one) for one in given]

    def choices(self, request: Request) -> int:
        """Answers per prompt.

        Raises:
            RequestError: more than are allowed.
        """
        count = request.n or 1
        if count > self.settings.max_choices:
            raise RequestError(400, f"n={count} is more than the {self.settings.max_choices} allowed here.", param="n")
        return count

    # ---- parts ----

    def _new_tokens(self, asked: int | None) -> int | None:
        if asked is not None and asked > self.settings.max_new_tokens:
            raise RequestError(
                400, f"{asked} new tokens are more than the {self.settings.max_new_tokens} allowed here.",
                param="max_tokens",
            )  # fmt: skip
        return asked

    def _turn(self, message: Message, pictures: list[Any]) -> dict[str, Any]:
        role = "system" if message.role == "developer" else message.role
        if message.content is None and role != "assistant":
            raise RequestError(400, f"a turn of the {role} needs its content.", param="messages")
        if message.content is None or isinstance(message.content, str):
            return {"role": role, "content": message.content or ""}
        parts: list[dict[str, Any]] = []
        before = len(pictures)
        for part in message.content:
            if part.type == "text":
                if part.text is None:
                    raise RequestError(400, "a part of type text needs its text.", param="messages")
                parts.append({"type": "text", "text": part.text})
                continue
            if part.image_url is None:
                raise RequestError(400, "a part of type image_url needs its image_url.", param="messages")
            if "vision" not in self.engine.provides:
                raise RequestError(400, f"{self.name} reads no images: send text alone.", param="messages")
            if len(pictures) >= self.settings.max_images:
                raise RequestError(
                    413, f"more than {self.settings.max_images} images are not allowed.", param="messages"
                )
            left = self.settings.max_waiting_pixels - sum(one.width * one.height for one in pictures)
            pictures.append(picture_of(part.image_url.url, min(self.settings.max_image_pixels, left)))
            parts.append({"type": "image", "image": pictures[-1]})
        if len(pictures) > before:
            return {"role": role, "content": parts}
        return {"role": role, "content": "\n".join(part["text"] for part in parts)}

    def _jobs(
        self,
        request: Request,
        prompt: Any,
        pictures: list[Any],
        asked: int | None,
        logprobs: int | None,
        *,
        raw: bool,
        tellers: list[Teller],
    ) -> list[Job]:
        method = self.method_of(request)
        chosen, sampling = self._drawing(request, method)
        ids, most = self._ids(prompt, pictures, asked, raw)
        if logprobs is not None and (chosen.slug not in ("greedy", "sampling") or pictures):
            raise RequestError(
                400, f"logprobs are given by plain decoding of text, not by {chosen.slug!r}.", param="logprobs"
            )
        now = time.monotonic()
        seed = getattr(chosen, "seed", None) if request.seed is None and chosen.slug == "sampling" else request.seed
        return [
            Job(
                ids=ids,
                method=chosen,
                max_new_tokens=most,
                tell=tell,
                deadline=now + self.settings.deadline_s,
                prompt=prompt if pictures else None,
                images=pictures,
                raw=raw,
                sampling=sampling,
                stop=request.stops,
                seed=None if seed is None else (seed + place) % 2**63,
                logprobs=logprobs,
                trace=request.szilard.trace,
                entered=now,
            )
            for place, tell in enumerate(tellers)
        ]

    def _drawing(self, request: Request, method: Method | None) -> tuple[Method, dict[str, Any]]:
        """The method with the request's temperature and filters: as `Sampling`, or as options of `generate`.

        A request that names no method is greedy at temperature 0, and sampled otherwise where it says a temperature or
        a filter; a request that says nothing is greedy.
        """
        given = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        given = {name: value if name == "top_k" else float(value) for name, value in given.items() if value is not None}
        greedy = given.get("temperature") == 0 or not given
        try:
            if method is None:
                plain = self.engine.plain_method(False)
                if plain.slug != "greedy":  # of an engine that fills a canvas
                    return plain, {}
                return (plain, {}) if greedy else (Sampling(**given), {})
            Sampling(**{name: value for name, value in given.items() if value or name != "temperature"})  # its ranges
            decoding = decoding_of(method)
            if isinstance(decoding, Sampling) and given:
                own = Greedy() if greedy else dataclasses.replace(decoding, **given)
                return (Under(own, method.attention) if isinstance(method, Under) else own), {}
            if greedy or not method.honours_do_sample:
                return method, {}
            return method, {"do_sample": True, **given}
        except (ValueError, TypeError) as error:
            raise RequestError(400, str(error)) from None

    def _ids(self, prompt: Any, pictures: list[Any], asked: int | None, raw: bool) -> tuple[list[int], int]:
        """Tokens of the prompt, and how many new ones: as asked for, or by default what fits. Checked by the window."""
        most = asked or min(self.settings.default_new_tokens, self.settings.max_new_tokens)
        try:
            self._check_characters(prompt)
            with self._encoding:
                inputs = self.engine.encode([prompt], images=[pictures] if pictures else None, raw=raw)
            window, length = self.engine.context_window, int(inputs["attention_mask"].sum())
            if asked is None and window is not None:
                most = max(1, min(most, window - length))
            self.engine.check_length(inputs, most)
        except (ValueError, TypeError) as error:
            raise RequestError(400, str(error), param="prompt" if raw else "messages") from None
        ids: list[int] = inputs["input_ids"][0].tolist()
        limit = self.settings.max_prompt_tokens
        if limit is not None and len(ids) > limit:
            raise RequestError(413, f"the prompt has {len(ids)} tokens, and {limit} are allowed here.")
        return ids, most

    def _check_characters(self, prompt: Any) -> None:
        """Refuse, before megabytes are turned into tokens, text that no window can hold."""
        if isinstance(prompt, torch.Tensor):
            return
        texts = [prompt] if isinstance(prompt, str) else [text for turn in prompt for text in _texts(turn["content"])]
        window, length = self.engine.context_window, sum(map(len, texts))
        if window is not None and length > window * self._longest_token:
            raise ValueError(
                f"the prompt has {length} characters, more than the context window of {self.name}, {window} tokens, "
                "can hold: shorten it."
            )

    def _word(self, token: int) -> str:
        """A token's text, special ones kept."""
        return self.engine.decode_all([token])

    @cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token, generously: tokenizers may shorten white space."""
        return max(64, *map(len, self.engine.tokenizer.get_vocab()))


def _texts(content: Any) -> list[str]:
    """Of a turn: its text, or those of its parts."""
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
