"""The encoder of chunks: any model of transformers with its tokenizer, as one module that is saved as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

SMALL = "small"
_TEXTS_AT_ONCE = 512
_NOISE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


class TextEncoder(nn.Module):
    """M_enc: texts -> one vector each, [texts, d_e]. What a text gives does not depend on those beside it.

    The tokenizer is a buffer of bytes, so that weights and tokenizer are one file, with one hash.

    Args:
        config: of the model, as `PretrainedConfig.to_dict` gives it.
        tokenizer_bytes: of the tokenizer's JSON.
        pooling: which state of the last layer: "first" ([CLS]), "mean", or "last" (of models that look back only).
        longest: tokens of a text; longer ones are cut.
    """

    def __init__(self, config: dict[str, Any], tokenizer_bytes: int, pooling: str, longest: int) -> None:
        super().__init__()
        settings = dict(config)
        made: PretrainedConfig = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.model: Any = AutoModel.from_config(made, dtype=torch.float32)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # its weights would never learn
        self.pooling, self.longest = pooling, longest
        self.width = int(made.hidden_size)
        self.pad = int(made.pad_token_id or 0)
        self.tokenizer_json: torch.Tensor
        self.register_buffer("tokenizer_json", torch.zeros(tokenizer_bytes, dtype=torch.uint8))
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Read from its bytes when it is first asked for."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_str(bytes(self.tokenizer_json.tolist()).decode())
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.longest + self._tokenizer.num_special_tokens_to_add(False))
        return self._tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, with the special tokens of this encoder; never none."""
        return [found.ids or [self.pad] for found in self.tokenizer.encode_batch_fast(list(texts))]

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """float32 [rows, d_e] of tokenized texts. Rows of like length are read together."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        parts = [
            self._read([rows[row] for row in order[first : first + _TEXTS_AT_ONCE]])
            for first in range(0, len(order), _TEXTS_AT_ONCE)
        ]
        return torch.cat(parts)[torch.tensor(order, device=parts[0].device).argsort()]

    def _read(self, rows: list[Sequence[int]]) -> torch.Tensor:
        device = self.tokenizer_json.device
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.pad] * (longest - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(longest, device=device) < lengths[:, None]
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            return states[torch.arange(len(rows), device=device), lengths - 1]
        return (states * mask[..., None]).sum(1) / lengths[:, None]


def open_encoder(name: str, decoder_tokenizer: Any, *, longest: int, width: int, layers: int) -> tuple[Any, str]:
    """A pretrained model and its tokenizer's JSON; or, for "small", a new one that reads the decoder's tokens.

    Args:
        name: folder, hub id, or "small".
        decoder_tokenizer: of the decoder, for "small".
        longest: tokens of a text, for "small".
        width, layers: of "small".

    Raises:
        ValueError: no such model, one that reads and writes (an encoder-decoder), or a tokenizer without JSON.
    """
    if name == SMALL:
        config = BertConfig(
            vocab_size=len(decoder_tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 32),
            intermediate_size=4 * width,
            max_position_embeddings=longest + 8,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return AutoModel.from_config(config, dtype=torch.float32), _json(decoder_tokenizer, "the decoder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"no encoder under {name!r} ({reason}); give a folder, a hub id, or {SMALL!r} for a new small one."
        ) from error
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name!r} reads and writes; an encoder of chunks only reads: give one like RoBERTa.")
    return model, _json(tokenizer, repr(name))


def bare_config(model: Any) -> dict[str, Any]:
    """What makes the model again, without where it came from."""
    return {name: value for name, value in model.config.to_dict().items() if name not in _NOISE and value is not None}


def fitting_pooling(pooling: str, config: dict[str, Any]) -> str:
    """ "auto" as what fits the model.

    Raises:
        ValueError: the first state of a model that looks back only, which has seen nothing.
    """
    kind = config["model_type"]
    back_only = kind in CAUSAL and kind not in MASKED
    if pooling == "first" and back_only:
        raise ValueError(f"the first state of a {kind} model has seen nothing of its text: take pooling 'last'.")
    return ("last" if back_only else "first") if pooling == "auto" else pooling


def _json(tokenizer: Any, what: str) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"the tokenizer of {what} cannot be written as JSON, as an encoder's must be: take another.")
    return backend.to_str()
