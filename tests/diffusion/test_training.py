"""`szilard train masked-diffusion`: an autoregressive model learns to fill in masked tokens."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import szilard
from szilard.cli.main import main
from szilard.diffusion.bidirectional import Bidirectional
from szilard.diffusion.masked_loss import log_likelihood
from szilard.diffusion.training import Texts, mask_token, train_masked_diffusion
from szilard.diffusion.training_config import MaskedDiffusionTraining
from szilard.training.corpus import Example
from szilard.training.hidden_states import Tokens, Windows
from szilard.training.target import Target
from tests.conftest import EOS

MASK = 5
CONFIG = MaskedDiffusionTraining(
    steps=30,
    batch_size=8,
    learning_rate=5e-3,
    window=16,
    mask_token_id=MASK,
    save_every=10,
    log_every=10,
    held_out=0.2,
)


@pytest.fixture
def texts(tmp_path):
    chance = random.Random(0)
    records = []
    for _ in range(40):
        first = chance.randrange(20, 60)
        records.append({"text": " ".join(f"w{first + step}" for step in range(14))})
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture
def answers(tmp_path):
    records = [
        {"prompt": f"w{9 + n % 30} w{10 + n % 30}", "answer": " ".join(f"w{9 + n % 30}" for _ in range(4 + n % 5))}
        for n in range(40)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def engine_of(folder):
    return szilard.load(folder, dtype="float32", device="cpu")


@pytest.mark.parametrize("lora", [False, True])
def test_training_lowers_the_bound_and_writes_a_model_that_loads(model_folder, texts, tmp_path, lora) -> None:
    engine = engine_of(model_folder)
    before = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    config = replace(CONFIG, lora=lora, rank=16, learning_rate=2e-2 if lora else 5e-3, steps=60)
    found = train_masked_diffusion(engine, texts, replace(config, steps=1, learning_rate=0.0), tmp_path / "untrained")
    trained = train_masked_diffusion(engine, texts, config, tmp_path / "out")
    assert trained["bound"] < 0.9 * found["bound"]
    assert yaml.safe_load((tmp_path / "out" / "held-out.yaml").read_text()) == trained
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60] and rows[-1]["loss"] < rows[0]["loss"]
    for name, weight in engine.model.state_dict().items():  # the engine has its own weights again
        assert torch.equal(weight, before[name])
    assert not hasattr(engine.model.config, "masked_diffusion")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.masked_diffusion == {
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "eot_token_id": None,
        "shift_logits": True,
        "forbid_mask": True,
    }
    tokens = torch.tensor(
        AutoTokenizer.from_pretrained(tmp_path / "out").encode(" ".join(f"w{n}" for n in range(30, 44)))
    )
    learned, own = (
        log_likelihood(Bidirectional(each, shift=True), tokens, torch.ones_like(tokens, dtype=torch.bool), MASK)
        for each in (model, engine.model)
    )
    assert learned > own


def test_a_stopped_run_goes_on_to_the_same_weights(model_folder, texts, tmp_path, monkeypatch) -> None:
    from szilard.training import loop

    config = replace(CONFIG, anneal=0.5)
    train_masked_diffusion(engine_of(model_folder), texts, config, tmp_path / "whole")

    def killed(self, args, state, control, **_):
        if state.global_step == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Bar, "on_log", killed)
        with pytest.raises(KeyboardInterrupt):
            train_masked_diffusion(engine_of(model_folder), texts, config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    train_masked_diffusion(engine_of(model_folder), texts, config, tmp_path / "cut")
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "cut"))
    for name, weight in one.state_dict().items():
        assert torch.allclose(weight, other.state_dict()[name], atol=1e-6), name
    with pytest.raises(ValueError, match="other settings"):
        train_masked_diffusion(engine_of(model_folder), texts, CONFIG, tmp_path / "cut")


def test_answers_are_learned_with_their_end(model_folder, answers, tmp_path, capsys) -> None:
    code = main(
        [
            *("train", "masked-diffusion", "--model", str(model_folder), "--data", str(answers)),
            *("-o", str(tmp_path / "out"), "--steps", "150", "--learning-rate", "0.005", "--mask-token-id", str(MASK)),
            *("--save-every", "50", "--batch-size", "8", "--no-shift-logits", "--dtype", "float32"),
        ]
    )
    assert code == 0, capsys.readouterr().err
    model, before = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "out", model_folder))
    assert model.config.masked_diffusion["shift_logits"] is False
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt, answer = tokenizer.encode("w12 w13"), tokenizer.encode("w12 w12 w12 w12", add_special_tokens=False)
    row = torch.tensor([[*prompt, *answer, EOS, MASK, EOS]])
    with torch.no_grad():
        chances = [Bidirectional(each)(row, row == MASK).softmax(-1)[0, EOS] for each in (model, before)]
    assert chances[0] > 3 * chances[1]


def test_only_answers_that_end_are_filled_with_end_tokens(model_folder) -> None:
    target = Target(engine_of(model_folder))
    long = Example(tuple(range(10, 34)), (False,) * 4 + (True,) * 20)
    short = Example(tuple(range(10, 20)), (False,) * 4 + (True,) * 6)
    made = Texts(Windows(Tokens(target, [long, short]), 16), EOS, conditional=True)
    assert made.ends == [False, True, True]
    batch = made.collate([made[0], made[2]])
    assert batch["ids"].shape == (2, 16)
    assert batch["ids"][1].tolist() == [*range(10, 20), *[EOS] * 6] and batch["answer"][1].sum() == 12
    assert bool(batch["real"].all())
    plain = Texts(Windows(Tokens(target, [long, short]), 16), EOS, conditional=False)
    assert plain.collate([plain[0], plain[2]])["real"].sum(1).tolist() == [16, 10]


def test_the_mask_is_a_token_that_nothing_uses() -> None:
    class Token:
        def __init__(self, content: str, special: bool = True) -> None:
            self.content, self.special = content, special

    class Tokenizer:
        mask_token_id = bos_token_id = unk_token_id = None
        eos_token_id, pad_token_id = 1, 0
        chat_template = "<|user|> {{ message }}"
        added_tokens_decoder = {  # noqa: RUF012
            0: Token("<pad>"),
            1: Token("<eos>"),
            2: Token("<repo>"),
            3: Token("<|user|>"),
            4: Token("word", special=False),
            99: Token("<beyond>"),
        }

    tokenizer = Tokenizer()
    assert mask_token(tokenizer, None, 50) == 2
    assert mask_token(tokenizer, 7, 50) == 7
    tokenizer.mask_token_id = 3
    assert mask_token(tokenizer, None, 50) == 3
    with pytest.raises(ValueError, match="outside the model's vocabulary"):
        mask_token(tokenizer, 50, 50)
    tokenizer.mask_token_id, tokenizer.added_tokens_decoder = None, {0: Token("<pad>")}
    with pytest.raises(ValueError, match="--mask-token-id"):
        mask_token(tokenizer, None, 50)


def test_texts_that_hold_the_mask_are_refused(model_folder, tmp_path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": " ".join(f"w{n}" for n in range(7, 40))}))
    used = engine_of(model_folder).tokenizer.encode("w20", add_special_tokens=False)[0]
    with pytest.raises(ValueError, match="which is to be the mask"):
        train_masked_diffusion(engine_of(model_folder), path, replace(CONFIG, mask_token_id=used), tmp_path / "out")


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"eps": 0.0}, {"anneal": 1.5}, {"rank": 0}, {"mask_token_id": -1}):
        with pytest.raises(ValueError):
            MaskedDiffusionTraining(**wrong)
