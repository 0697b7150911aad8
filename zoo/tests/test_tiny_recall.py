"""The recipe of tiny-recall, and its checkpoint as a user loads it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
szilard = pytest.importorskip("szilard")

import szilard_zoo  # noqa: E402
from szilard.evaluation.attention_quality import answers  # noqa: E402
from szilard.evaluation.long_context import DIGITS, WORDS, needles, pairs  # noqa: E402
from szilard_zoo import train_tiny_recall  # noqa: E402

TEXT = " ".join(
    " ".join(random.Random(line).choices("the of in and it was a town with old which stood near there".split(), k=12))
    + " ."
    for line in range(150)
)


@pytest.fixture(scope="module")
def engine():
    if "tiny-recall" not in szilard_zoo.names():
        pytest.skip("zoo/tiny-recall was not trained here: python -m szilard_zoo.train_tiny_recall")
    return szilard.load("zoo/tiny-recall")


def test_the_checkpoint_is_small_and_hides_words_of_one_token(engine) -> None:
    assert (szilard_zoo.path("tiny-recall") / "model.safetensors").stat().st_size < 8e6
    assert all(len(engine.tokenizer.encode(f" {word}")) == 1 for word in WORDS)
    assert engine.tokenizer.decode(engine.tokenizer.encode(" 4821937 — naïve")) == " 4821937 — naïve"


def test_it_finds_what_was_hidden_in_texts_that_it_never_saw(engine) -> None:
    for length in (128, 512):
        asked = pairs(engine.tokenizer, TEXT, length=length, count=16, pairs=8)
        found, _ = answers(engine.model, asked)
        assert sum(one.exact for one in found) >= 13
        found, _ = answers(engine.model, needles(engine.tokenizer, TEXT, length=length, count=8))
        assert sum(sum(one.right) for one in found) >= 0.8 * 8 * DIGITS


def test_what_was_evicted_is_not_found(engine) -> None:
    asked = pairs(engine.tokenizer, TEXT, length=512, count=8, pairs=8)
    found, _ = answers(engine.model, asked, szilard.StreamingLlm(budget=16), question="after")
    assert sum(one.exact for one in found) <= 2


def test_training_texts_ask_for_what_they_state() -> None:
    tokenizer = train_tiny_recall.build_tokenizer(TEXT)
    filler = tokenizer.encode(TEXT)
    stage = train_tiny_recall.Stage("test", 2, (90, 160), 400, 1e-3, "constant", 0.4, 1)
    texts = train_tiny_recall.Texts(tokenizer, filler, stage, seed=0)
    batch = texts[1]
    assert batch["ids"].shape == batch["told"].shape and 200 < batch["ids"].numel() <= 400
    assert torch.equal(batch["ids"], texts[1]["ids"])
    rng = random.Random(0)
    for _ in range(20):
        ids, told = texts.text(rng, 150)
        first = told.index(True)
        assert len(ids) == len(told) == 150
        said = tokenizer.decode([token for token, answer in zip(ids, told, strict=True) if answer])
        before = tokenizer.decode(ids[:first])
        for answer in said.split():
            for part in [answer] if not answer.isdigit() else [answer[:DIGITS]]:
                assert part in before


def test_a_short_run_writes_a_model_that_loads(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    stages = [train_tiny_recall.Stage(name, 2, (48, 64), 130, 1e-3, "constant", 0.4, 1) for name in ("a", "b")]
    for folder in ("first", "again"):  # what is finished is not done again
        train_tiny_recall.train(tmp_path / "text.txt", tmp_path / folder, work=tmp_path / "work", stages=stages)
    one, other = (szilard.load(tmp_path / folder) for folder in ("first", "again"))
    assert torch.equal(one.model.lm_head.weight, other.model.lm_head.weight)
    assert len(one.generate(" river: apple.", max_new_tokens=3).tokens) == 3
