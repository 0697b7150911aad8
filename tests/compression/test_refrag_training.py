"""What REFRAG's stages change, what they leave alone, and that a stopped stage goes on."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import szilard
from szilard.cli.main import main
from szilard.compression.refrag.add_on import RefragParts
from szilard.compression.refrag.config import RefragConfig
from szilard.compression.refrag.decoder_tuning import DecoderTuning
from szilard.compression.refrag.objective import ReadingObjective
from szilard.compression.refrag.policy_objective import PolicyObjective
from szilard.compression.refrag.readings import Readings
from szilard.compression.refrag.training import train_refrag
from szilard.engines import TransformersEngine
from szilard.training.target import Target
from tests.conftest import tiny_model, tiny_tokenizer

SMALL = RefragConfig(
    chunk=4,
    encoder="small",
    encoder_width=16,
    context=16,
    steps=4,
    save_every=2,
    log_every=2,
    batch_size=3,
    held_out=0.2,
    learning_rate=1e-2,
)
LATER = replace(SMALL, chunk=None, encoder=None, target=8, inner_epochs=2)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    rng = random.Random(0)
    file = tmp_path_factory.mktemp("data") / "texts.jsonl"
    records = [{"text": " ".join(f"w{rng.randint(7, 40)}" for _ in range(40))} for _ in range(8)]
    file.write_text("\n".join(map(json.dumps, records)))
    return file


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "questions.jsonl"
    one = {"context": ["w9 w10 w11 w12 w13", "w30 w31"], "prompt": "w40", "answer": "w50"}
    file.write_text("\n".join([json.dumps(one)] * 6))
    return file


@pytest.fixture(scope="module")
def first(engine, texts, tmp_path_factory) -> Path:
    """A folder of the first stage."""
    folder = tmp_path_factory.mktemp("first")
    train_refrag(engine, texts, SMALL, folder)
    return folder


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def _changed(folder: Path, other: Path) -> set[str]:
    """The parts in which two add-ons differ."""
    a, b = (RefragParts.from_pretrained(one).state_dict() for one in (folder, other))
    shared = [name for name in a if not name.startswith(("changes.", "policy_steps"))]
    return {name.partition(".")[0] for name in shared if not torch.equal(a[name], b[name])}


# ---- what learns -------------------------------------------------------------------------------------------------


def _objective(engine, parts, config, kind=ReadingObjective):
    target = Target(engine)
    tuning = DecoderTuning(target, config.tunes, config.rank, None)
    return tuning, lambda: kind(parts, tuning, target, config, samples=12)


def _batch(rows: int = 2, seed: int = 0, context: int = 16) -> dict[str, list]:
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(0, dtype=torch.int64)
    ids = [torch.randint(7, 90, (context,), generator=generator) for _ in range(rows)]
    return Readings.collate([{"head": nothing, "contexts": [row], "tail": nothing, "target": row[:6]} for row in ids])


@pytest.mark.parametrize("stage", ["reconstruction", "cpt", "policy"])
def test_gradients_reach_exactly_what_a_stage_trains(engine, first, stage: str) -> None:
    parts = RefragParts.from_pretrained(first)
    config = replace(LATER, stage=stage, start=str(first), keep=0.5 if stage == "policy" else None)
    kind = PolicyObjective if stage == "policy" else ReadingObjective
    tuning, build = _objective(engine, parts, config, kind)
    with tuning:
        build().train()(**_batch())["loss"].backward()
        reached = {name.partition(".")[0] for name, p in parts.named_parameters() if p.grad is not None}
        decoder = [p.grad is not None for p in engine.model.parameters()]
        assert reached == ({"policy"} if stage == "policy" else {"encoder", "projection"})
        assert all(decoder) if stage == "cpt" else not any(decoder)
    assert not any(p.requires_grad for p in engine.model.parameters())
    for p in engine.model.parameters():
        p.grad = None


def test_the_first_stage_leaves_the_decoder_bit_for_bit(engine, texts, tmp_path) -> None:
    before = _weights(engine.model)
    metrics = train_refrag(engine, texts, SMALL, tmp_path)
    assert all(torch.equal(before[name], p) for name, p in engine.model.named_parameters())
    assert not (tmp_path / "decoder").exists()
    assert {"nll", "no_context", "full_context", "right", "nll_1", "nll_2", "nll_4"} <= metrics.keys()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all({"loss", "no_context", "full_context"} <= row.keys() for row in rows)
    assert yaml.safe_load((tmp_path / "held-out.yaml").read_text()) == metrics


@pytest.mark.parametrize("lora", [True, False])
def test_later_stages_train_the_decoder_beside_its_own_weights(
    engine, texts, questions, first, tmp_path, lora: bool
) -> None:
    before, fingerprint = _weights(engine.model), engine.fingerprint
    changed = {"encoder", "projection"}
    cpt = replace(LATER, stage="cpt", start=str(first), keep=0.3, lora=lora, rank=2)
    train_refrag(engine, texts, cpt, tmp_path / "cpt")
    assert _changed(first, tmp_path / "cpt") == changed
    assert all(torch.equal(before[name], p) for name, p in engine.model.named_parameters())
    decoder = engine if lora else szilard.load(tmp_path / "cpt" / "decoder")
    assert (decoder.fingerprint == fingerprint) == lora
    if not lora:
        assert not all(torch.equal(before[name], p) for name, p in decoder.model.named_parameters())
        with pytest.raises(ValueError, match="other weights"):
            szilard.Refrag.from_pretrained(tmp_path / "cpt").reader(engine)

    policy = replace(LATER, stage="policy", start=str(tmp_path / "cpt"), keep=0.5, group=3, inner_epochs=2)
    metrics = train_refrag(decoder, texts, policy, tmp_path / "policy")
    assert _changed(tmp_path / "cpt", tmp_path / "policy") == {"policy"}
    assert {"nll_learned", "nll_perplexity", "nll_random", "nll_none", "full_context"} <= metrics.keys()

    sft = replace(LATER, stage="sft", start=str(tmp_path / "policy"), lora=lora, rank=2)
    train_refrag(decoder, questions, sft, tmp_path / "sft")
    assert _changed(tmp_path / "policy", tmp_path / "sft") == changed
    other = tmp_path / "other.jsonl"
    other.write_text(questions.read_text().replace("w30", "w32"))  # in the contexts alone
    with pytest.raises(ValueError, match="other settings or data"):
        train_refrag(decoder, other, sft, tmp_path / "sft")
    own = engine if lora else szilard.load(tmp_path / "sft" / "decoder")
    reader = szilard.Refrag.from_pretrained(tmp_path / "sft", model=own)
    assert len(reader.generate(["w9", "w10"], reader.encode("w9 w10 w11 w12 w13"), keep=0.5, max_new_tokens=3)) == 2
    if lora:
        for budget in (None, 0.9):  # engine.generate would read the vectors without the changes
            with pytest.raises(ValueError, match="low-rank changes of the decoder"):
                szilard.compress("w9 w10 w11 w12 w13", szilard.Refrag(str(tmp_path / "sft")), budget, engine=own)
        held = _weights(own.model)
        with reader.applied():
            assert not all(torch.equal(held[name], p) for name, p in own.model.named_parameters())
        assert all(torch.equal(held[name], p) for name, p in own.model.named_parameters())


def test_all_chunks_kept_trains_on_the_plain_text(engine, first) -> None:
    parts = RefragParts.from_pretrained(first).eval()
    config = replace(LATER, stage="cpt", lora=True, rank=2, keep=1.0, curriculum=False)
    tuning, build = _objective(engine, parts, config)
    batch = _batch()
    with tuning, torch.no_grad():
        loss = build().eval()(**batch)["loss"]
        rows = [
            torch.cat([*context, target]) for context, target in zip(batch["contexts"], batch["targets"], strict=True)
        ]
        chances = engine.model(torch.stack(rows)).logits[:, 15:-1].log_softmax(-1)
        expected = -chances.gather(2, torch.stack(batch["targets"])[..., None]).mean()
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_bounds_count_the_same_tokens_whatever_stands_in_front(engine, first) -> None:
    parts = RefragParts.from_pretrained(first).eval()
    tuning, build = _objective(engine, parts, SMALL)
    nothing, ids = torch.zeros(0, dtype=torch.int64), torch.arange(10, 16)
    heads = [torch.tensor([2]), nothing]  # a BOS in front of a text's first stretch, none before the later ones
    with tuning:
        forced = build().read_tokens([[], []], heads, [nothing] * 2, [ids] * 2, first=False)
    assert forced.tokens.tolist() == [5, 5]
    for head, nats in zip(heads, forced.nats, strict=True):
        chances = engine.model(torch.cat([head, ids])[None]).logits[0, len(head) : -1].log_softmax(-1)
        assert float(nats) == pytest.approx(-float(chances.gather(1, ids[1:, None]).sum()), rel=1e-4)


# ---- the curriculum in the loop ----------------------------------------------------------------------------------


def test_training_goes_from_single_chunks_to_whole_contexts(engine, first) -> None:
    parts = RefragParts.from_pretrained(first)
    tuning, build = _objective(engine, parts, replace(SMALL, steps=4))
    read: list[int] = []
    with tuning:
        objective = build().train()
        plain = objective.read
        objective.read = lambda contexts, *rest, **more: (  # type: ignore[method-assign]
            read.extend(len(row[0]) for row in contexts) or plain(contexts, *rest, **more)
        )
        for _ in range(4):
            objective(**_batch(3))
        assert [length // 4 for length in read] == objective.order[:12] and set(read) == {4, 8, 16}
        assert int(objective.done) == 4
        objective.eval()(**_batch(3))
        assert int(objective.done) == 4


# ---- GRPO in the loop --------------------------------------------------------------------------------------------


def test_sequences_are_used_for_several_steps_and_the_first_has_ratio_1(engine, first) -> None:
    parts = RefragParts.from_pretrained(first)
    config = replace(LATER, stage="policy", start=str(first), keep=0.5, inner_epochs=3, save_every=6, group=4)
    tuning, build = _objective(engine, parts, config, PolicyObjective)
    torch.manual_seed(0)
    with tuning:
        objective = build().train()
        optimiser = torch.optim.SGD([p for p in parts.parameters() if p.requires_grad], lr=0.5)
        drawn, losses = [], []
        for seed in range(6):
            outputs = objective(**_batch(2, seed))
            outputs["loss"].backward()
            optimiser.step()
            optimiser.zero_grad()
            drawn.append(objective._memory[0])
            losses.append(float(outputs["loss"].detach()))
        assert drawn[0] is drawn[1] is drawn[2] and drawn[3] is drawn[5] and drawn[2] is not drawn[3]
        assert abs(losses[0]) < 1e-6 and abs(losses[3]) < 1e-6  # -mean A at theta_old
        assert losses[2] < losses[1] < losses[0]
        assert not parts.encoder.training and int(parts.policy_steps) == 6


def test_a_reward_is_the_mean_log_likelihood_behind_the_drawn_chunks(engine, first) -> None:
    parts = RefragParts.from_pretrained(first)
    config = replace(LATER, stage="policy", start=str(first), keep=1.0, group=2)
    tuning, build = _objective(engine, parts, config, PolicyObjective)
    batch = _batch(1)
    with tuning:
        drawn = build().draw(**batch)
    row = torch.cat([batch["contexts"][0][0], batch["targets"][0]])
    with torch.no_grad():
        chances = engine.model(row[None]).logits[0, 15:-1].log_softmax(-1)
    expected = chances.gather(1, batch["targets"][0][:, None]).mean().float()
    torch.testing.assert_close(drawn.rewards, expected.expand(1, 2), atol=1e-5, rtol=0)
    assert drawn.orders.sort().values.tolist() == [[[0, 1, 2, 3]] * 2]


# ---- stopping and going on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["reconstruction", "policy"])
def test_a_stopped_stage_goes_on_as_if_it_had_not(engine, texts, first, tmp_path, monkeypatch, stage: str) -> None:
    later = replace(LATER, stage="policy", start=str(first), keep=0.5, inner_epochs=2)
    config, kind = (SMALL, ReadingObjective) if stage == "reconstruction" else (later, PolicyObjective)
    whole = train_refrag(engine, texts, config, tmp_path / "whole")
    forward, calls = kind.forward, [0]

    def stopping(self, *arguments, **named):
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return forward(self, *arguments, **named)

    monkeypatch.setattr(kind, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_refrag(engine, texts, config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert train_refrag(engine, texts, config, tmp_path / "cut") == whole
    assert calls[0] == 6  # from the checkpoint of step 2
    assert not _changed(tmp_path / "whole", tmp_path / "cut")


# ---- refusals and the command ------------------------------------------------------------------------------------


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong, words in (
        ({"stage": "first"}, "must be one of"),
        ({"stage": "policy"}, "goes on from another"),
        ({"stage": "cpt", "start": "x", "encoder": "small"}, "come with start"),
        ({"keep": 0.1}, "every chunk is a vector"),
        ({"stage": "policy", "start": "x", "inner_epochs": 3}, "multiple of inner_epochs"),
    ):
        with pytest.raises(ValueError, match=words):
            RefragConfig(**wrong)
    assert RefragConfig().learning_rate == 2e-4 and RefragConfig(stage="cpt").learning_rate == 5e-5


def test_what_cannot_be_trained_is_refused_before_any_work(engine, texts, first, tmp_path) -> None:
    start = str(first)
    for config, words in (
        (replace(SMALL, context=3), "less than a chunk"),
        (replace(LATER, stage="policy", start=start, keep=0.1), "nothing to choose"),
        (replace(LATER, stage="cpt", start=start, chunk=5), "leave chunk out"),
        (replace(SMALL, encoder="no such encoder"), "no encoder under"),
    ):
        with pytest.raises(ValueError, match=words):
            train_refrag(engine, texts, config, tmp_path)
    other = TransformersEngine(tiny_model("qwen2"), tiny_tokenizer(), name="other")
    with pytest.raises(ValueError, match="other weights"):
        train_refrag(other, texts, replace(LATER, stage="cpt", start=start), tmp_path)


def test_the_command_trains_a_stage(texts, tmp_path, model_folder, capsys) -> None:
    small = ["--chunk", "4", "--encoder", "small", "--encoder-width", "16", "--context", "16", "--steps", "2"]
    small += ["--save-every", "2", "--log-every", "2", "--batch-size", "2"]
    common = ["train", "refrag", "--data", str(texts), "--model", model_folder, "-o", str(tmp_path / "out")]
    assert main([*common, "--stage", "reconstruction", *small]) == 0
    assert "no_context" in capsys.readouterr().err
    assert isinstance(szilard.Refrag.from_pretrained(tmp_path / "out"), szilard.Refrag)
    assert main([*common, "--stage", "policy"]) == 2
    assert "goes on from another" in capsys.readouterr().err
