"""What goes through which slot in both stages, and the losses, exactly."""

import math

import pytest
import torch

from szilard.engines.model_parts import unembed
from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder, hidden_states
from szilard.reasoning.latent_sft.masks import (
    ANSWER,
    LATENT,
    PREFIX,
    TEXT,
    causal_mask,
    dual_track_positions,
    induction_mask,
    plain_positions,
    supervision_mask,
)
from szilard.reasoning.latent_sft.samples import Sample, Stage1Data, Stage2Data, as_samples, decoder_slots, padded
from szilard.reasoning.latent_sft.stage1 import LatentSFTStage1
from szilard.reasoning.latent_sft.stage2 import LatentSFTStage2, divergence, per_problem
from szilard.reasoning.latent_sft.superposition import VocabularySpace, gumbel, soft_embedding, superposition
from tests.conftest import tiny_model
from tests.reasoning.latent_sft import tiny

ONE = Sample((5, 6, 7), (11, 12, 13, 14, 15, 16, 17), (8, 9), (20, 1))


def states(model, one, rate, vectors, ids=None):
    slots = padded([decoder_slots(one, rate)])
    stage = LatentSFTStage1(None, model, tiny.config(compression_rate=rate, lora=False))
    with torch.no_grad():
        ids = slots["ids"] if ids is None else ids
        return slots, stage.decoder_states(vectors, ids, slots["role"], slots["chunk"])[0]


def drawn(model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, model.config.hidden_size, generator=generator, dtype=model.dtype)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_a_chunk_hears_of_the_past_through_its_latent_token_alone(architecture):
    model = tiny_model(architecture)
    vectors = drawn(model, 4)
    slots, before = states(model, ONE, 2, vectors)
    role, chunk = slots["role"][0], slots["chunk"][0]
    for changed in (1, 2, 3):
        ids = slots["ids"].clone()
        ids[0, (role == TEXT) & (chunk == changed)] += 30
        after = states(model, ONE, 2, vectors, ids)[1]
        same = (before == after).all(-1) | torch.isclose(before, after, atol=1e-12).all(-1)
        assert bool(same[(role != TEXT) | (chunk != changed)].all())
        assert not bool(same[(role == TEXT) & (chunk == changed)].any())


def test_a_latent_token_reaches_what_stands_behind_it_and_nothing_else():
    model = tiny_model("llama")
    vectors = drawn(model, 4)
    slots, before = states(model, ONE, 2, vectors)
    role, chunk = slots["role"][0], slots["chunk"][0]
    for changed in range(1, 5):
        other = vectors.clone()
        other[changed - 1] += 1
        after = states(model, ONE, 2, other)[1]
        moved = ~torch.isclose(before, after, atol=1e-9).all(-1)
        expected = ((role == LATENT) | (role == TEXT)) & (chunk >= changed) | (role == ANSWER)
        assert torch.equal(moved, expected)  # into a later chunk through its own latent token's states
    ids = slots["ids"].clone()
    ids[0, 0] += 1
    moved = ~torch.isclose(before, states(model, ONE, 2, vectors, ids)[1], atol=1e-9).all(-1)
    assert bool(moved.all())  # and so does the question


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_stage_2_is_stage_1_without_the_text(architecture):
    """Mask and positions together: the chain's text is gone, and nothing else changed."""
    model = tiny_model(architecture)
    vectors = drawn(model, 4)
    slots, first = states(model, ONE, 2, vectors)
    role = slots["role"][0]
    with torch.no_grad():
        embedded = model.get_input_embeddings()(slots["ids"])
        embedded[0, role == LATENT] = vectors
        chain = model(inputs_embeds=embedded[:, role != TEXT]).logits[0]
        assert torch.allclose(unembed(model, first)[role != TEXT], chain, atol=1e-9)


def test_layers_with_a_window_see_no_further_than_it():
    model = tiny_model("gemma3")
    ids = torch.randint(3, 90, (1, 20), generator=torch.Generator().manual_seed(0))
    role = torch.full_like(ids, PREFIX)
    backbone = model.get_decoder()
    with torch.no_grad():
        ours = hidden_states(backbone, backbone.get_input_embeddings()(ids), causal_mask(role), plain_positions(role))
        assert torch.allclose(ours, backbone(input_ids=ids).last_hidden_state, atol=1e-9)


