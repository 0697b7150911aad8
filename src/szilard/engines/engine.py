"""An engine: a loaded model that can run. Prompts in, results out; the decoding itself is a method's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from szilard.decoding.method import Method
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.state import DecodingState
from szilard.decoding.stopping import InNewText
from szilard.decoding.under import ModelMethod, Under, decoding_of
from szilard.engines.chosen_method import method_with
from szilard.engines.context import ContextInputs, contexts_per_prompt, read_contexts
from szilard.engines.prompts import Prompt, as_batch, images_per_prompt
from szilard.engines.result import Result
from szilard.engines.streaming import streamed
from szilard.engines.tokenized import Tokenized
from szilard.engines.transformers_generate import check_needs
from szilard.options import check_number, nearest
from szilard.registry import make_attention, make_method

_GENERATION_FIELDS = frozenset(GenerationConfig().to_dict())
_FIXED = {"use_cache", "return_dict_in_generate", "custom_generate", "streamer"}
_INSTEAD = {
    "num_beams": "beams are a method: method=szilard.BeamSearch(beams=3).",
    "num_return_sequences": "give the prompt several times, as a batch.",
}


class Engine(Tokenized):
    """A model, its tokenizer and its device.

    Attributes:
        name: what was loaded, for tables.
        kind: "transformers" or "llama.cpp".
        tokenizer: a Hugging Face tokenizer.
        provides: what methods may need (see `Method.needs`).
    """

    kind: str
    provides: frozenset[str]
    device = torch.device("cpu")

    # ---- doors -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        method: str | type[Method] | Method | None = None,
        *,
        images: Any = None,
        context: Any = None,
        max_new_tokens: int = 128,
        seed: int | None = None,
        raw: bool = False,
        trace: bool | TraceRecorder = True,
        attention: str | type[ModelMethod] | ModelMethod | None = None,
        template: Any = None,
        stop: str | Sequence[str] | None = None,
        logits_processor: Sequence[Any] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        streamer: Any = None,
        **options: Any,
    ) -> Any:
        """Generate text.

        Args:
            prompt: text, a chat (list of `{"role", "content"}`), token ids (1-D tensor), or a list of these (a batch).
            method: a method object, class or name; None: greedy, or with `do_sample=True` sampling.
            images: for one prompt an image or a list of them (path, URL-free: PIL image or array); for a batch a list
                of those per prompt.
            context: what the prompt is about, put at the beginning of its first user turn: text, what
                `szilard.compress` gave, an entry of a `ContextStore`, or a list of these; for a batch one for all
                prompts, or a list with an entry per prompt.
            max_new_tokens: limit per row.
            seed: makes sampling repeatable: this run draws from a stream of its own, seeded with it.
            raw: continue the text as it is, without the model's chat template.
            trace: keep the step records; or a recorder that gets them.
            attention: a cache or attention method (object, class or name) that is open on the model meanwhile: short
                for method=szilard.Under(method, attention).
            stop: texts, or one; a row ends when it has written one of them (what the prompt says does not count). The
                text stays in the result.
            logits_processor, stopping_criteria, streamer: transformers' objects.
            options: any field of transformers' GenerationConfig (do_sample, temperature, top_p, repetition_penalty...).
                Sampling is off unless `do_sample=True`.

        Returns:
            A `Result`, or a list of them for a batch.

        Raises:
            ValueError: bad input, before any work starts: an empty or too long prompt, ids outside the vocabulary, an
                unknown method or option, images for a text model, a method that needs what this engine lacks.
        """
        check_number("seed", seed, low=0, high=2**63 - 1, integer=True, optional=True)
        if method is None:
            method = self.plain_method(bool(options.get("do_sample")))
            method = method.slug if method.slug == "sampling" else method  # takes its settings from the options
        chosen = method_with(method, options)
        if decoding_of(chosen).slug == "greedy" and options.get("do_sample"):
            raise ValueError("greedy never draws: leave the method out, or use 'sampling', with do_sample=True.")
        if (under := make_attention(attention)) is not None:
            chosen = Under(chosen, under)
        check_needs(chosen, self.provides, f"engine '{self.kind}' with {self.name}")
        prompts, single = as_batch(prompt)
        config = self._generation_config(max_new_tokens, options)
        found = None
        if context is None:
            inputs = self.encode(prompts, images=images_per_prompt(images, prompts, single), raw=raw)
        else:
            found = self._with_context(prompts, context, single, raw, chosen, images=images, template=template)
            inputs = found.inputs
        if template is not None:
            inputs |= self._encode_template(template, prompts, single)
        longest = max(map(len, inputs["template"])) if template is not None else config.max_new_tokens
        self.check_length(inputs, longest)
        if stop is not None:
            config.stop_strings = stop
        criteria = self._criteria(config, stopping_criteria)
        chosen.check(self)
        with torch.no_grad():
            state = self._run(
                chosen,
                inputs,
                config,
                logits_processor=LogitsProcessorList(logits_processor or []),
                stopping_criteria=criteria,
                streamer=streamer,
                recorder=trace if isinstance(trace, TraceRecorder) else TraceRecorder() if trace else None,
                generator=_generator(seed, self.device),
            )
        results = self._results(state, chosen, inputs, raw, found)
        return results[0] if single else results

    def stream(
        self, prompt: Prompt, method: str | type[Method] | Method | None = None, **options: Any
    ) -> Iterator[str]:
        """Generate for one prompt and yield its text piece by piece; closing the iterator stops the generation.

        The arguments are `generate`'s. When the iterator is exhausted its value (`StopIteration.value`, the result of
        `yield from`) is the `Result`.
        """
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        return streamed(self, prompt, method, options, streamer, streamer.text_queue)

    def state(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        raw: bool = False,
        trace: bool = True,
        **options: Any,
    ) -> DecodingState:
        """A decoding state on these prompts, for who writes the loop themself (see `szilard.DecodingState`)."""
        captured: list[DecodingState] = []
        prompts, _ = as_batch(prompt)
        config = self._generation_config(max_new_tokens, options)
        inputs = self.encode(prompts, raw=raw)
        self.check_length(inputs, config.max_new_tokens)
        self._run(
            captured.append,
            inputs,
            config,
            logits_processor=LogitsProcessorList(),
            stopping_criteria=self._criteria(config, None),
            streamer=None,
            recorder=TraceRecorder() if trace else None,
            generator=None,
        )
        return captured[0]

    def end_tokens(self) -> frozenset[int]:
        """Ids at which an answer of this model ends."""
        return frozenset(_as_list(self._generation_config(1, {}).eos_token_id or []))

    # ---- what an engine implements ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def context_window(self) -> int | None:
        """Longest prompt plus text in tokens; None when the model sets no bound."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Weights of the model."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short hash that tells these weights, in this precision, from others of the same name."""

    @abstractmethod
    def encode(
        self, prompts: Sequence[Prompt], *, images: list[list[Any]] | None = None, raw: bool = False
    ) -> dict[str, Any]:
        """Left-padded model inputs for a batch: at least `input_ids` and `attention_mask`, int64 [batch, width]."""

    @abstractmethod
    def _run(
        self,
        method: Any,
        inputs: dict[str, Any],
        config: GenerationConfig,
        *,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        streamer: Any,
        recorder: TraceRecorder | None,
        generator: torch.Generator | None,
    ) -> DecodingState:
        """Decode and return the finished state. `method` has `decode`, or is a function that takes the open state."""

    # ---- shared parts ----------------------------------------------------------------------------------------

    def plain_method(self, do_sample: bool) -> Method:
        """What runs when no method is named."""
        return make_method("sampling" if do_sample else "greedy")

    def _encode_template(self, template: Any, prompts: Sequence[Prompt], single: bool) -> dict[str, Any]:
        """The answers' ids with their open places, for models that fill a canvas."""
        raise ValueError(
            f"{self.name} writes from left to right and cannot fill a template: take a masked diffusion model, or "
            "leave the template out."
        )

    def _with_context(
        self, prompts: Sequence[Prompt], context: Any, single: bool, raw: bool, method: Method, **others: Any
    ) -> ContextInputs:
        """The prompts with their contexts as model inputs.

        Raises:
            ValueError: beside pictures or a template.
        """
        for name, value in others.items():
            if value is not None:
                raise ValueError(f"context and {name} do not go together: put the context into the prompt's text.")
        return read_contexts(
            self,
            prompts,
            contexts_per_prompt(context, prompts, single),
            raw=raw,
            # who reads the whole prompt's states, or stores other things than every token, reads it anew
            use_stored=not isinstance(method, Under) and "hidden_states" not in method.needs,
        )

    def _generation_config(self, max_new_tokens: int, options: dict[str, Any]) -> GenerationConfig:
        for name in options:
            if name in _INSTEAD:
                raise ValueError(f"generate has no option {name!r}: {_INSTEAD[name]}")
            if name not in _GENERATION_FIELDS or name in _FIXED:
                raise ValueError(
                    f"generate has no option {name!r}{nearest(name, _GENERATION_FIELDS - _FIXED)} Hyperparameters of a "
                    "method go into the method, as in szilard.Lead(window=64)."
                )
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens!r}.")
        base = getattr(getattr(self, "model", None), "generation_config", None)
        settings: dict[str, Any] = {} if base is None else base.to_dict()
        settings |= {"do_sample": False, "num_beams": 1, "use_cache": True}
        settings |= {"max_new_tokens": max_new_tokens, "max_length": None}
        if options.get("do_sample"):  # with the settings that the model comes with, as in `generate`
            if settings.get("top_k") is None:
                settings["top_k"] = 0  # all tokens, where transformers would cut to 50
        else:
            settings |= dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "typical_p"))
        config = GenerationConfig.from_dict(settings | options)
        if config.eos_token_id is None:
            config.eos_token_id = self.tokenizer.eos_token_id
        if config.pad_token_id is None:
            config.pad_token_id = self._pad_token_id
        return config

    def _criteria(self, config: GenerationConfig, given: Sequence[Any] | None) -> StoppingCriteriaList:
        """The caller's stopping criteria, and one for the stop texts, which leave the configuration."""
        criteria = StoppingCriteriaList(given or [])
        stop, config.stop_strings = config.stop_strings, None
        if stop is None:
            return criteria
        texts = tuple(stop) if isinstance(stop, (list, tuple)) else (stop,)
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"stop must be text or a list of texts, not {stop!r}.")
        if texts:
            criteria.append(InNewText(self.stop_criterion(texts)))
        return criteria

    def check_length(self, inputs: Mapping[str, Any], max_new_tokens: int) -> None:
        longest, window = int(inputs["attention_mask"].sum(1).max()), self.context_window
        if window is not None and longest >= window:
            raise ValueError(
                f"the prompt has {longest} tokens, but {self.name} has a context window of {window}: shorten it."
            )
        if window is not None and longest + max_new_tokens > window:
            raise ValueError(
                f"the prompt's {longest} tokens and max_new_tokens={max_new_tokens} exceed the context window of "
                f"{self.name}, {window}: at most {window - longest} new tokens fit."
            )

    def _results(
        self,
        state: DecodingState,
        method: Method,
        inputs: Mapping[str, Any],
        raw: bool,
        found: ContextInputs | None = None,
    ) -> list[Result]:
        rows = state.generated_tokens()
        if "input_ids" in inputs:
            pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            prompts = [ids[mask.bool()].tolist() for ids, mask in pairs]
        else:
            prompts = [[]] * len(rows)  # vectors
        before = [self._read_before(prompt) if raw else [] for prompt in prompts]
        trace = state.trace.finish(self._decode_all, before) if state.trace is not None else None
        results = []
        for index, tokens in enumerate(rows):
            limit = state.max_new_tokens
            eos = _as_list(state_eos(state))
            at_limit = limit is not None and len(tokens) >= limit and (not tokens or tokens[-1] not in eos)
            results.append(
                Result(
                    text=self._decode_after(before[index], tokens),
                    tokens=tokens,
                    finish_reason="length" if at_limit else "stop",
                    method=method,
                    prompt=self.tokenizer.decode(prompts[index]) if found is None else found.asked[index],
                    prompt_tokens=len(prompts[index]) if found is None else found.lengths[index],
                    trace=None if trace is None else trace.row(index),
                    cost=state.cost,
                )
            )
        return results

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {self.parameter_count / 1e6:.0f} M parameters>"


def state_eos(state: DecodingState) -> Any:
    """Ids that end a row in this run, from its stopping criteria."""
    for criterion in state.stopping_criteria:
        if hasattr(criterion, "eos_token_id"):
            return criterion.eos_token_id
    return []


def _as_list(tokens: Any) -> list[int]:
    if isinstance(tokens, torch.Tensor):
        return tokens.flatten().tolist()
    return [tokens] if isinstance(tokens, int) else list(tokens)


def _generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    """A random stream of the run's own, so that seeded runs in several threads do not disturb one another."""
    return None if seed is None else torch.Generator(device=device).manual_seed(seed)
