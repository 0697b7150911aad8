"""LaDiR's VAE and reasoner: padding, packing, caches, counts, losses."""

from __future__ import annotations

import copy

import pytest
import torch

from szilard.reasoning.examples import Reasoning
from szilard.reasoning.ladir.contexts import GraphContext
from szilard.reasoning.ladir.diversity import DiversityGuidance
from szilard.reasoning.ladir.evaluation import free_running, thoughts_of, with_gold_blocks
from szilard.reasoning.ladir.flow import FlowSchedule
from szilard.reasoning.ladir.mask import as_attention_mask, blockwise_mask, span_in_block
from szilard.reasoning.ladir.packing import packer
from szilard.reasoning.ladir.parts import BOT, EOT, SOA, LadirParts
from szilard.reasoning.ladir.reasoner import LaDiRReasoner
from szilard.reasoning.ladir.thinking import Thinking, denoise, think
from szilard.reasoning.ladir.tuned import TunedModel
from szilard.reasoning.ladir.vae import SentenceVAE
from tests.conftest import ARCHITECTURES, tiny_model
from tests.reasoning.ladir_model import SIZE, WIDTH, packed, thoughts, tiny_engine, tiny_reasoner

QUESTIONS = torch.tensor([[5, 6, 7, 8], [0, 0, 5, 6], [0, 12, 13, 14]])
REAL = (QUESTIONS > 0).long()
TEXTS = ["w7 w8 w9 w10", "w20", "w11 w12"]


