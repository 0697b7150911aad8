"""A GGUF file in llama.cpp's hands: the weights, the figures that the engine needs, and llama.cpp's messages."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import deque
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from szilard.decoding.cost import ModelSize
from szilard.engines.gguf import check_gguf, embeddings_of, has_tensor
from szilard.engines.llama_cpp_context import probe

_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_CACHE_BYTES = 2  # float16 keys and values
_NEEDED = ("llama_memory_seq_rm", "llama_memory_seq_cp", "llama_get_memory", "llama_state_get_data")


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
