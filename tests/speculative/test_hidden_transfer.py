"""Hidden Transfer: real slots are untouched, true states give true logits, drafts come with the verification."""

import pytest
import torch

import szilard
from szilard.speculative.draft_config import HiddenTransferConfig
from szilard.speculative.draft_training import train_heads
from szilard.speculative.hidden_transfer.method import HiddenTransfer, _Pseudo
from szilard.speculative.hidden_transfer.pseudo_slots import PseudoSlots
from szilard.speculative.hidden_transfer.training import HiddenTransferObjective
from szilard.speculative.trained import Trees
from szilard.speculative.tree import SMALL_TREE
from szilard.speculative.verify import verify_tree
from szilard.training.loop import read_metrics
from szilard.training.target import Target
from tests.conftest import ARCHITECTURES, prompt_batch, tiny_model
from tests.speculative.state import open_state
from tests.speculative.test_lossless import run
from tests.speculative.test_medusa import counting, engine_of  # noqa: F401 - a fixture


def random_transfer(width, steps):
    weight = torch.randn(steps, width, width, generator=torch.Generator().manual_seed(1)).double() / width**0.5
    return lambda hidden, step: hidden @ weight[step].T


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", [[1, 2], [2, 1], [3, 3], [2, 2]])
def test_real_logits_do_not_feel_pseudo_slots(architecture, layers):
    model = tiny_model(architecture)
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = model(ids).logits
    slots = PseudoSlots(model, layers, random_transfer(32, 2))
    with slots.inserted():
        out = model(ids)
    assert torch.equal(out.logits, plain) or torch.allclose(out.logits, plain, atol=1e-12)
    assert slots.final.shape == (2, 9, 2, 32)
    assert torch.equal(model(ids).logits, plain)  # nothing is left behind


@pytest.mark.parametrize("attention", [True, False])
def test_at_the_last_layer_a_step_is_a_medusa_head(attention):
    model = tiny_model("llama")
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    transfer = random_transfer(32, 2)
    slots = PseudoSlots(model, [3, 3], transfer, attention=attention)
    raw = {}
    handle = model.model.layers[-1].register_forward_hook(lambda module, inputs, output: raw.update(h=output))
    with slots.inserted():
        model(ids)
    handle.remove()
    for step in range(2):
        expected = model.model.norm(transfer(raw["h"], step))
        torch.testing.assert_close(slots.final[:, :, step], expected)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gpt2"])
@pytest.mark.parametrize("layer", [1, 2])
def test_true_states_give_the_true_logits(architecture, layer):
    """Masks, positions and rotary phases: with h_{n+i} in the place of W_i h_n, slot i computes token n + i."""
    model = tiny_model(architecture)
    ids = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    raw = {}
    handle = model.get_decoder().layers[layer - 1].register_forward_hook(lambda m, i, output: raw.update(h=output))
    logits = model(ids).logits
    handle.remove()
    sources = torch.tensor([[2, 7, 9], [0, 4, 8]])
    true = torch.stack(
        [torch.stack([raw["h"][row, sources[row] + step] for step in (1, 2)], dim=1) for row in range(2)]
    )
    slots = PseudoSlots(model, [layer, layer], random_transfer(32, 2))
    with slots.inserted(sources, inject=true):
        model(ids)
    found = model.get_output_embeddings()(slots.final)
    for row in range(2):
        for column, source in enumerate(sources[row].tolist()):
            for step in (1, 2):
                torch.testing.assert_close(
                    found[row, column, step - 1], logits[row, source + step], atol=1e-8, rtol=1e-8
                )


def random_projections(architecture, **options):
    torch.manual_seed(6)
    heads = HiddenTransferObjective.build(Target(engine_of(architecture)), HiddenTransferConfig(**options)).double()
    torch.nn.init.normal_(heads.weight, std=0.3)
    return heads


@pytest.mark.parametrize("max_sources", [None, 3])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_unchanged_by_random_projections(architecture, rows, max_sources):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    method = HiddenTransfer(drafter=random_projections(architecture, layers="2,1,3"), max_sources=max_sources)
    out = run(model, inputs, method)
    assert torch.equal(out.sequences, run(model, inputs).sequences)
    assert out.cost.counters["pseudo_slot_layers"] > 0


