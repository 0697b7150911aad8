"""The door inside plain transformers: what happens when a method is given as `generate(custom_generate=...)`."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, GenerationMixin
from transformers.generation import GenerateDecoderOnlyOutput

from szilard.decoding.cost import Cost
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.trace import Trace
from szilard.engines.model_use import running_on
from szilard.engines.transformers_state import TransformersState
from szilard.engines.visual_names import VISUAL_TOKENS

if TYPE_CHECKING:
    from szilard.decoding.method import Method


@dataclass
class GenerateOutput(GenerateDecoderOnlyOutput):
    """What `generate` returns with `return_dict_in_generate=True`, plus the method's trace and cost."""

    trace: Trace | None = None
    cost: Cost | None = None


def run_inside_generate(
    method: Method,
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool,
    streamer: Any,
    model_kwargs: dict[str, Any],
) -> torch.Tensor | GenerateOutput:
    """Decode with `method` in the place of `_sample`; see `Method.__call__`."""
    as_dict = bool(generation_config.return_dict_in_generate)
    method = method.with_assistant(_of_caller("assistant_model"))
    state = open_state(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        model_kwargs,
        synced_gpus=synced_gpus,
        streamer=streamer if streamer is not None else _of_caller("streamer"),
        trace=TraceRecorder() if as_dict else None,
        encode=lambda text: _encode_with_models_tokenizer(model, text),
        decode=_decoder_beside(model),
    )
    check_needs(method, provided_by(model), f"{type(model).__name__} on transformers")
    if state.model.config.get_text_config() is not model.config:
        state.visual_names = visual_names(model, _tokenizer_beside(getattr(model, "name_or_path", "") or ""))
    decode(method, state)
    if not as_dict:
        return state.sequences
    return GenerateOutput(
        sequences=state.sequences,  # type: ignore[arg-type]
        scores=_as_tuple(state.scores),
        logits=_as_tuple(state.raw_logits),
        attentions=_as_tuple(state.attentions),
        hidden_states=_as_tuple(state.hidden_states),
        past_key_values=state.cache,
        trace=state.trace.finish() if state.trace is not None else None,
        cost=state.cost,
    )


def decode(method: Method, state: TransformersState) -> None:
    """Run a method to its end; one that changes the model has it to itself meanwhile."""
    with running_on(state.model, alone=method.changes_model):
        try:
            method.decode(state)
        finally:
            state.finish()


def open_state(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    model_kwargs: dict[str, Any],
    *,
    synced_gpus: bool = False,
    **base: Any,
) -> TransformersState:
    """A decoding state from the arguments that `generate` prepares; refuses what the state cannot carry."""
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder model; szilard decodes decoder-only models.")
    if not hasattr(model, "_prefill"):
        raise ValueError("this version of transformers has no `_prefill`; szilard needs transformers 5.20 or newer.")
    if model_kwargs.get("use_cache") is False:
        raise ValueError("use_cache=False: every szilard method keeps a cache; call generate with use_cache=True.")
    if generation_config.num_beams and generation_config.num_beams > 1:
        raise ValueError(
            f"num_beams={generation_config.num_beams}: szilard methods do not search beams; use num_beams=1."
        )
    if synced_gpus:
        raise ValueError("synced_gpus=True (FSDP / ZeRO-3 generation) is not supported; gather the model first.")
    as_dict = bool(generation_config.return_dict_in_generate)
    return TransformersState(
        model,
        input_ids,
        generation_config,
        dict(model_kwargs),
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        keep_scores=as_dict and bool(generation_config.output_scores),
        keep_logits=as_dict and bool(generation_config.output_logits),
        **base,
    )


def provided_by(model: Any) -> frozenset[str]:
    """What a transformers model offers to methods, in the words of `Method.needs`."""
    offers = {"logits", "embeddings_in", "hidden_states", "rewind", "fork", "attention"}
    if getattr(model.config, "vision_config", None) is not None:
        offers.add("vision")
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):
        offers.discard("embeddings_in")  # Gemma 3n: per-layer embeddings are looked up by id
    return frozenset(offers)


def check_needs(method: Any, provided: frozenset[str], engine: str) -> None:
    """Refuse a method whose needs the engine lacks, naming both.

    Raises:
        ValueError: something is missing.
    """
    missing = sorted(method.needs - provided)
    if missing:
        raise ValueError(
            f"method '{method.slug}' needs {', '.join(missing)}, which {engine} cannot give "
            f"(it gives {', '.join(sorted(provided))})."
        )


def _of_caller(name: str) -> Any:
    """An argument of the `generate` call that runs us (`streamer`, `assistant_model`), if any.

    transformers 5.x builds the arguments of a callable `custom_generate` from its extra parameters alone and so drops
    these, although it has already put the prompt into the streamer. They are still locals of the calling frame.
    """
    frame = sys._getframe(1)
    generate_code = getattr(GenerationMixin.generate, "__wrapped__", GenerationMixin.generate).__code__
    for _ in range(4):
        if frame is None:
            return None
        if frame.f_code is generate_code:
            return frame.f_locals.get(name)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def visual_names(model: Any, tokenizer: Any) -> list[int]:
    """Ids of visual special tokens that only the tokenizer knows by name; empty for a text model or no tokenizer."""
    if tokenizer is None or "vision" not in provided_by(model):
        return []
    known = tokenizer.get_vocab()
    return [known[name] for name in VISUAL_TOKENS if name in known]


def tokenizer_beside(model: Any) -> Any:
    """The tokenizer that lies beside a model's weights, if it can be had without the network; else None."""
    return _tokenizer_beside(getattr(model, "name_or_path", "") or "")


@lru_cache(maxsize=8)
def _tokenizer_beside(name: str) -> Any:
    """The tokenizer that lies beside the weights of this name, if it can be had without the network."""
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True) if name else None
    except Exception:
        return None


def _encode_with_models_tokenizer(model: Any, text: str) -> list[int]:
    """Ids of `text` from the tokenizer that lies beside the model's weights.

    Raises:
        LookupError: none is found there without going to the network.
    """
    tokenizer = _tokenizer_beside(getattr(model, "name_or_path", "") or "")
    if tokenizer is None:
        warnings.warn(
            "the model comes without a tokenizer, so markers given as text (such as '</think>') cannot be found in "
            "its output: give them as token ids, or None for models that have no such marker.",
            stacklevel=6,
        )
        raise LookupError("no tokenizer")
    return tokenizer.encode(text, add_special_tokens=False)


def _decoder_beside(model: Any) -> Any:
    tokenizer = tokenizer_beside(model)
    return None if tokenizer is None else lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def _as_tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
