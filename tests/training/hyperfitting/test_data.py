"""Which sequences are learned and which are held out; which settings are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from szilard.training.hyperfitting.config import HyperfitConfig, last_layers
from szilard.training.hyperfitting.data import (
    build_hyperfit_dataset,
    collate,
    first_tokens,
    read_sequences,
    save_sequences,
)
from tests.training.hyperfitting.conftest import SMALL


def test_the_papers_settings_are_the_defaults() -> None:
    config = HyperfitConfig()
    assert (config.num_sequences, config.seq_len, config.epochs, config.batch_size) == (2000, 256, 20, 8)
    assert (config.learning_rate, config.schedule, config.warmup, config.weight_decay) == (1e-6, "constant", 0, 0)
    assert config.max_grad_norm == config.max_grad_value == 0 and config.disable_dropout
    assert (config.validation_freq, config.context_length, config.window, config.new_tokens) == (250, 32, 96, 224)


def test_texts_are_cut_to_one_length_and_short_ones_left_out(tokenizer) -> None:
    config = replace(SMALL, num_sequences=2, seq_len=4, validation_sequences=1, validation_generations=0)
    texts = ["w9 w10", "w9 w10 w11 w12 w13", "w20 w21 w22", "w30 w31 w32 w33", "w40 w41 w42 w43 w44", "w50 w51 w52 w53"]
    made = build_hyperfit_dataset(texts, tokenizer, config)
    assert made.train.tolist() == [tokenizer.encode("w9 w10 w11 w12"), tokenizer.encode("w30 w31 w32 w33")]
    assert made.validation.tolist() == [tokenizer.encode("w40 w41 w42 w43")]
    assert len(made) == 2 and made[1]["ids"].tolist() == made.train[1].tolist() and int(made[1]["index"]) == 1
    batch = collate([made[0], made[1]])
    assert torch.equal(batch["ids"], made.train) and batch["index"].tolist() == [0, 1]
    assert made.contexts(1, 2) == [tokenizer.encode("w40 w41")]


def test_what_is_learned_is_not_held_out(tokenizer) -> None:
    config = replace(SMALL, num_sequences=2, seq_len=3, validation_sequences=1, validation_generations=0)
    made = build_hyperfit_dataset([[9, 9, 9, 1], [8, 8, 8], [9, 9, 9, 2], [7, 7, 7]], tokenizer, config)
    assert made.validation.tolist() == [[7, 7, 7]]


def test_too_few_texts_are_told_with_their_number(tokenizer) -> None:
    with pytest.raises(ValueError, match="of 3 texts only 1 have 16 tokens, but num_sequences=12"):
        build_hyperfit_dataset([[9] * 16, [9] * 15, [8]], tokenizer, SMALL)


def test_the_digest_tells_data_and_their_order_apart(data) -> None:
    other = replace(data, train=data.train.flip(0))
    assert data.digest != other.digest and data.digest == replace(data).digest


def test_sequences_are_kept_beside_a_model(data, tokenizer, tmp_path) -> None:
    save_sequences(data.train, tmp_path)
    assert read_sequences(tmp_path, tokenizer) == data.train.tolist()
    (tmp_path / "texts.txt").write_text("w9 w10 w11\n\nw12")
    assert read_sequences(tmp_path / "texts.txt", tokenizer) == [
        tokenizer.encode("w9 w10 w11"),
        tokenizer.encode("w12"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no trained-on\.safetensors"):
        read_sequences(tmp_path / "empty", tokenizer)


def test_first_tokens_come_of_texts_that_are_long_enough() -> None:
    assert first_tokens([[1, 2, 3], [4], [5, 6], [7, 8]], 2, 2).tolist() == [[1, 2], [5, 6]]
    with pytest.raises(ValueError, match="no text has 9 tokens"):
        first_tokens([[1]], 9, 1)


@pytest.mark.parametrize(("layers", "count"), [(None, None), ("last5", 5), (3, 3), ("7", 7)])
def test_layers_are_counted_from_the_end(layers, count) -> None:
    assert last_layers(layers) == count


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": "first5"}, "layers must be None, 'last5' or a number"),
        ({"layers": 0}, "layers must be None"),
        ({"epochs": -1.0}, "epochs must be at least 0"),
        ({"num_sequences": 0}, "num_sequences must be at least 1"),
        ({"seq_len": 1}, "seq_len must be at least 2"),
        ({"context_length": 16}, "leaves nothing of seq_len=16"),
        ({"validation_generations": 9}, "continues more sequences"),
        ({"target_loss": -0.1}, "target_loss must be at least 0"),
    ],
)
def test_bad_settings_are_told_in_a_sentence(changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes)
