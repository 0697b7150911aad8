"""The llama.cpp engine: GGUF files as they are, quantised, fast on a CPU.

Tokens and prompts are the Hugging Face tokenizer's (made from the same file), processors and stopping criteria are
transformers' own in the order of `generate`, and the forward passes are llama.cpp's, through its batch interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
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

from szilard.decoding.cost import ModelSize
from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.state import DecodingState
from szilard.engines.engine import Engine
from szilard.engines.gguf import check_gguf, embeddings_of, has_tensor, tokenizer_of
from szilard.engines.llama_cpp_context import probe
from szilard.engines.llama_cpp_state import LlamaCppState
from szilard.engines.prompts import Prompt

_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_CACHE_BYTES = 2  # float16 keys and values
_NEEDED = ("llama_memory_seq_rm", "llama_memory_seq_cp", "llama_get_memory", "llama_state_get_data")


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


class LlamaModel:
    """The weights in llama.cpp's hands, and the figures that the rest needs. Freed when nothing refers to it.

    Attributes:
        lib: the `llama_cpp` module.
        threads: of a forward.
        context_window: longest row, tokens.
        hidden_size: width of the input embeddings.
        input_width: floats that llama.cpp reads per input vector (more than `hidden_size` in some vision models).
        position_axes: positions it reads per input vector (4 with multimodal rotary positions).
        most_sequences: sequences that one context can hold.
        can_rewind: whether the cache can forget its tail (not with recurrent layers).
        stop_tokens: end of text and end of turn.
        end_tokens: what llama.cpp takes for an end of generation beside them (Qwen: <|endoftext|>, <|file_sep|>, ...);
            some may be words (Qwen: </s>, which also ends struck-out HTML).
        provides: see `Engine`.
    """

    def __init__(self, path: Path, name: str, threads: int) -> None:
        check_gguf(path)
        lib, self.log = _library()
        self.lib: Any = lib
        self.path, self.name, self.threads = path, name, threads
        self.log.clear()
        self.pointer = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.pointer:
            raise ValueError(f"llama.cpp cannot load {str(path)!r}: {self.log.text() or 'unknown reason'}.")
        weakref.finalize(self, lib.llama_model_free, self.pointer)
        if lib.llama_model_has_encoder(self.pointer) or not lib.llama_model_has_decoder(self.pointer):
            raise ValueError(f"{name} is not a decoder-only model; szilard decodes decoder-only models.")
        vocabulary = lib.llama_model_get_vocab(self.pointer)
        self.vocab_size = int(lib.llama_vocab_n_tokens(vocabulary))
        self.stop_tokens = [
            int(token) for token in (lib.llama_vocab_eos(vocabulary), lib.llama_vocab_eot(vocabulary)) if token >= 0
        ]
        self.end_tokens = [token for token in range(self.vocab_size) if lib.llama_vocab_is_eog(vocabulary, token)]
        self.parameter_count = int(lib.llama_model_n_params(self.pointer))
        self.context_window = int(lib.llama_model_n_ctx_train(self.pointer))
        self.hidden_size = int(lib.llama_model_n_embd(self.pointer))
        width = getattr(lib, "llama_model_n_embd_inp", lib.llama_model_n_embd)
        self.input_width = int(width(self.pointer))
        multimodal = {getattr(lib, f"LLAMA_ROPE_TYPE_{kind}", None) for kind in ("MROPE", "IMROPE")}
        self.position_axes = 4 if int(lib.llama_model_rope_type(self.pointer)) in multimodal else 1
        self.most_sequences = int(lib.llama_max_parallel_sequences())
        recurrent, hybrid = lib.llama_model_is_recurrent, getattr(lib, "llama_model_is_hybrid", None)
        self.can_rewind = not (recurrent(self.pointer) or (hybrid is not None and hybrid(self.pointer)))

        offers = {"logits", "embeddings_in", "rewind", "fork"}
        if not self.can_rewind:
            offers.discard("rewind")
        if self._number("embedding_length_per_layer_input"):
            offers.discard("embeddings_in")  # Gemma 3n: per-layer embeddings are looked up by id
        self.provides = frozenset(offers)

    @cached_property
    def size(self) -> ModelSize:
        """The figures that the cost counts need."""
        layers = int(self.lib.llama_model_n_layer(self.pointer))
        heads = int(self.lib.llama_model_n_head(self.pointer))
        kv_heads = int(self.lib.llama_model_n_head_kv(self.pointer))
        key = self._number("attention.key_length") or self.hidden_size // max(heads, 1)
        value = self._number("attention.value_length") or key
        tied = not has_tensor(self.path, "output.weight")  # then the embeddings are the output layer, too
        return ModelSize(
            name=f"llama.cpp:{self._text('general.architecture')}",
            layers=layers,
            layer_parameters=self.parameter_count - (0 if tied else self.vocab_size * self.hidden_size),
            attention_width=heads * (key + value) // 2,
            kv_bytes_per_token=layers * kv_heads * (key + value) * _CACHE_BYTES,
        )

    @cached_property
    def embedding_matrix(self) -> torch.Tensor:
        """Input embeddings as stored, de-quantised, float32 [vocab, hidden]; memory-mapped.

        Raises:
            ValueError: the `gguf` package is missing, or the file holds none of this width.
        """
        weight = torch.from_numpy(embeddings_of(self.path))
        if weight.shape != (self.vocab_size, self.hidden_size):
            raise ValueError(
                f"the input embeddings of {self.name} have the shape {tuple(weight.shape)}, but its inputs "
                f"{(self.vocab_size, self.hidden_size)}: use a method that does not need 'embeddings_in'."
            )
        return weight

    @cached_property
    def embedding_scale(self) -> float:
        """What a row of `embedding_matrix` must be multiplied with so that feeding it is feeding the token.

        Gemma's graph scales by sqrt(hidden): in some of its generations every input, in others tokens only. So it is
        measured: two tokens are fed as tokens and as vectors, and the scale that gives the same logits is taken.

        Raises:
            ValueError: none does.
        """
        weight = self.embedding_matrix
        candidates = [index for index in range(self.vocab_size // 7, self.vocab_size, 101) if bool(weight[index].any())]
        pair = torch.tensor((candidates * 2)[:2])
        with probe(self) as logits:
            wanted = logits(tokens=pair.numpy())
            for scale in (1.0, math.sqrt(self.hidden_size)):
                vectors = torch.zeros(2, self.input_width)
                vectors[:, : self.hidden_size] = weight[pair] * scale
                if float((logits(embeddings=vectors) - wanted).abs().max()) < 0.05 * float(wanted.std()):
                    return scale
        raise ValueError(
            f"feeding llama.cpp the token embeddings of {self.name} is not feeding it the tokens, so mixtures of them "
            "are not defined: use a method that does not need 'embeddings_in'."
        )

    def _text(self, key: str) -> str:
        """A value of the file's metadata; empty when there is none."""
        buffer = ctypes.create_string_buffer(256)
        length = self.lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    def _number(self, key: str) -> int:
        """A whole number of the architecture's metadata; 0 when there is none."""
        text = self._text(f"{self._text('general.architecture')}.{key}")
        return int(text) if text.isdigit() else 0