def test_text_under_ltim_is_plain_text_where_latent_tokens_take_no_positions():
    model = tiny_model("llama")
    backbone = model.get_decoder()
    one = Stage1Data([ONE], 2).collate([ONE])
    ids, role = one["encoder_ids"], one["encoder_role"]
    text = role != LATENT
    with torch.no_grad():
        embedded, mask = backbone.get_input_embeddings()(ids), induction_mask(role)
        squeezed = hidden_states(backbone, embedded, mask, text.cumsum(1) - 1)
        counted = hidden_states(backbone, embedded, mask, plain_positions(role))
        plain = backbone(input_ids=ids[text][None]).last_hidden_state
    assert torch.allclose(squeezed[text], plain[0], atol=1e-9)
    assert not torch.allclose(counted[text], plain[0], atol=1e-3)


def test_a_latent_token_sums_up_its_prefix_without_hearing_of_the_others():
    model = tiny_model("llama")
    space = VocabularySpace(model, "input_embedding", 3)
    encoder = LatentTokenEncoder(model.get_decoder(), space, tiny.config(lora=False))
    one = Stage1Data([ONE], 2).collate([ONE])
    made = encoder(one["encoder_ids"], one["encoder_role"])
    assert made.probabilities.shape == (4, 3) and made.vectors.shape == (4, 32)
    with torch.no_grad():
        encoder.compress += 1
    other = encoder(one["encoder_ids"], one["encoder_role"])
    assert not torch.allclose(made.hidden, other.hidden)
    # a token of the text moves its own latent token and later ones, which do not hear of the earlier latent tokens
    changed = one["encoder_ids"].clone()
    changed[0, 7] += 1  # in the second chunk
    moved = ~torch.isclose(encoder(changed, one["encoder_role"]).hidden, other.hidden, atol=1e-9).all(-1)
    assert moved.tolist() == [False, True, True, True]


@pytest.mark.parametrize("readout", ["input_embedding", "lm_head"])
def test_the_readout_is_what_it_says_and_gives_the_embeddings_no_gradient(readout):
    model = tiny.arithmetic_model(tied=False).requires_grad_(True)
    space = VocabularySpace(model, readout, 0)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    probabilities, tokens = space.distribution(hidden)
    assert tokens is None and probabilities.shape == (3, len(tiny.tokenizer()))
    layer = model.get_input_embeddings() if readout == "input_embedding" else model.get_output_embeddings()
    assert torch.allclose(probabilities, (hidden @ layer.weight.T).softmax(-1))
    space.vectors(probabilities, tokens).sum().backward()
    assert hidden.grad is not None
    assert model.get_input_embeddings().weight.grad is None and model.get_output_embeddings().weight.grad is None


def test_one_token_is_its_embedding_and_all_tokens_are_the_sum_over_the_vocabulary():
    model = tiny_model("gemma3")  # whose layer scales what it looks up
    logits = torch.randn(4, 97, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedding = model.get_input_embeddings()
    probabilities, tokens = superposition(logits, 1)
    looked_up = embedding(logits.argmax(-1))
    assert torch.allclose(soft_embedding(embedding, probabilities, tokens), looked_up, atol=1e-12)
    few = superposition(logits, 5)
    assert torch.allclose(few[0].sum(-1), torch.ones(4, dtype=torch.float64))
    whole, none = superposition(logits, 97)
    assert none is None
    by_hand = whole @ embedding(torch.arange(97))
    assert torch.allclose(soft_embedding(embedding, whole, None), by_hand, atol=1e-10)


def test_sums_are_in_float32_whatever_the_weights_are():
    embedding = torch.nn.Embedding(50, 16).to(torch.bfloat16)
    probabilities, tokens = superposition(torch.randn(2, 50).to(torch.bfloat16), 10)
    assert probabilities.dtype == torch.float32 and torch.allclose(probabilities.sum(-1), torch.ones(2))
    assert soft_embedding(embedding, probabilities, tokens).dtype == torch.float32


def test_noise_of_no_scale_is_none_and_a_high_temperature_levels():
    p = torch.tensor([[0.7, 0.2, 0.1]])
    assert torch.equal(gumbel(p, scale=0.0), p)
    assert torch.allclose(gumbel(p, scale=1.0, temperature=1e6), torch.full((1, 3), 1 / 3), atol=1e-4)
    generator = torch.Generator().manual_seed(0)
    noisy = gumbel(p.expand(20000, 3), scale=1.0, generator=generator)
    share = (noisy.argmax(-1)[:, None] == torch.arange(3)).float().mean(0)
    assert torch.allclose(share, p[0], atol=0.02)  # Gumbel-max draws from p
    cut = gumbel(p.expand(2000, 3), scale=50.0, clamp=(-1.5, 3.0), generator=generator)
    odds = (cut[:, 0] / cut[:, 1]).log() - math.log(0.7 / 0.2)
    assert float(odds.abs().max()) <= 4.5 + 1e-4


def test_a_label_of_one_token_makes_the_divergence_a_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    log_q = torch.randn(6, 20, generator=generator).log_softmax(-1)
    tokens = torch.randint(0, 20, (6, 1), generator=generator)
    found = divergence(torch.ones(6, 1), tokens, log_q)
    assert torch.allclose(found, torch.nn.functional.cross_entropy(log_q, tokens[:, 0], reduction="none"))
    dense = torch.nn.functional.one_hot(tokens[:, 0], 20).float()
    assert torch.allclose(divergence(dense, None, log_q), found)


def test_the_divergence_is_nothing_only_where_the_model_says_just_the_label():
    p, tokens = torch.tensor([[0.6, 0.4]]), torch.tensor([[3, 1]])
    inside = torch.full((1, 8), -math.inf)
    inside[0, 3], inside[0, 1] = math.log(0.6), math.log(0.4)
    assert float(divergence(p, tokens, inside)) == pytest.approx(0, abs=1e-6)
    # the same odds with half of the mass elsewhere is no match: the student is not renormalised
    outside = torch.full((1, 8), math.log(0.5 / 6))
    outside[0, 3], outside[0, 1] = math.log(0.3), math.log(0.2)
    assert float(divergence(p, tokens, outside)) == pytest.approx(math.log(2), abs=1e-6)
    q = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    assert bool((divergence(p.expand(50, 2), tokens.expand(50, 2), q) >= -1e-6).all())


def test_problems_count_alike_however_long_their_chains_are():
    assert float(per_problem(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 4]))) == 5.0


