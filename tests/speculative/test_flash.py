"""Flash: exact whatever it drafts; compression, offsets and sequences by hand; drafting is the training graph."""

import pytest
import torch

import szilard
from szilard.speculative.draft_config import FlashConfig
from szilard.speculative.draft_training import train_heads
from szilard.speculative.flash.drafter import FlashDrafter
from szilard.speculative.flash.method import Flash, _SemiAutoregressive
from szilard.speculative.flash.training import FlashObjective
from szilard.speculative.one_layer import growing, layer_settings
from szilard.speculative.trained import Trees
from szilard.speculative.tree import SMALL_TREE, TreeShape
from szilard.speculative.verify import verify_tree
from szilard.training.target import Target
from tests.conftest import ARCHITECTURES, prompt_batch, tiny_model
from tests.speculative.state import open_state
from tests.speculative.test_lossless import run
from tests.speculative.test_medusa import counting, engine_of  # noqa: F401 - a fixture


def random_drafter(architecture, **options):
    torch.manual_seed(4)
    drafter = FlashObjective.build(Target(engine_of(architecture)), FlashConfig(**options)).double().eval()
    for parameter in drafter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return drafter


def of_size(width, **options):
    base = {"hidden_size": width, "vocab_size": 97}
    config = type(tiny_model("llama").config)(
        hidden_size=width, intermediate_size=4, num_attention_heads=1, num_key_value_heads=1, head_dim=width
    )
    return FlashDrafter(base=base, layer=layer_settings(config), image_token=3, **options)


@pytest.mark.parametrize(("rounds", "head"), [(1, "block"), (2, "block"), (1, "official")])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_unchanged_by_an_untrained_drafter(architecture, rows, rounds, head):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    out = run(model, inputs, Flash(drafter=random_drafter(architecture, head=head), rounds=rounds))
    assert torch.equal(out.sequences, run(model, inputs).sequences)
    assert out.cost.counters["draft_forwards"] == rounds * out.cost.counters["target_forwards"]


def test_sampling_draws_the_same_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    options = {"do_sample": True, "temperature": 1.3}
    method = Flash(drafter=random_drafter("llama"))
    assert torch.equal(run(model, inputs, method, **options).sequences, run(model, inputs, **options).sequences)


def test_compression_by_hand():
    drafter = of_size(2, latents=2)
    with torch.no_grad():
        drafter.queries.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    slots = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = torch.tensor([[0.844638, 0.577681], [0.531689, 0.936621]])
    torch.testing.assert_close(drafter.compress(slots), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drafter.compress(slots[[2, 0, 1]]), expected, atol=1e-5, rtol=1e-5)  # order is nothing
    same = torch.tensor([[0.3, 0.7]])
    torch.testing.assert_close(drafter.compress(same.expand(5, 2)), same.expand(2, 2))


@pytest.mark.parametrize(
    ("options", "count"), [({"latents": 2}, 2), ({"latents": 0}, 0), ({"compression": "none"}, 4), ({"latents": 3}, 3)]
)
def test_the_draft_sequence_keeps_what_stands_around_images(options, count):
    drafter = of_size(2, **options)
    image = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0], dtype=torch.bool)
    features, following = torch.randn(2, 13, 2).unbind(0)
    slots, where = drafter.draft_sequence(features, following, image)
    assert len(slots) == 13 - 8 + 2 * count
    first, second = [1 + count] * 4, [3 + 2 * count] * 4  # an image's slots: where its last latent is
    assert where.tolist() == [0, 1, *first, 2 + count, 3 + count, *second, 4 + 2 * count]
    assert torch.equal(slots[:2], features[:2])  # as they are before the first image
    fused = drafter.fuse(torch.cat([following[12], features[12]]))
    torch.testing.assert_close(slots[-1], fused)