class _Log:
    """llama.cpp's messages: kept off the terminal; its last errors are remembered for our own."""

    def __init__(self, lib: Any) -> None:
        self._errors: deque[str] = deque(maxlen=8)
        self._callback = lib.llama_log_callback(self._take)  # must live as long as the library
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            self._errors.append(text.decode("utf-8", "replace").strip())

    def clear(self) -> None:
        """Forget the errors so far."""
        self._errors.clear()

    def text(self) -> str:
        """The first error since then (the later ones only pass it on), on one line, without the function's name."""
        first = self._errors[0] if self._errors else ""
        return " ".join(first.rpartition(": ")[2].split()).rstrip(".")


@cache
def _library() -> tuple[Any, _Log]:
    """The `llama_cpp` module, initialised and silent.

    Raises:
        ValueError: it is missing, or too old.
    """
    try:
        import llama_cpp
    except ModuleNotFoundError:
        raise ValueError("the llama.cpp engine needs llama-cpp-python: pip install 'szilard[llama]'") from None
    fields = {field[0] for field in llama_cpp.llama_context_params._fields_}
    if (
        not all(hasattr(llama_cpp, name) for name in _NEEDED)
        or not {"kv_unified", "swa_full", "flash_attn_type"} <= fields
    ):
        raise ValueError("this llama-cpp-python is too old for the llama.cpp engine: pip install -U 'szilard[llama]'")
    log = _Log(llama_cpp)
    llama_cpp.llama_backend_init()
    return llama_cpp, log


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
