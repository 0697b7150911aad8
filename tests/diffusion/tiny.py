"""A tiny model with random weights that fills canvases, in float64."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from szilard.diffusion.canvas_model import MaskedDiffusionConfig
from szilard.diffusion.engine import DiffusionEngine

VOCAB, MASK, EOS = 64, 63, 1
PROMPTS = [torch.tensor([5, 6, 7, 8, 9]), torch.tensor([10, 11, 12]), torch.tensor([13, 14, 15, 16])]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word per token."""
    words = {f"w{number}": number for number in range(VOCAB)}
    backend = Tokenizer(WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def tiny_model(family: str = "llama", layers: int = 3, seed: int = 0) -> Any:
    """Random weights, large enough that the model is sometimes sure."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.3, "pad_token_id": 0}
    shape |= {"bos_token_id": None, "eos_token_id": EOS}
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**shape, n_embd=32, n_layer=layers, n_head=4, n_positions=128)).double()
    shape |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config, cls = kinds[family]
    return cls(config(**shape)).double()


def tiny_engine(
    family: str = "llama", *, layers: int = 3, shift: bool = False, seed: int = 0, eos: int | None = EOS
) -> DiffusionEngine:
    """An engine on it."""
    config = MaskedDiffusionConfig(MASK, eos_token_id=eos, shift_logits=shift)
    return DiffusionEngine(tiny_model(family, layers, seed), tokenizer(), config, name=f"tiny {family}")


class Table:
    """A model that gives the same logits whatever stands in the canvas, for rules to be tried on.

    Args:
        probabilities: of the likeliest token per answer column; the rest is spread over the others.
        tokens: the likeliest tokens.
        prompt: columns of the prompt.
    """

    caches = False
    vocab_size = VOCAB

    def __init__(self, probabilities: list[float], tokens: list[int] | None = None, *, prompt: int = 1) -> None:
        from szilard.decoding.cost import ModelSize

        self.config = MaskedDiffusionConfig(MASK, eos_token_id=EOS)
        self.size = ModelSize("table", 1, 1, 1, 1)
        self.prompt = prompt
        self.looks = 0
        count = len(probabilities)
        tokens = tokens if tokens is not None else [2 + place % 40 for place in range(count)]
        p = torch.tensor(probabilities, dtype=torch.float64)
        self.logits = ((1 - p) / (VOCAB - 2)).log()[:, None].repeat(1, VOCAB)
        self.logits[torch.arange(count), torch.tensor(tokens)] = p.log()

    def predict(self, tokens: torch.Tensor, real: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        self.looks += 1
        return self.logits[wanted - self.prompt].clone()