def test_mean_compression_is_the_mean_of_stretches():
    drafter = of_size(2, latents=2, compression="mean")
    slots = torch.tensor([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0], [7.0, 5.0]])
    assert drafter.compress(slots).tolist() == [[1.0, 2.0], [6.0, 5.0]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_drafting_step_by_step_is_the_training_graph(architecture):
    model, inputs = tiny_model(architecture), prompt_batch(3)
    drafter = random_drafter(architecture, draft_tokens=3)
    objective = FlashObjective(drafter, Target(engine_of(architecture)), FlashConfig(draft_tokens=3)).eval()
    shape = SMALL_TREE.truncate(max_depth=3)
    proposer = _SemiAutoregressive(drafter, Trees(shape), 1)
    state = open_state(model, inputs)
    state.commit(state.choose(state.prefill(hidden_states=True)))
    proposer.start(state)
    firsts = [shape.depth.tolist().index(depth) for depth in (1, 2, 3)]
    for step in range(4):
        tree = proposer.propose(state)
        for row in range(3):
            ids = state.tokens[row : row + 1, -int(state.lengths[row]) :]
            hidden = model(ids[:, :-1], output_hidden_states=True).hidden_states[-1]
            padded = torch.nn.functional.pad(hidden, (0, 0, 0, 1))
            with torch.no_grad():
                source = torch.tensor([[0, ids.shape[1] - 2]])
                logits = objective.draft(ids, padded, torch.ones_like(ids, dtype=torch.bool), source).logits[:, 0]
            best = logits.topk(4, dim=-1).indices
            assert tree.tokens[row, 1:5].tolist() == best[0].tolist()
            assert tree.tokens[row, firsts].tolist() == best[:, 0].tolist()
        logits = state.feed(tree=tree, hidden_states=True)
        verdict = verify_tree(state, tree, logits)
        counts = torch.tensor([1 + (step + row) % 3 for row in range(3)])
        path = torch.tensor([[0, firsts[0], firsts[1]]] * 3)
        tokens = torch.cat([tree.tokens[:, path[0, 1:]], tree.tokens[:, :1]], dim=1)
        for row in range(3):  # the token behind the last accepted one: any
            tokens[row, counts[row] - 1] = 5 + row
        verdict = type(verdict)(path, counts, tokens)
        state.keep(path, counts)
        proposer.observe(state, tree, verdict)
        state.commit(tokens, counts)


def test_the_official_head_is_attention_alone():
    drafter = random_drafter("llama", head="official")
    slots, at = torch.randn(1, 4, 32).double(), torch.arange(4)[None]
    visible = growing(torch.zeros(1, 0, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool))
    out = drafter(slots, at, visible)
    body = drafter.body.layers[0]
    value = body.self_attn.v_proj(slots[0, 0]).view(2, 8).repeat_interleave(2, dim=0).flatten()  # slot 0 sees itself
    attended = body.self_attn.o_proj(value)
    expected = drafter.spread(torch.nn.functional.silu(drafter.widen(attended))).view(5, 32)
    torch.testing.assert_close(out[0, 0], expected)


def test_a_drafter_learns_and_is_used(tmp_path, counting):  # noqa: F811
    engine = engine_of("llama")
    config = FlashConfig(
        draft_tokens=3, steps=80, batch_size=4, window=40, learning_rate=0.01, w_token=1.0, noise=0.0, max_grad_value=0
    )
    metrics = train_heads(FlashObjective, engine, counting, config, tmp_path)
    rows = szilard.training.loop.read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and metrics["positions"] > 0
    method = szilard.Flash.from_pretrained(tmp_path, rounds=2)
    plain = engine.generate("w10 w11", max_new_tokens=12)
    assert engine.generate("w10 w11", method=method, max_new_tokens=12).tokens == plain.tokens


def test_fewer_slots_than_parts_are_kept_as_they_are():
    slots = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    assert torch.equal(of_size(2, latents=5, compression="mean").compress(slots), slots)


def test_further_rounds_draft_deeper():
    drafter = random_drafter("llama")
    shape = Flash(drafter=drafter, rounds=2).shape(drafter)
    assert shape.max_depth == 10 and len(shape.parent) <= 26 and shape.choices()[0] == (0,)
    assert Flash(drafter=drafter, rounds=2, max_nodes=4).shape(drafter).max_depth == 4
    own = TreeShape.of([(0,) * depth for depth in range(1, 8)])
    assert Flash(drafter=drafter, rounds=2, tree=own).shape(drafter).max_depth == 7
    assert Flash(drafter=drafter, tree=own).shape(drafter).max_depth == 5
    with pytest.raises(ValueError, match="one round"):
        Flash(drafter=drafter, rounds=2, tree="measured").shape(drafter)