def test_sampling_draws_the_same_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    options = {"do_sample": True, "temperature": 1.3}
    method = HiddenTransfer(drafter=random_projections("llama"))
    assert torch.equal(run(model, inputs, method, **options).sequences, run(model, inputs, **options).sequences)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_drafts_made_while_verifying_are_those_of_a_second_forward(architecture):
    """Of the accepted text alone: verify, then draft from it."""
    model, inputs = tiny_model(architecture), prompt_batch(3)
    heads = random_projections(architecture, layers="2,1,1")
    shape = SMALL_TREE.truncate(max_depth=3)
    drafter = _Pseudo(heads, Trees(shape), None)
    state = open_state(model, inputs)
    with drafter.watching(state, None):
        logits = state.prefill()
    state.commit(state.choose(logits))
    drafter.start(state)
    for step in range(4):
        tree = drafter.propose(state)
        if step or architecture != "gemma3":
            for row in range(3):
                text = state.tokens[row : row + 1, -int(state.lengths[row]) : -1]
                slots = PseudoSlots(model, heads.layers, heads)
                with slots.inserted(torch.tensor([[text.shape[1] - 1]])), torch.no_grad():
                    model(text)
                best = state.unembed(slots.final[0, 0]).topk(4, dim=-1).indices  # [steps, 4]
                assert tree.tokens[row, 1:5].tolist() == best[0].tolist()
                assert tree.tokens[row, shape.depth.tolist().index(2)] == best[1, 0]
                assert tree.tokens[row, shape.depth.tolist().index(3)] == best[2, 0]
        with drafter.watching(state, tree):
            logits = state.feed(tree=tree)
        verdict = verify_tree(state, tree, logits)
        if tree.tokens.shape[1] > 1:  # rows accept different lengths, whatever the model thinks of it
            counts = torch.tensor([1 + (step + row) % 3 for row in range(3)])
            path = torch.tensor([[0, shape.depth.tolist().index(1), shape.depth.tolist().index(2)]] * 3)
            verdict = type(verdict)(path, counts, torch.cat([tree.tokens[:, path[0, 1:]], tree.tokens[:, :1]], dim=1))
        state.keep(verdict.path, verdict.counts)
        drafter.observe(state, tree, verdict)
        state.commit(verdict.tokens, verdict.counts)
        assert state.cached.tolist() == (state.lengths - 1).tolist()


def test_the_mask_of_three_nodes_and_two_steps():
    model = tiny_model("llama")
    slots = PseudoSlots(model, [1, 1], random_transfer(32, 2))
    seen = {}
    tree = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)[None, None]
    with slots.inserted():
        handle = model.model.layers[2].register_forward_pre_hook(
            lambda module, inputs, options: seen.update(options), with_kwargs=True
        )
        additive = torch.zeros(1, 1, 3, 3).double().masked_fill(~tree, torch.finfo(torch.float64).min)
        model(torch.tensor([[5, 6, 7]]), attention_mask=additive, position_ids=torch.tensor([[0, 1, 1]]))
    handle.remove()
    rows = ["".join("1" if value == 0 else "0" for value in row) for row in seen["attention_mask"][0, 0].tolist()]
    # Slots by step and node here: (v, 1) of all nodes, then (v, 2); the published order is by node and step.
    order = [0, 1, 2, 3, 6, 4, 7, 5, 8]
    assert ["".join(rows[line][column] for column in order) for line in order] == (
        "100000000 110000000 101000000 100100000 100110000 110001000 110001100 101000010 101000011".split()
    )


def test_projections_learn_and_are_used(tmp_path, counting):  # noqa: F811
    engine = engine_of("llama")
    config = HiddenTransferConfig(transfer_steps=2, steps=80, batch_size=4, window=40, learning_rate=0.02)
    metrics = train_heads(HiddenTransferObjective, engine, counting, config, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and metrics["positions"] > 0
    method = szilard.HiddenTransfer.from_pretrained(tmp_path)
    plain = engine.generate("w10 w11", max_new_tokens=12)
    assert engine.generate("w10 w11", method=method, max_new_tokens=12).tokens == plain.tokens


def test_layers_beyond_the_model_are_refused():
    with pytest.raises(ValueError, match="between 1 and 3"):
        HiddenTransferObjective.build(Target(engine_of("llama")), HiddenTransferConfig(transfer_steps=1, layers="4"))
    with pytest.raises(ValueError, match="2 numbers"):
        HiddenTransferConfig(transfer_steps=2, layers="4")


def test_the_likeliest_nodes_of_the_tree_that_is_fed_get_slots():
    """Also when a budget has cut the tree."""
    model, inputs = tiny_model("llama"), prompt_batch(2)
    drafter = _Pseudo(random_projections("llama", layers="2,1,1"), Trees(SMALL_TREE.truncate(max_depth=3)), 4)
    state = open_state(model, inputs)
    with drafter.watching(state, None):
        logits = state.prefill()
    state.commit(state.choose(logits))
    drafter.start(state)
    tree = drafter.propose(state).truncate(max_nodes=9)
    with drafter.watching(state, tree):
        state.feed(tree=tree)
    assert drafter.slots.final.shape[:2] == (2, 4)
    log = drafter.chances
    for row in range(2):
        paths = [tree.path(row, node)[1:] for node in range(9)]
        scores = [sum(float(log[row, d, tree.tokens[row, node]]) for d, node in enumerate(path)) for path in paths]
        best = sorted(range(9), key=lambda node: -scores[node])[:4]
        assert drafter.sources[row].tolist() == sorted(best)


def test_a_static_cache_is_refused():
    method = HiddenTransfer(drafter=random_projections("llama"))
    with pytest.raises(ValueError, match="cannot be rewound"):
        run(tiny_model("llama"), prompt_batch(1), method, cache_implementation="static")
