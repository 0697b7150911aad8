"""Masked diffusion models by name: official layouts, folders of our own, and what the engine makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import szilard
from szilard.diffusion.canvas_model import MaskedDiffusionConfig
from szilard.diffusion.engine import DiffusionEngine
from tests.diffusion.test_checkpoints import DREAM, LLADA, dream_weights, llada_weights, write
from tests.diffusion.tiny import EOS, MASK, PROMPTS, tiny_engine, tiny_model, tokenizer


def saved(folder: Path, **changes: Any) -> Path:
    """A folder of a stock model that says that it is one of diffusion."""
    model = tiny_model().float()
    model.config.masked_diffusion = {"mask_token_id": MASK, "eos_token_id": EOS} | changes
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_folder_that_says_so_is_a_diffusion_model(tmp_path: Path) -> None:
    engine = szilard.load(saved(tmp_path))
    assert isinstance(engine, DiffusionEngine)
    assert engine.config == MaskedDiffusionConfig(MASK, EOS)
    mine = DiffusionEngine(tiny_model().float(), tokenizer(), engine.config)
    assert engine.generate("w5 w6", max_new_tokens=8).tokens == mine.generate("w5 w6", max_new_tokens=8).tokens


def test_a_mask_outside_the_vocabulary_is_refused_when_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mask_token_id must be a token id below 64"):
        szilard.load(saved(tmp_path, mask_token_id=64))


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_official_layouts_fill_canvases(tmp_path: Path, kind: str) -> None:
    if kind == "llada":
        write(tmp_path, LLADA, llada_weights(LLADA, torch.float32))
    else:
        write(tmp_path, DREAM, dream_weights())
    words = tokenizer()
    words.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    engine = szilard.load(tmp_path, dtype="float32")
    assert isinstance(engine, DiffusionEngine)
    assert engine.config.shift_logits == (kind == "dream")
    prompt = torch.tensor([5, 6, 7])
    plain = engine.generate(prompt, max_new_tokens=8)
    cached = engine.generate(prompt, szilard.TopKUnmask(block_length=1), attention="dual-cache", max_new_tokens=8)
    again = engine.generate(prompt, szilard.TopKUnmask(block_length=1), max_new_tokens=8)
    assert plain.tokens and cached.tokens == again.tokens


def test_the_model_of_an_engine_reads_both_ways() -> None:
    engine = tiny_engine()
    ids = torch.tensor([[5, 6, 7, 8]])
    changed = ids.clone()
    changed[0, 3] = 9
    with torch.no_grad():
        first, second = (engine.model(one).logits[0, 0] for one in (ids, changed))
    assert not torch.allclose(first, second)


def test_a_stream_that_is_closed_stops_the_run() -> None:
    engine = tiny_engine(eos=None)
    stream = engine.stream(PROMPTS[0], szilard.TopKUnmask(), max_new_tokens=64)
    assert next(stream).round == 1
    stream.close()


def test_a_stream_tells_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        next(tiny_engine().stream("", szilard.TopKUnmask()))
    with pytest.raises(ValueError, match="one prompt"):
        next(tiny_engine().stream(["w5", "w6"]))


def test_the_finish_reason_tells_whether_the_text_ended() -> None:
    engine = tiny_engine(eos=None)
    assert engine.generate(PROMPTS[0], max_new_tokens=4).finish_reason == "length"