def noise(blocks: int, rows: int, seed: int = 0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(blocks, rows, SIZE, WIDTH, generator=chance, dtype=torch.float64)


# ---- VAE -----------------------------------------------------------------------------------------------------------


def test_a_sentence_has_the_same_latents_alone_and_in_a_batch():
    vae = tiny_reasoner().vae
    together = vae.posterior(*vae.tokens(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = vae.posterior(*vae.tokens([text]))
        for one, other in zip(alone, together, strict=True):
            assert torch.allclose(one[0], other[row])


def test_reconstruction_is_teacher_forced_to_the_end_token_and_padding_does_not_count():
    vae = tiny_reasoner().vae
    ids, real = vae.tokens(TEXTS)
    z = torch.randn(3, SIZE, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    logits, labels = vae.reconstruction(z, ids, real)
    for row, text in enumerate(TEXTS):
        own = vae.tokenizer.encode(text, add_special_tokens=False)
        assert labels[row, : len(own) + 1].tolist() == [*own, vae.tokenizer.eos_token_id]
        assert (labels[row, len(own) + 1 :] == -100).all()
        alone, _ = vae.reconstruction(z[row : row + 1], *vae.tokens([text]))
        assert torch.allclose(alone[0], logits[row, : len(own) + 1])


def test_the_decoder_writes_what_it_finds_likeliest_behind_the_prefix():
    vae = tiny_reasoner().vae
    z = torch.randn(2, SIZE, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    for row, text in enumerate(vae.decode(z, max_new_tokens=3)):
        ids, real = vae.tokens([text])
        logits, _ = vae.reconstruction(z[row : row + 1] * vae.parts.spread + vae.parts.shift, ids, real)
        assert logits[0, : ids.shape[1]].argmax(-1).tolist() == ids[0].tolist()


@pytest.mark.parametrize("per", ["all", "dimension"])
def test_normalised_latents_have_mean_zero_and_variance_one(per):
    vae = tiny_reasoner().vae
    texts = [f"w{number} w{number + 1}" for number in range(10, 60)]
    raw, _ = vae.encode_distribution(texts)
    vae.fit_normaliser(texts, per)
    z = vae.encode(texts)
    axes = (0, 1) if per == "dimension" else (0, 1, 2)
    assert torch.allclose(z.mean((0, 1)), torch.zeros(WIDTH), atol=1e-5)
    assert torch.allclose(z.pow(2).mean(axes), torch.ones(()), atol=1e-5)
    assert torch.allclose(z.double() * vae.parts.spread + vae.parts.shift, raw.double(), atol=1e-5)


def test_only_training_adds_noise_and_replaces_tokens_and_the_decoder_stays_frozen():
    vae = tiny_reasoner().vae
    ids, real = vae.tokens(TEXTS)
    assert vae.loss({"ids": ids, "real": real})["loss"] == vae.loss({"ids": ids, "real": real})["loss"]
    vae.train()
    before = [p.clone() for p in vae.decoder.parameters()]
    vae.loss({"ids": ids, "real": real})["loss"].backward()
    assert all(p.grad is None for p in vae.decoder.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, vae.decoder.parameters(), strict=True))
    assert vae.encoder.tuned[0].grad is not None and vae.parts.expand.weight.grad is not None
    assert not any(name.startswith("decoder") for name in vae.state_dict())


def test_a_vae_survives_its_folder_whole_and_low_rank(tmp_path):
    engine = tiny_engine()
    for rank in (None, 2):
        vae = SentenceVAE.from_pretrained(engine, latent_tokens=2, latent_dim=4, lora_rank=rank).eval()
        with torch.no_grad():
            for parameter in vae.encoder.tuned:
                parameter.add_(0.05)
        vae.save(tmp_path / str(rank))
        again = SentenceVAE.open(tmp_path / str(rank), engine).eval()
        assert torch.allclose(vae.encode(TEXTS), again.encode(TEXTS), atol=1e-5)
        only = SentenceVAE.open(tmp_path / str(rank), engine, encoder=False)
        with pytest.raises(ValueError, match="decode only"):
            only.encode(TEXTS)


def test_w_in_may_begin_as_w_dec_so_that_the_model_reads_what_the_decoder_reads():
    reasoner = tiny_reasoner()
    vae = reasoner.vae
    vae.fit_normaliser([f"w{number}" for number in range(10, 40)])
    reasoner.read_as_decoder()
    z = torch.randn(2, SIZE, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    raw = z * vae.parts.spread + vae.parts.shift
    assert torch.allclose(reasoner.parts.project(z), vae.parts.expand(raw))


# ---- packing and losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["block", "latents"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_a_packed_batch_says_what_every_sequence_says_alone(architecture, span):
    reasoner = tiny_reasoner(architecture, span=span)
    parts, model = reasoner.parts, reasoner.model
    batch = packed(span, draws=2)
    t = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(5))
    noisy = torch.randn(3, 2, 3, SIZE, WIDTH, generator=torch.Generator().manual_seed(6)).double()
    time = parts.time(t)
    nobody = torch.zeros(3, dtype=torch.bool)
    hidden = reasoner._hidden(batch, batch["mean"], noisy, time, nobody)

    def run(inputs: torch.Tensor, spans: list[tuple[int, int]]) -> torch.Tensor:
        seen = blockwise_mask([len(inputs)], [spans])[:, 0] == 0
        place = torch.arange(len(inputs))[None]
        mask = as_attention_mask(model, seen, place)
        return model.get_decoder()(
            inputs_embeds=inputs[None], attention_mask=mask, position_ids=place, use_cache=False
        ).last_hidden_state[0]

    inner, timed = (span_in_block(SIZE, span, timestep=timestep) for timestep in (False, True))
    for row, one in enumerate(thoughts()):
        sequence = reasoner.tuned.embed(torch.tensor(one.question))
        spans: list[tuple[int, int]] = []
        for block, z in enumerate(one.mean.double()):
            start = len(sequence)
            for draw in range(2):
                alone = parts.noisy(noisy[row, draw, block][None], time[row, draw, block])[0]
                own = run(torch.cat([sequence, alone]), [*spans, (start + timed[0], start + timed[1])])
                assert torch.allclose(own[start + 2 : start + 2 + SIZE], hidden[row, batch["noisy"][row, draw, block]])
            sequence = torch.cat([sequence, parts.finished(z[None])[0]])
            spans.append((start + inner[0], start + inner[1]))
            assert torch.allclose(run(sequence, spans)[-1], hidden[row, batch["ends"][row, block]])
        start = len(sequence)
        answer = reasoner.tuned.embed(torch.tensor(one.answer[:-1]))
        whole = run(torch.cat([sequence, parts.delimiters[SOA][None], answer]), spans)
        labelled = (batch["labels"][row] != -100).nonzero()[:, 0]
        assert batch["labels"][row, labelled].tolist() == one.answer
        assert torch.allclose(whole[start:], hidden[row, labelled])


def test_the_losses_are_finite_everything_learns_and_weights_weigh():
    reasoner = tiny_reasoner(lambdas=(5, 1, 1))
    torch.manual_seed(0)
    found = reasoner.stage1_loss(packed())
    assert found["loss"].item() == pytest.approx((5 * found["flow"] + found["answer"] + found["special"]).item())
    found["loss"].backward()
    assert all(p.grad is not None for p in reasoner.parameters() if p.requires_grad)
    assert reasoner.parts.null.grad.abs().sum() == 0  # in evaluation no question is dropped
    reasoner.zero_grad()
    reasoner.train()
    reasoner.cond_dropout = 1.0
    torch.manual_seed(0)
    dropped = reasoner.stage1_loss(packed())
    assert dropped["answer"] == 0 and dropped["special"] == 0 and dropped["flow"] > 0
    dropped["loss"].backward()
    assert reasoner.parts.null.grad.abs().sum() > 0


def test_a_perfect_head_has_no_flow_loss(monkeypatch):
    reasoner = tiny_reasoner()
    batch = packed()
    monkeypatch.setattr(
        "szilard.reasoning.ladir.reasoner.wanted", lambda objective, gold, eps, t: torch.zeros_like(gold)
    )
    torch.nn.init.zeros_(reasoner.parts.head.out.weight)
    assert reasoner.stage1_loss(batch)["flow"] == 0


@pytest.mark.parametrize("objective", ["flow", "x0", "eps", "v"])
def test_gradients_go_through_the_rollout_with_and_without_checkpointing(objective):
    reasoner = tiny_reasoner(objective=objective)
    gradients = []
    for checkpointing in (False, True):
        reasoner.zero_grad()
        torch.manual_seed(3)
        made = reasoner.rollout(packed(), 3, checkpointing=checkpointing)
        made[:, -1].pow(2).mean().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in reasoner.tuned.tuned])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.allclose(one, other))
    assert any(one is not None and one.abs().sum() > 0 for one in gradients[0])


def test_stage_2_learns_from_its_own_blocks_and_the_gold_latents():
    reasoner = tiny_reasoner()
    torch.manual_seed(4)
    found = reasoner.stage2_loss(packed(), rollout_steps=2)
    assert torch.isfinite(found["loss"]) and found["apart"] > 0
    reasoner.zero_grad()
    (found["answer"] + found["special"]).backward()  # they reach the velocity head through the denoising alone
    assert reasoner.parts.head.out.weight.grad.abs().sum() > 0


# ---- caches and generation -----------------------------------------------------------------------------------------


class Recomputed:
    """The context of `thinking.Context` without a cache: the whole sequence, every time."""

    def __init__(self, reasoner: LaDiRReasoner, question: list[int]) -> None:
        self.reasoner = reasoner
        self.sequence = reasoner.tuned.embed(torch.tensor(question))
        self.spans: list[tuple[int, int]] = []

    def look(self, embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        start, (first, last) = len(self.sequence), self.span(timestep=True)
        return self.run(embeddings, [*self.spans, (start + first, start + last)])

    def keep(self, embeddings: torch.Tensor, seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        start, (first, last) = len(self.sequence), self.span(timestep=False)
        self.spans.append((start + first, start + last))
        hidden = self.run(embeddings, self.spans)
        self.sequence = torch.cat([self.sequence, embeddings[0]])
        return hidden

    def span(self, *, timestep: bool) -> tuple[int, int]:
        return span_in_block(SIZE, self.reasoner.parts.span, timestep=timestep)

    def run(self, embeddings: torch.Tensor, spans: list[tuple[int, int]]) -> torch.Tensor:
        inputs = torch.cat([self.sequence, embeddings[0]])
        place = torch.arange(len(inputs))[None]
        mask = as_attention_mask(self.reasoner.model, blockwise_mask([len(inputs)], [spans])[:, 0] == 0, place)
        hidden = self.reasoner.model.get_decoder()(
            inputs_embeds=inputs[None], attention_mask=mask, position_ids=place, use_cache=False
        ).last_hidden_state
        return hidden[:, -embeddings.shape[1] :]


@pytest.mark.parametrize("span", ["block", "latents"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_denoising_is_full_recomputation(architecture, span):
    reasoner = tiny_reasoner(architecture, span=span)
    given = noise(3, 1)
    out = reasoner.generate(torch.tensor([5, 6, 7, 8]), num_steps=3, max_blocks=3, noise=given, max_new_tokens=2)
    drawn = iter(given)
    with torch.no_grad():
        whole = think(
            reasoner.parts,
            Recomputed(reasoner, [5, 6, 7, 8]),
            Thinking(num_steps=3, max_blocks=3),
            lambda: next(drawn),
            torch.zeros(1, dtype=torch.long),
        )
    assert len(out.blocks[0]) == int(whole.counts[0])
    assert torch.allclose(out.blocks[0], whole.blocks[0], atol=1e-8)


def test_the_context_that_gradients_flow_through_is_full_recomputation_too():
    reasoner = tiny_reasoner()
    whole, graph = Recomputed(reasoner, [5, 6]), None
    tokens = torch.tensor([[5, 6, 0], [5, 6, 7]])
    graph = GraphContext(reasoner.model, reasoner.tuned.embed(tokens), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool())
    how, seen = Thinking(num_steps=2), reasoner.parts.seen(timestep=False)
    with torch.no_grad():
        for given in noise(2, 1):
            one, _, _ = denoise(reasoner.parts, whole, given, how)
            both, _, _ = denoise(reasoner.parts, graph, given.expand(2, -1, -1), how)
            assert torch.allclose(one[0], both[0])
            whole.keep(reasoner.parts.finished(one), seen, torch.ones(1).bool())
            graph.keep(reasoner.parts.finished(both), seen, torch.ones(2).bool())


@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_a_batch_thinks_and_answers_as_every_question_does_alone(cfg_scale):
    reasoner = tiny_reasoner()
    given = noise(4, 3, seed=2)
    options = {"num_steps": 3, "max_blocks": 4, "max_new_tokens": 3, "cfg_scale": cfg_scale}
    together = reasoner.generate(QUESTIONS, REAL, noise=given, **options)
    counts = [len(blocks) for blocks in together.blocks]
    assert len(set(counts)) > 1  # rows of different lengths, or the test says little
    for row in range(3):
        question = QUESTIONS[row][REAL[row].bool()]
        alone = reasoner.generate(question, noise=given[:, row : row + 1], **options)
        assert torch.allclose(alone.blocks[0], together.blocks[row])
        assert alone.answer_ids[0] == together.answer_ids[row]


def test_a_guidance_scale_of_one_is_no_guidance_and_others_change_the_blocks():
    reasoner = tiny_reasoner()
    given = noise(2, 3)
    options = {"num_steps": 2, "max_blocks": 2, "max_new_tokens": 1, "noise": given}
    plain = reasoner.generate(QUESTIONS, REAL, **options)
    for scale, same in ((1.0, True), (3.0, False)):
        guided = reasoner.generate(QUESTIONS, REAL, cfg_scale=scale, **options)
        assert torch.equal(guided.blocks[0][0], plain.blocks[0][0]) == same


def test_guidance_is_the_published_mixture_of_two_contexts():
    reasoner = tiny_reasoner()
    parts, given = reasoner.parts, noise(1, 1)[0]
    null = Recomputed(reasoner, [5, 6, 7])
    null.sequence = torch.cat([null.sequence[:1], parts.null.expand(2, -1)])
    context = Recomputed(reasoner, [5, 6, 7])
    with torch.no_grad():
        z = 2.0 * given
        for t, dt in FlowSchedule(2).pairs():
            at = torch.tensor(t)
            inputs, time = parts.noisy(z, parts.time(at)), parts.time(at)
            u, u_null = (parts.velocity(one.look(inputs, None), z, at, time) for one in (context, null))
            z = z - dt * (u_null + 4.0 * (u - u_null))
    out = reasoner.generate(
        torch.tensor([5, 6, 7]), num_steps=2, max_blocks=1, noise=given[None], cfg_scale=4.0, max_new_tokens=1
    )
    assert torch.allclose(out.blocks[0][0], z[0])


@pytest.mark.parametrize(("scale", "per_step"), [(1.0, 1), (2.0, 2)])
def test_forwards_are_as_many_as_the_steps_say(scale, per_step):
    reasoner = tiny_reasoner()
    torch.nn.init.zeros_(reasoner.parts.special.weight)
    reasoner.parts.special.bias.data = torch.tensor([1.0, 0.0]).double()  # never an answer by itself
    options = {"num_steps": 5, "max_blocks": 2, "max_new_tokens": 3, "min_new_tokens": 3, "noise": noise(2, 3)}
    out = reasoner.generate(QUESTIONS, REAL, cfg_scale=scale, **options)
    assert out.num_denoising_forwards == 2 * 5 * per_step
    # the question (and its null), finished blocks, <SOA>, and the answer but its last token
    assert out.num_forward_passes == out.num_denoising_forwards + per_step + 2 * per_step + 1 + 2
    assert [len(blocks) for blocks in out.blocks] == [2, 2, 2] and out.steps == [[5, 5]] * 3


def test_the_head_decides_when_the_answer_begins():
    reasoner = tiny_reasoner()
    torch.nn.init.zeros_(reasoner.parts.special.weight)
    reasoner.parts.special.bias.data = torch.tensor([0.0, 1.0]).double()
    out = reasoner.generate(QUESTIONS, REAL, num_steps=1, max_blocks=5, noise=noise(5, 3), max_new_tokens=1)
    assert [len(blocks) for blocks in out.blocks] == [1, 1, 1]
    none = reasoner.generate(QUESTIONS, REAL, max_blocks=0, max_new_tokens=1)
    assert [len(blocks) for blocks in none.blocks] == [0, 0, 0] and none.num_denoising_forwards == 0


def test_a_tolerance_stops_rows_whose_prediction_rests_and_none_of_zero_when_it_moves():
    reasoner = tiny_reasoner()
    options = {"max_blocks": 1, "max_new_tokens": 1, "num_steps": 6, "noise": noise(1, 3)}
    still = reasoner.generate(QUESTIONS, REAL, tolerance=1e9, **options)
    assert still.steps == [[2], [2], [2]] and still.num_denoising_forwards == 2
    moving = reasoner.generate(QUESTIONS, REAL, tolerance=0.0, **options)
    plain = reasoner.generate(QUESTIONS, REAL, **options)
    assert moving.steps == [[6], [6], [6]]
    assert all(torch.equal(a, b) for a, b in zip(moving.blocks, plain.blocks, strict=True))


def test_trajectories_of_a_question_differ_and_guidance_acts_within_questions_only():
    reasoner = tiny_reasoner()
    options = {"num_steps": 2, "max_blocks": 1, "max_new_tokens": 1, "num_trajectories": 3}
    diversity = DiversityGuidance(gamma_max=0.5, bandwidth=3.0)
    given = noise(1, 9, seed=8)
    plain = reasoner.generate(QUESTIONS, REAL, noise=given, **options)
    guided = reasoner.generate(QUESTIONS, REAL, noise=given, diversity=diversity, **options)
    alone = reasoner.generate(QUESTIONS[:1], REAL[:1], noise=given[:, :3], diversity=diversity, **options)
    assert len(plain.blocks) == 9 and not torch.equal(plain.blocks[0], plain.blocks[1])
    assert not torch.equal(guided.blocks[0], plain.blocks[0])
    assert torch.allclose(alone.blocks[2], guided.blocks[2])


def test_a_generator_makes_thoughts_repeatable_and_texts_are_decoded_per_block():
    reasoner = tiny_reasoner()
    runs = [
        reasoner.generate(
            QUESTIONS,
            REAL,
            num_steps=2,
            max_blocks=2,
            decode_thoughts=True,
            max_new_tokens=4,
            do_sample=True,
            generator=torch.Generator().manual_seed(5),
        )
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(runs[0].blocks, runs[1].blocks, strict=True))
    assert [len(texts) for texts in runs[0].thought_texts] == [len(blocks) for blocks in runs[0].blocks]


def test_evaluation_counts_answers_blocks_and_gold():
    reasoner = tiny_reasoner()
    examples = [Reasoning("w5 w6", "w7 w8 ; w9", "w10"), Reasoning("w5", "w9", "w11")]
    found = free_running(reasoner, examples, lambda *_: True, num_steps=1, max_new_tokens=1)
    assert found["accuracy"] == 1 and 0 <= found["as_many"] <= 1 and found["blocks"] >= 1
    made = thoughts_of(reasoner.vae, reasoner.tokenizer, examples)
    assert [len(one.mean) for one in made] == [2, 1] and torch.equal(made[0].mean[1], made[1].mean[0])
    assert with_gold_blocks(reasoner.float(), made) in (0.0, 0.5, 1.0)


# ---- tuned models and bad input ------------------------------------------------------------------------------------


def test_folding_low_rank_changes_leaves_what_the_model_says():
    tuned = TunedModel(copy.deepcopy(tiny_model("gpt2")), 2)
    with torch.no_grad():
        for parameter in tuned.tuned:
            parameter.normal_(std=0.1)
        before = tuned.model(QUESTIONS).logits
        model = tuned.fold()
        assert torch.allclose(model(QUESTIONS).logits, before, atol=1e-5)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_half_precision_is_tuned_by_low_rank_changes_only():
    with pytest.raises(ValueError, match="float32"):
        TunedModel(copy.deepcopy(tiny_model("llama")).bfloat16())


def test_a_model_in_bfloat16_learns_by_low_rank_changes_and_thinks():
    engine = tiny_engine()
    engine.model = copy.deepcopy(engine.model).bfloat16()
    vae = SentenceVAE.from_pretrained(engine, latent_tokens=SIZE, latent_dim=WIDTH, lora_rank=2)
    ids, real = vae.tokens(TEXTS)
    vae.train().loss({"ids": ids, "real": real})["loss"].backward()
    reasoner = LaDiRReasoner.from_pretrained(engine, vae=vae.eval(), lora_rank=2).train()
    batch = packer(SIZE, WIDTH, "block", 1)(thoughts())
    for found in (reasoner.stage1_loss(batch), reasoner.stage2_loss(batch, 2)):
        found["loss"].backward()
        assert torch.isfinite(found["loss"])
    out = reasoner.eval().generate(QUESTIONS, REAL, num_steps=2, max_blocks=2, max_new_tokens=1, cfg_scale=2.0)
    assert all(torch.isfinite(blocks).all() and blocks.dtype == torch.float32 for blocks in out.blocks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"max_blocks": -1}, "max_blocks"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"num_trajectories": 0}, "num_trajectories"),
        ({"diversity": 0.3}, "DiversityGuidance"),
        ({"noise": torch.zeros(1, 2, 3)}, "noise must be of shape"),
    ],
)
def test_bad_settings_of_a_run_are_refused(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        tiny_reasoner().generate(QUESTIONS, REAL, **options)


def test_bad_settings_of_the_parts_are_refused():
    base = {"hidden_size": 8, "vocab_size": 9}
    for options, words in (
        ({"objective": "score"}, "objective"),
        ({"span": "all"}, "span"),
        ({"latent_tokens": 0}, "latent_tokens"),
    ):
        with pytest.raises(ValueError, match=words):
            LadirParts(base, **options)
    reasoner = tiny_reasoner()
    for options, words in (({"lambdas": (1, 2)}, "three weights"), ({"cond_dropout": 2.0}, "cond_dropout")):
        with pytest.raises(ValueError, match=words):
            LaDiRReasoner(reasoner.tuned, reasoner.parts, reasoner.tokenizer, **options)
    assert (BOT, EOT, SOA) == (0, 1, 2) and packer(1, 1, "block", 1) is not None
