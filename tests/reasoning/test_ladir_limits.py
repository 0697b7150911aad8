"""LaDiR where it is easily broken: rows that end early, equal trajectories, bad input, data that fit no model."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from szilard.engines import TransformersEngine
from szilard.reasoning.examples import Reasoning
from szilard.reasoning.ladir.config import LadirConfig
from szilard.reasoning.ladir.contexts import GraphContext
from szilard.reasoning.ladir.diversity import DiversityGuidance, diversity_force
from szilard.reasoning.ladir.flow import OBJECTIVES, FlowSchedule, as_velocity
from szilard.reasoning.ladir.thinking import Thinking, denoise
from szilard.reasoning.ladir.training import train_ladir, train_reasoner
from tests.conftest import tiny_model, tiny_tokenizer
from tests.reasoning.ladir_model import SIZE, WIDTH, tiny_reasoner
from tests.reasoning.test_ladir_method import EXAMPLES, SMALL, float_engine

QUESTIONS = torch.tensor([[5, 6, 7, 8], [0, 0, 5, 6], [0, 12, 13, 14]])
REAL = (QUESTIONS > 0).long()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, SIZE, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- flow and diversity --------------------------------------------------------------------------------------------


def block_of(objective: str, z: torch.Tensor, z0: torch.Tensor, t: float) -> torch.Tensor:
    """What a network that knows the block says at z."""
    eps = (z - (1 - t) * z0) / t
    return {"flow": eps - z0, "x0": z0, "eps": eps, "v": (1 - t) * eps - t * z0}[objective]


@pytest.mark.parametrize("steps", [2, 7, 1500])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_euler_with_a_perfect_network_of_any_objective_returns_the_block(objective, steps):
    z0, z = noise(3, seed=1), 2.0 * noise(3, seed=2)
    for t, dt in FlowSchedule(steps).pairs():
        z = z - dt * as_velocity(objective, block_of(objective, z, z0, t), z, torch.tensor(t, dtype=z.dtype))
    assert torch.allclose(z, z0, atol=1e-9)


def test_a_poor_prediction_of_the_noise_does_not_blow_a_block_up():
    z = 2.0 * noise(3)
    for t, dt in FlowSchedule(10).pairs():
        z = z - dt * as_velocity("eps", noise(3), z, torch.tensor(t, dtype=z.dtype))
    assert z.pow(2).mean((1, 2)).sqrt().max() <= 3.0 + 1e-6


@pytest.mark.parametrize(("tolerance", "taken"), [(None, 6), (1e-6, 2)])
def test_denoising_with_an_oracle_returns_the_block_and_its_prediction_rests_at_once(monkeypatch, tolerance, taken):
    reasoner, z0 = tiny_reasoner(), noise(3, seed=3)
    monkeypatch.setattr(type(reasoner.parts), "velocity", lambda self, hidden, z, t, time: (z - z0) / t.to(z))
    context = GraphContext(reasoner.model, reasoner.tuned.embed(QUESTIONS), REAL.bool())
    with torch.no_grad():
        z, steps, forwards = denoise(reasoner.parts, context, noise(3), Thinking(num_steps=6, tolerance=tolerance))
    assert torch.allclose(z, z0, atol=1e-6) and steps.tolist() == [taken] * 3 and forwards == taken


def test_trajectories_in_one_place_feel_a_finite_force():
    z = torch.zeros(5, 4)
    z[4] = 3.0  # the median distance is zero
    assert torch.equal(diversity_force(z), torch.zeros_like(z))


def test_trajectories_that_think_no_more_push_nobody():
    reasoner = tiny_reasoner()
    context = GraphContext(reasoner.model, reasoner.tuned.embed(QUESTIONS[:1].expand(4, -1)), torch.ones(4, 4).bool())
    how = Thinking(num_steps=3, diversity=DiversityGuidance(gamma_max=0.5, bandwidth=3.0))
    group, given = torch.zeros(4, dtype=torch.long), noise(4)
    awake = torch.tensor([True, True, False, True])
    with torch.no_grad():
        found = []
        for sleeper in (0.0, 1.0):  # whatever stands in the row that ended
            changed = given.clone()
            changed[2] += sleeper
            found.append(denoise(reasoner.parts, context, changed, how, group, awake=awake))
        everybody, _, _ = denoise(reasoner.parts, context, given, how, group)
    (one, steps, _), (other, _, _) = found
    assert torch.equal(one[awake], other[awake]) and steps.tolist() == [3, 3, 0, 3]
    assert not torch.allclose(one[awake], everybody[awake])


def test_a_row_is_awake_for_as_many_blocks_as_it_thinks(monkeypatch):
    awake = []

    def watching(*arguments, **options):
        awake.append(options["awake"].clone())
        return denoise(*arguments, **options)

    monkeypatch.setattr("szilard.reasoning.ladir.thinking.denoise", watching)
    out = tiny_reasoner().generate(QUESTIONS, REAL, noise=noise(4, 3, seed=2), num_steps=3, max_blocks=4)
    counts = [len(blocks) for blocks in out.blocks]
    assert len(set(counts)) > 1 and torch.stack(awake).sum(0).tolist() == counts
    assert out.steps == [[3] * count for count in counts]


def test_nobody_waits_for_a_row_that_thinks_no_more(monkeypatch):
    reasoner = tiny_reasoner()
    still = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)[:, None, None]  # only the second row moves
    monkeypatch.setattr(
        type(reasoner.parts), "velocity", lambda self, hidden, z, t, time: z / t.to(z) + still * t.to(z) * 100
    )
    context = GraphContext(reasoner.model, reasoner.tuned.embed(QUESTIONS), REAL.bool())
    how = Thinking(num_steps=8, tolerance=1e-6)
    with torch.no_grad():
        _, steps, forwards = denoise(reasoner.parts, context, noise(3), how, awake=torch.tensor([True, False, True]))
    assert steps.tolist() == [2, 0, 2] and forwards == 2


# ---- input of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "mask", "options", "words"),
    [
        ([[5, 6]], None, {}, "must be a tensor of token ids"),
        (torch.tensor([[5.0, 6.0]]), None, {}, "not a tensor of torch.float32"),
        (torch.zeros(1, 2, 3).long(), None, {}, r"not \[1, 2, 3\]"),
        (torch.zeros(1, 0).long(), None, {}, "not empty"),
        (QUESTIONS, REAL[:, :2], {}, "attention_mask is"),
        (QUESTIONS.flip(1), REAL.flip(1), {}, "padded on the left"),
        (QUESTIONS, REAL, {"num_return_sequences": 2}, "num_trajectories"),
        (QUESTIONS, REAL, {"streamer": object()}, "szilard.load"),
        (QUESTIONS, REAL, {"generator": 3}, "torch.Generator"),
        (QUESTIONS, REAL, {"initial_noise": float("inf")}, "initial_noise"),
        (QUESTIONS, REAL, {"cfg_scale": float("inf")}, "cfg_scale"),
        (torch.full((1, 250), 5), None, {"max_new_tokens": 10}, "exceed the context window of 256"),
    ],
)
def test_questions_and_options_that_fit_no_run_are_refused_in_one_sentence(question, mask, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        tiny_reasoner("gpt2").generate(question, mask, **options)


def test_a_question_that_fills_the_context_is_answered_without_thoughts():
    out = tiny_reasoner("gpt2").generate(torch.full((1, 252), 5), num_steps=1, max_new_tokens=4)
    assert len(out.blocks[0]) == 0 and len(out.answer_ids[0]) <= 4


def test_an_answer_ends_before_whichever_end_token_it_has():
    reasoner = tiny_reasoner()
    options = {"num_steps": 1, "max_blocks": 1, "max_new_tokens": 3, "noise": noise(1, 1)}
    ((first, *_),) = reasoner.generate(QUESTIONS[:1], eos_token_id=96, **options).answer_ids
    assert reasoner.generate(QUESTIONS[:1], eos_token_id=[96, first], **options).answer_ids == [[]]


def test_guidance_says_so_where_a_sliding_window_cannot_forget_the_question():
    reasoner = tiny_reasoner("gemma3")
    short = reasoner.generate(QUESTIONS, REAL, num_steps=1, max_blocks=1, max_new_tokens=1, cfg_scale=2.0)
    assert len(short.blocks) == 3
    with pytest.raises(ValueError, match="cfg_scale=1"):
        reasoner.generate(torch.full((1, 20), 5), num_steps=1, max_blocks=1, max_new_tokens=1, cfg_scale=2.0)


def test_an_endless_strength_is_refused():
    with pytest.raises(ValueError, match="gamma_max"):
        DiversityGuidance(gamma_max=float("inf"))
    with pytest.raises(ValueError, match="lambda_flow"):
        LadirConfig(lambda_flow=float("inf"))


# ---- data of a training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Reasoning("w5", " ; ", "w6"), "chain without any step"),
        (Reasoning("w5", " ; ".join(["w7 w8"] * 100), "w6"), "100 blocks of 4"),
        (Reasoning("w5", " ".join(["w7"] * 250), "w6"), "sentence of 250 tokens"),
        (Reasoning(" ".join(["w5"] * 250), "w7", "w6"), "question 252, 1 blocks of 4, answer 2"),
        (Reasoning(" ".join(["w5"] * 220), "w7", "w6"), "no room for max_new_tokens=64"),
    ],
)
def test_a_problem_that_would_stop_the_training_half_way_is_refused_before_the_folder_is_touched(tmp_path, bad, words):
    engine = TransformersEngine(copy.deepcopy(tiny_model("gpt2")).float(), tiny_tokenizer(), name="tiny")
    config = dataclasses.replace(SMALL, max_new_tokens=64)
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in [*EXAMPLES, bad]]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=words):
        train_ladir(engine, tmp_path / "data.jsonl", config, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_training_leaves_the_random_numbers_around_it_alone(tmp_path):
    config = dataclasses.replace(SMALL, vae_steps=1, steps=1, stage2=False, evaluate_every=None)
    before = torch.random.get_rng_state()
    train_reasoner(float_engine(), EXAMPLES[:4], EXAMPLES[4:6], config, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
