"""Chimera: exact whatever it drafts; drafting step by step is the training graph; its published sizes."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig

import szilard
from szilard.speculative.chimera.drafter import ChimeraDrafter, triples
from szilard.speculative.chimera.method import Chimera, _Fused, expanded_nodes
from szilard.speculative.chimera.training import ChimeraObjective
from szilard.speculative.draft_config import ChimeraConfig
from szilard.speculative.draft_training import train_heads
from szilard.speculative.flash.drafter import FlashDrafter
from szilard.speculative.flash.method import Flash
from szilard.speculative.one_layer import layer_settings, one_layer_model
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
    target = Target(engine_of(architecture))
    drafter = ChimeraObjective.build(target, ChimeraConfig(**options)).double().eval()
    for parameter in drafter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return drafter


@pytest.mark.parametrize("expand", ["spine", "branches"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_unchanged_by_an_untrained_drafter(architecture, rows, expand):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    out = run(model, inputs, Chimera(drafter=random_drafter(architecture), expand=expand))
    assert torch.equal(out.sequences, run(model, inputs).sequences)
    assert out.cost.counters["draft_forwards"] == 4 * out.cost.counters["target_forwards"]


ABLATIONS = [{"trigram": "paper"}, {"trigram": "off"}, {"use_context": False}, {"use_hidden": False}, {"head": "full"}]


@pytest.mark.parametrize("options", ABLATIONS)
def test_sampling_draws_the_same_tokens_under_every_ablation(options):
    model, inputs = tiny_model("llama"), prompt_batch(1)
    method = Chimera(drafter=random_drafter("llama", **options))
    drawn = {"do_sample": True, "temperature": 1.3}
    assert torch.equal(run(model, inputs, method, **drawn).sequences, run(model, inputs, **drawn).sequences)


@pytest.mark.parametrize("head", ["shared", "full"])
def test_fresh_heads_add_the_logits_of_both_hidden_states(head):
    target = Target(engine_of("llama"))
    drafter = ChimeraObjective.build(target, ChimeraConfig(head=head)).double()
    h, o = torch.randn(2, 3, drafter.hidden_size).double().unbind(0)
    expected = target.unembed(h) + target.unembed(o)
    for depth in range(4):
        torch.testing.assert_close(drafter.logits(depth, h, o, target.unembed), expected, atol=1e-5, rtol=1e-5)


def test_the_trigram_of_short_texts():
    tokens = torch.tensor([[0, 0, 5], [0, 4, 5], [3, 4, 5]])
    assert triples(tokens, torch.tensor([1, 2, 9])).tolist() == [[5, 5, 5], [4, 5, 5], [3, 4, 5]]


def test_sizes_for_a_model_of_7b():
    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=32000)
    with torch.device("meta"):
        layer = one_layer_model(layer_settings(config))
        base = {"hidden_size": 4096, "vocab_size": 32000}
        drafter = ChimeraDrafter(base=base, layer=layer_settings(config), head="full")
    assert sum(parameter.numel() for parameter in layer.parameters()) == 202_383_360
    trigram = [*drafter.widen.parameters(), *drafter.narrow.parameters()]
    assert sum(parameter.numel() for parameter in trigram) == 201_338_880
    assert drafter.output.numel() == 1_048_576_000


def test_labels_by_hand():
    target = Target(engine_of("llama"))
    objective = ChimeraObjective(random_drafter("llama", heads=2), target, ChimeraConfig(heads=2)).eval()
    ids = torch.tensor([[10, 11, 12, 13, 14, 15]])
    sources, targets, counts = objective.sources(ids, torch.ones_like(ids, dtype=torch.bool))
    at = sources[:, 1].tolist().index(1)
    assert targets[at].tolist() == [13, 14] and counts[at].tolist() == [True, True]
    assert counts[sources[:, 1].tolist().index(3)].tolist() == [True, False]


def test_losses_from_the_models_own_logits_by_hand():
    target = Target(engine_of("llama"))
    drafter = random_drafter("llama", heads=2).double()
    ids = torch.tensor([[10, 11, 12, 13, 14, 15, 16]])
    with torch.no_grad():
        read = target.model(ids, output_hidden_states=True)
    hidden, own = read.hidden_states[-1], read.logits
    valid = torch.ones_like(ids, dtype=torch.bool)
    sources = torch.tensor([[0, 1], [0, 3]])
    config = ChimeraConfig(heads=2, w_logits=0.5, logits_distance="mse", labels="base", decay=0.25)
    objective = ChimeraObjective(drafter, target, config).eval()
    drafted = objective.draft(ids, hidden, valid, sources)
    assert torch.equal(drafted.labels, own[0].argmax(-1)[torch.tensor([[2, 4], [3, 5]])])
    apart = [(drafted.logits[j].float() - own[0, [2 + j, 4 + j]].float()).square().mean() for j in range(2)]
    torch.testing.assert_close(drafted.extra["distilled"], 0.5 * (apart[0] + apart[1]).to(drafted.extra["distilled"]))
    assert objective.weights() == [1, 0.25]


CASES = [(name, expand, {}) for name in ARCHITECTURES for expand in ("spine", "branches")]
CASES += [("llama", "spine", options) for options in ABLATIONS]


@pytest.mark.parametrize(("architecture", "expand", "options"), CASES)
def test_drafting_step_by_step_is_the_training_graph(architecture, expand, options):
    """Ragged rows, several verified steps: what is drafted is what the teacher-forced graph says of that text."""
    model, inputs = tiny_model(architecture), prompt_batch(3)
    drafter = random_drafter(architecture, **options)
    objective = ChimeraObjective(drafter, Target(engine_of(architecture)), ChimeraConfig(draft_inputs="predicted"))
    shape = SMALL_TREE.truncate(max_depth=4)
    run_ = _Fused(drafter, Trees(shape), branches=expand == "branches")
    state = open_state(model, inputs)
    state.commit(state.choose(state.prefill(hidden_states=True)))
    run_.start(state)
    for step in range(4):
        tree = run_.propose(state)
        for row in range(3):
            length = int(state.lengths[row])
            ids = state.tokens[row : row + 1, -length:]
            hidden = model(ids[:, :-1], output_hidden_states=True).hidden_states[-1]
            padded = torch.nn.functional.pad(hidden, (0, 0, 0, 1))
            source = torch.tensor([[0, length - 2]])
            with torch.no_grad():
                logits = objective.draft(ids, padded, torch.ones_like(ids, dtype=torch.bool), source).logits[:, 0]
            best = logits.topk(4, dim=-1).indices
            spine = [
                next(node for node in range(len(shape.parent)) if (int(shape.depth[node])) == d) for d in range(1, 5)
            ]
            assert tree.tokens[row, spine].tolist() == best[:, 0].tolist()
            assert tree.tokens[row, 1:5].tolist() == best[0].tolist()
        logits = state.feed(tree=tree, hidden_states=True)
        verdict = verify_tree(state, tree, logits)
        # let rows accept different lengths, whatever the model thinks of it
        counts = torch.tensor([1 + (step + row) % 3 for row in range(3)])
        path = torch.tensor([[0, spine[0], spine[1]]] * 3)
        verdict = type(verdict)(path, counts, torch.cat([tree.tokens[:, path[0, 1:]], tree.tokens[:, :1]], dim=1))
        state.keep(path, counts)
        run_.observe(state, tree, verdict)
        state.commit(verdict.tokens, counts)


def test_outputs_do_not_depend_on_how_slots_are_fed():
    drafter = random_drafter("llama")
    slots, at = torch.randn(2, 6, 32).double(), torch.arange(6).expand(2, -1)
    visible = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, -1, -1)
    whole = drafter.encode(slots, at, visible, DynamicCache())
    cache = DynamicCache()
    parts = [drafter.encode(slots[:, a:b], at[:, a:b], visible[:, a:b, :b], cache) for a, b in ((0, 2), (2, 3), (3, 6))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_the_spine_goes_through_the_best_candidates():
    shape = TreeShape.of([(0,), (1,), (0, 0), (1, 0)])
    nodes, (children, rank, source) = expanded_nodes(shape, branches=False)[1]
    assert (nodes, children.tolist(), rank.tolist(), source.tolist()) == ([1], [3, 4], [0, 0], [0, 0])
    nodes, (_, _, source) = expanded_nodes(shape, branches=True)[1]
    assert (nodes, source.tolist()) == ([1, 2], [0, 1])


@pytest.mark.parametrize("options", [{}, {"w_logits": 1.0, "draft_inputs": "predicted", "detach_heads": True}])
def test_a_drafter_learns_and_is_used(tmp_path, counting, options):  # noqa: F811
    engine = engine_of("llama")
    config = ChimeraConfig(
        heads=3, steps=60, batch_size=4, window=40, learning_rate=0.01, save_every=30, w_hidden=0.01, **options
    )
    metrics = train_heads(ChimeraObjective, engine, counting, config, tmp_path)
    assert metrics["right_1"] > 0.6
    method = szilard.Chimera.from_pretrained(tmp_path)
    plain = engine.generate("w10 w11", max_new_tokens=12)
    assert engine.generate("w10 w11", method=method, max_new_tokens=12).tokens == plain.tokens


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", ["chimera", "flash"])
def test_drafts_may_reach_behind_the_end_of_a_learned_context(kind, rows):
    """GPT-2 looks its positions up in a table, which ends where its context ends."""
    model = short_gpt2()
    base = {"hidden_size": 32, "vocab_size": 97}
    layer = layer_settings(model.config)
    drafter = ChimeraDrafter(base=base, layer=layer) if kind == "chimera" else FlashDrafter(base=base, layer=layer)
    method = Chimera(drafter=drafter) if kind == "chimera" else Flash(drafter=drafter, rounds=2)
    inputs = prompt_batch(rows)
    plain = run(model, inputs, max_new_tokens=21, eos_token_id=None)
    assert torch.equal(run(model, inputs, method, max_new_tokens=21, eos_token_id=None).sequences, plain.sequences)


def test_a_drafter_in_memory_drafts_without_dropout():
    """A fresh module is in training mode; with GPT-2's dropout it would draw from the run's own generator."""
    model, inputs = tiny_model("gpt2"), prompt_batch(1)
    drafter = ChimeraDrafter(base={"hidden_size": 32, "vocab_size": 97}, layer=layer_settings(model.config)).train()
    drawn = {"do_sample": True, "temperature": 1.3}
    out = run(model, inputs, Chimera(drafter=drafter), **drawn)
    assert torch.equal(out.sequences, run(model, inputs, **drawn).sequences)


def test_a_tree_wider_than_the_candidates_is_refused():
    with pytest.raises(ValueError, match="at most 10 candidates"):
        run(
            tiny_model("llama"),
            prompt_batch(1),
            Chimera(drafter=random_drafter("llama"), tree=TreeShape.of([(rank,) for rank in range(12)])),
        )


def test_a_prompt_as_embeddings_is_refused_with_the_reason():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    vectors = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="no prompt as embeddings"):
        model.generate(inputs_embeds=vectors, custom_generate=Chimera(drafter=random_drafter("llama")))


def short_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(7)
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=32, pad_token_id=0, eos_token_id=1)
    return GPT2LMHeadModel(config).double().eval()