def stage_2(**settings):
    tok = tiny.tokenizer()
    config = tiny.config(lora=False, **settings)
    return LatentSFTStage2(tiny.arithmetic_model(), config, tok.convert_tokens_to_ids("</think>")), tok, config


def test_stage_2s_divergence_is_at_the_slot_before_each_latent_token():
    stage, tok, config = stage_2(gumbel_scale=0.0)
    samples = as_samples(tiny.problems(3), tok, config)
    labels = []
    for number, sample in enumerate(samples):
        count = -(-len(sample.chain) // 2)
        generator = torch.Generator().manual_seed(number)
        p, t = superposition(torch.randn(count, len(tok), generator=generator), 3)
        labels.append({"probabilities": p, "tokens": t})
    batch = Stage2Data.collate([{"sample": s, "label": x} for s, x in zip(samples, labels, strict=True)])
    found = stage(**batch)
    kl, ce = [], []
    for sample, label in zip(samples, labels, strict=True):
        embed = stage.model.get_input_embeddings()
        vectors = soft_embedding(embed, label["probabilities"], label["tokens"])
        parts = [embed(torch.tensor(sample.prefix)), vectors, embed(torch.tensor(sample.after))]
        log_q = stage.model(inputs_embeds=torch.cat(parts)[None]).logits[0].log_softmax(-1)
        s, n = len(sample.prefix), len(vectors)
        kl.append(divergence(label["probabilities"], label["tokens"], log_q[s - 1 : s + n - 1]).mean())
        ce.append(-log_q[s + n - 1 : -1].gather(1, torch.tensor(sample.after)[:, None])[:, 0])
    assert torch.allclose(found["kl"], torch.stack(kl).mean(), atol=1e-5)
    assert torch.allclose(found["ce"], torch.cat(ce).mean(), atol=1e-5)
    assert torch.allclose(found["loss"], found["kl"] + found["ce"])


def test_noisy_labels_never_begin_with_the_end_of_the_chain():
    stage = stage_2()[0]
    close = stage.close_id
    tokens = torch.tensor([[close, 12, 13]]).expand(400, 3)
    p = torch.tensor([[0.4, 0.3, 0.3]]).expand(400, 3)
    row = torch.arange(400)
    found = stage.noisy(p, tokens, row, 400)
    assert not bool((found.argmax(-1) == 0).any()) and not torch.equal(found, p)
    certain = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.equal(stage.noisy(certain, tokens[:1], row[:1], 1), certain)  # a hundred draws all stop


def test_the_paper_averages_over_chunks_and_the_code_over_tokens():
    model = tiny.arithmetic_model()
    tok = tiny.tokenizer()
    losses = {}
    for average in ("token", "chunk"):
        config = tiny.config(lora=False, average=average)
        samples = as_samples(tiny.problems(4), tok, config)
        space = VocabularySpace(model, config.readout, config.top_k)
        stage = LatentSFTStage1(LatentTokenEncoder(model.get_decoder(), space, config), model, config)
        data = Stage1Data(samples, 2)
        batch = data.collate(samples)
        losses[average] = float(stage(**batch)["loss"].detach())
        logits, labels, chunk = logits_of(stage, batch), batch["labels"], batch["chunk"]
        each = [{} for _ in samples]
        for b in range(len(samples)):
            for i in range(1, labels.shape[1]):
                if labels[b, i] >= 0:
                    nll = -float(logits[b, i - 1].log_softmax(-1)[labels[b, i]])
                    each[b].setdefault(int(chunk[b, i]), []).append(nll)
        tokens = [nll for row in each for group in row.values() for nll in group]
        groups = [sum(sum(g) / len(g) for g in row.values()) / len(row) for row in each]
        expected = sum(tokens) / len(tokens) if average == "token" else sum(groups) / len(groups)
        assert losses[average] == pytest.approx(expected, rel=1e-5)
    assert losses["token"] != pytest.approx(losses["chunk"], rel=1e-4)


def logits_of(stage, batch):
    with torch.no_grad():
        made = stage.encoder(batch["encoder_ids"], batch["encoder_role"])
        hidden = stage.decoder_states(made.vectors, batch["ids"], batch["role"], batch["chunk"])
        return unembed(stage.decoder, hidden)


def test_a_right_answer_is_one_that_greedy_decoding_would_write():
    model, tok = tiny.arithmetic_model(3), tiny.tokenizer()
    config = tiny.config(lora=False)
    samples = as_samples(tiny.problems(2), tok, config)
    space = VocabularySpace(model, config.readout, config.top_k)
    stage = LatentSFTStage1(LatentTokenEncoder(model.get_decoder(), space, config), model, config).eval()
    batch = Stage1Data(samples, 2).collate(samples[:1])
    logits = logits_of(stage, batch)[0]
    place = int((batch["role"][0] == ANSWER).nonzero()[0])
    said = logits[place - 1 : place - 1 + len(samples[0].after)].argmax(-1)
    assert float(stage(**batch)["answers"]) == float(said.tolist() == samples[0].after)
    # make it right by asking for what it says, token by token
    wanted = samples[0]
    for index in range(len(wanted.after)):
        after = wanted.after
        now = Stage1Data([wanted], 2).collate([wanted])
        after[index] = int(logits_of(stage, now)[0, place - 1 + index].argmax())
        close = len(wanted.close)
        wanted = Sample(wanted.prefix, wanted.chain, tuple(after[:close]), tuple(after[close:]))
    # another end of chain is another encoder input, but no latent token looks ahead to it
    assert float(stage(**Stage1Data([wanted], 2).collate([wanted]))["answers"]) == 1.0


@pytest.mark.parametrize("switch", [{"induction_mask": False}, {"supervision_mask": False}])
def test_without_a_mask_everything_before_is_seen(switch):
    model = tiny.arithmetic_model()
    config = tiny.config(lora=False, **switch)
    space = VocabularySpace(model, config.readout, config.top_k)
    stage = LatentSFTStage1(LatentTokenEncoder(model.get_decoder(), space, config), model, config)
    samples = as_samples(tiny.problems(1), tiny.tokenizer(), config)
    batch = Stage1Data(samples, 2).collate(samples)
    if "supervision_mask" in switch:
        embedded = model.get_input_embeddings()(batch["ids"])
        vectors = stage.encoder(batch["encoder_ids"], batch["encoder_role"]).vectors
        ours = stage.decoder_states(vectors, batch["ids"], batch["role"], batch["chunk"])
        embedded[batch["role"] == LATENT] = vectors
        assert torch.allclose(ours, model.get_decoder()(inputs_embeds=embedded).last_hidden_state, atol=1e-5)
        assert not torch.allclose(supervision_mask(batch["role"], batch["chunk"]), causal_mask(batch["role"]))
    else:
        ids, role = batch["encoder_ids"], batch["encoder_role"]
        embedded = stage.encoder.backbone.get_input_embeddings()(ids)
        embedded[role == LATENT] = stage.encoder.compress
        plain = stage.encoder.backbone(inputs_embeds=embedded).last_hidden_state[role == LATENT]
        assert torch.allclose(stage.encoder(ids, role).hidden, plain, atol=1e-5)


def test_dual_track_is_another_computation_than_plain_positions():
    role = torch.tensor([[PREFIX, LATENT, TEXT, LATENT, ANSWER]])
    assert dual_track_positions(role).tolist() != plain_positions(role).tolist()
