"""The llama.cpp engine: GGUF files as they are, quantised, fast on a CPU.

Tokens and prompts are the Hugging Face tokenizer's (made from the same file), processors and stopping criteria are
transformers' own in the order of `generate`, and the forward passes are llama.cpp's, through its batch interface.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PretrainedConfig,
    StoppingCriteriaList,
)

from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.state import DecodingState
from szilard.engines.engine import Engine
from szilard.engines.gguf import tokenizer_of
from szilard.engines.llama_cpp_model import LlamaModel
from szilard.engines.llama_cpp_state import LlamaCppState
from szilard.engines.prompts import Prompt


class LlamaCppEngine(Engine):
    """Runs a GGUF file with llama.cpp; `szilard.load(..., engine="llama.cpp")` builds one.

    Args:
        path: the file.
        name: what to call it in tables; None: the file's name.
        context_window: largest context in tokens; None: the model's own.
        threads: processor threads of a forward; None: the cores available to this process.

    Raises:
        ValueError: no such file, no GGUF or a damaged one, a model that does not decode, llama-cpp-python is missing,
            or a context window that the model does not have.
    """

    kind = "llama.cpp"

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        context_window: int | None = None,
        threads: int | None = None,
    ) -> None:
        for what, value in (("context_window", context_window), ("threads", threads)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{what} must be a whole number of at least 1, not {value!r}.")
        path = Path(path)
        self.name = name or path.stem
        self._model = LlamaModel(path, self.name, threads or _available_cores())
        if context_window is not None:
            if context_window > self._model.context_window:
                raise ValueError(
                    f"context_window={context_window} is more than the {self._model.context_window} tokens that "
                    f"{self.name} was trained for."
                )
            self._model.context_window = context_window
        self.tokenizer = tokenizer_of(path)
        self.provides = self._model.provides

    @property
    def context_window(self) -> int:
        return self._model.context_window

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        with self._model.path.open("rb") as file:
            size = file.seek(0, 2)
            found = hashlib.sha256(f"llama.cpp {size}".encode())
            for start in range(0, size, max(1 << 16, size // 16)):  # a piece from each sixteenth of the file
                file.seek(start)
                found.update(file.read(1 << 16))
        return found.hexdigest()[:12]

    @property
    def parameter_count(self) -> int:
        return self._model.parameter_count

    def encode(
        self, prompts: Sequence[Prompt], *, images: list[list[Any]] | None = None, raw: bool = False
    ) -> dict[str, Any]:
        if any(images or []):
            raise ValueError(f"{self.name} is a text model and cannot take images; use an image-text model.")
        return self._encode_text(prompts, raw)

    def _generation_config(self, max_new_tokens: int, options: dict[str, Any]) -> GenerationConfig:
        config = super()._generation_config(max_new_tokens, options)
        if options.get("eos_token_id") is None:
            added = self.tokenizer.added_tokens_decoder
            ends = [token for token in self._model.end_tokens if token in added and added[token].special]
            stops = dict.fromkeys([self.tokenizer.eos_token_id, *self._model.stop_tokens, *ends])
            config.eos_token_id = [token for token in stops if token is not None] or None
        for option, neutral in (("guidance_scale", 1), ("token_healing", False)):
            if getattr(config, option, None) not in (None, neutral):
                raise ValueError(f"{option} needs the model in PyTorch; use engine='transformers'.")
        return config

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
        if "embeddings_in" in getattr(method, "needs", ()):
            _ = self._model.embedding_scale  # a model that cannot be fed vectors is refused before any work
        prompt, mask = inputs["input_ids"], inputs["attention_mask"]
        if streamer is not None:
            streamer.put(prompt.cpu())
        processors, criteria, config = _Preparation(self._model).prepare(
            prompt, mask, config, logits_processor, stopping_criteria, self.tokenizer
        )
        state = LlamaCppState(
            self._model,
            prompt,
            mask,
            logits_processor=processors,
            stopping_criteria=criteria,
            do_sample=bool(config.do_sample),
            pad_token_id=int(config.pad_token_id or 0),
            streamer=streamer,
            trace=recorder,
            generator=generator,
            encode=self._encode_marker,
            decode=self._decode_all,
        )
        if not callable(getattr(method, "decode", None)):
            method(state)
            return state
        try:
            with _one_torch_thread():
                method.decode(state)
        finally:
            state.finish()
            state.close()
        return state


class _Preparation(GenerationMixin):
    """The steps of transformers' `generate` between the configuration and the decoding loop, without its model."""

    def __init__(self, model: LlamaModel) -> None:
        facts: dict[str, Any] = {"vocab_size": model.vocab_size, "max_position_embeddings": model.context_window}
        self.config = PretrainedConfig(**facts)
        self.generation_config = GenerationConfig()

    @property
    def device(self) -> torch.device:
        """Where tokens and logits live."""
        return torch.device("cpu")

    def prepare(
        self,
        prompt: torch.Tensor,
        mask: torch.Tensor,
        config: GenerationConfig,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        tokenizer: Any,
    ) -> tuple[LogitsProcessorList, StoppingCriteriaList, GenerationConfig]:
        """Processors, criteria and the completed configuration of a run; the arguments are left as they are."""
        mixin: Any = self  # transformers types these for its models
        batch, width = prompt.shape
        no_min_length = config.min_length is None
        config, _ = mixin._prepare_generation_config(config)
        mixin._prepare_special_tokens(config, True, device=self.device, batch_size=batch)
        config = mixin._prepare_generated_length(
            generation_config=config,
            has_default_max_length=True,
            has_default_min_length=no_min_length,
            model_input_name="input_ids",
            inputs_tensor=prompt,
            input_ids_length=width,
        )
        processors = mixin._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=width,
            encoder_input_ids=prompt,
            logits_processor=logits_processor,
            device=self.device,
            model_kwargs={"attention_mask": mask},
        )
        criteria = mixin._get_stopping_criteria(
            generation_config=config, stopping_criteria=stopping_criteria, tokenizer=tokenizer
        )
        return processors, criteria, config


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """PyTorch's worker threads spin after each of the few small operations of a step, on the cores llama.cpp needs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
