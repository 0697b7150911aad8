"""Learn2PD in decoding: its oracle, the rows that it leaves, and the filter as a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import szilard
from szilard.diffusion.fill import fill
from szilard.diffusion.learn2pd.collect import collect_egp_rows
from szilard.diffusion.learn2pd.config import FilterConfig
from szilard.diffusion.learn2pd.filter import BlockFilter
from szilard.diffusion.learn2pd.oracle import EgpOracle
from szilard.diffusion.learn2pd.training import train_filter
from tests.diffusion.tiny import EOS, MASK, PROMPTS, VOCAB, Table, tiny_engine

LENGTH, BLOCK = 16, 8


def answers(engine: Any) -> list[list[int]]:
    state = fill(
        engine.canvas_model, torch.stack([PROMPTS[0]] * 2), szilard.TopKUnmask(block_length=BLOCK), length=LENGTH
    )
    return [state.canvas(row) for row in range(2)]


def filter_of(engine: Any, bias: float) -> BlockFilter:
    """A filter that accepts everything, or nothing."""
    base = {"name": engine.name, "fingerprint": engine.fingerprint, "hidden_size": 32, "vocab_size": VOCAB}
    made = BlockFilter(base, MASK, BLOCK)
    for parameter in made.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(made.net[2].bias, bias)
    return made


def test_the_oracle_writes_its_reference_in_fewer_rounds() -> None:
    engine = tiny_engine(eos=None)
    reference = answers(engine)
    prompts = torch.stack([PROMPTS[0]] * 2)
    state = fill(engine.canvas_model, prompts, EgpOracle(reference, block_length=BLOCK), length=LENGTH)
    assert [state.canvas(row) for row in range(2)] == reference
    assert int(state.rounds.max()) < LENGTH


def test_the_oracle_ends_on_a_reference_that_the_model_never_predicts() -> None:
    engine = tiny_engine(eos=None)
    reference = [[40] * LENGTH]
    state = fill(engine.canvas_model, PROMPTS[0][None], EgpOracle(reference, block_length=BLOCK), length=LENGTH)
    assert state.canvas(0) == reference[0]


def test_the_oracle_wants_whole_answers() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="give all columns"):
        fill(engine.canvas_model, PROMPTS[0][None], EgpOracle([[1, 2]]), length=LENGTH)


def test_a_filter_that_accepts_all_takes_one_round_per_block_and_one_that_accepts_nothing_one_per_column() -> None:
    engine = tiny_engine(eos=None)
    all_ = szilard.Learn2PD(filter_of(engine, 20.0), block_length=BLOCK)
    none = szilard.Learn2PD(filter_of(engine, -20.0), block_length=BLOCK)
    assert engine.generate(PROMPTS[0], all_, max_new_tokens=LENGTH).cost.counters["row_rounds"] == 2
    plain = engine.generate(PROMPTS[0], szilard.TopKUnmask(block_length=BLOCK), max_new_tokens=LENGTH)
    slow = engine.generate(PROMPTS[0], none, max_new_tokens=LENGTH)
    assert slow.tokens == plain.tokens
    assert slow.cost.counters["row_rounds"] == LENGTH


def test_a_filter_reads_a_shorter_block_as_padded_with_zeros() -> None:
    engine = tiny_engine(eos=None)
    made = szilard.Learn2PD(filter_of(engine, 20.0), block_length=BLOCK)
    assert len(engine.generate(PROMPTS[0], made, max_new_tokens=BLOCK + 3).tokens) == BLOCK + 3


def test_a_filter_is_tied_to_its_model_and_block() -> None:
    engine, other = tiny_engine(), tiny_engine(seed=1)
    made = filter_of(engine, 0.0)
    with pytest.raises(ValueError, match="blocks of 8 tokens, not 4"):
        engine.generate("w5", szilard.Learn2PD(made, block_length=4))
    with pytest.raises(ValueError, match="other weights"):
        other.generate("w5", szilard.Learn2PD(made, block_length=BLOCK))
    with pytest.raises(ValueError, match="needs a filter of the model"):
        engine.generate("w5", szilard.Learn2PD())


def test_rows_are_collected_trained_on_and_used(tmp_path: Path) -> None:
    engine = tiny_engine(eos=None)
    prompts = [torch.tensor([2 + number, 3 + number]) for number in range(12)]
    rows = collect_egp_rows(engine, prompts, tmp_path / "rows", gen_length=LENGTH, block_length=BLOCK, batch_size=5)
    assert rows[:]["confidence"].shape[1] == BLOCK
    assert len(set(rows.prompt.tolist())) == 12
    again = collect_egp_rows(engine, prompts, tmp_path / "rows", gen_length=LENGTH, block_length=BLOCK)
    assert len(again) == len(rows)
    metrics = train_filter(rows, FilterConfig(steps=200, save_every=100), tmp_path / "filter", device="cpu")
    assert metrics["train_loss"] < metrics["train_label_entropy"]
    made = szilard.Learn2PD.from_pretrained(str(tmp_path / "filter"), threshold=0.9)
    result = engine.generate(prompts[0], made, max_new_tokens=LENGTH)
    assert result.cost.counters["row_rounds"] <= LENGTH
    named = szilard.Learn2PD(filter=str(tmp_path / "filter"), block_length=BLOCK, threshold=0.9)
    assert engine.generate(prompts[0], named, max_new_tokens=LENGTH).tokens == result.tokens


def test_rows_need_whole_blocks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not divide gen_length"):
        collect_egp_rows(tiny_engine(), ["w5"], tmp_path, gen_length=20, block_length=8)


def test_a_filter_reads_a_block_that_an_end_has_cut() -> None:
    model: Any = Table([0.5, 0.6, 0.99, 0.7, 0.7, 0.7, 0.7, 0.7], [2, 3, EOS, 5, 6, 7, 8, 9])
    made = szilard.Learn2PD(filter_of(tiny_engine(), -20.0), block_length=BLOCK, end_of_text="committed")
    state = fill(model, torch.zeros(1, 1, dtype=torch.long), made, length=BLOCK)
    assert state.generated_tokens() == [[2, 3, EOS]]
