"""UnComp: groups and stages from entropies, storage per group, the paper's rule of eviction, fewer tokens per layer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import szilard
from szilard.attention.uncomp.plan import (
    UnCompPlan,
    calibrate_uncomp,
    group_sizes,
    kept_tokens,
    layer_stages,
    plan_from,
)
from szilard.cli.main import main
from szilard.engines.growing_layer import GrowingLayer
from szilard.sessions.call import attend_to_all
from szilard.sessions.session import Session
from szilard.speculative.tree import DraftTree
from tests.conftest import PAD, VOCAB, prompt_batch, tiny_model
from tests.speculative.state import open_state

SMALL = {"budgets": (6, 10), "window": 3, "kernel": 3}


def plan_of(layers=3, kv_heads=2, *, scores=(9.0, 3.0, 1.0), heads=32, seed=0):
    """A plan of any model of this shape, with as many stages as scores that fall."""
    entropies = torch.rand(5, layers, kv_heads, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return plan_from(entropies, torch.tensor(scores), heads=heads)


def generate(model, inputs, **options):
    settings = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": [PAD], "eos_token_id": None} | options
    return model.generate(**inputs, **settings)


# ---- plans ---------------------------------------------------------------------------------------------------


def test_a_stage_begins_where_the_score_falls_by_more_than_the_drop():
    assert layer_stages([5, 4, 5, 3.5, 4, 2.9], 1.0) == [0, 0, 0, 1, 1, 2]  # a fall of exactly 1 begins none
    assert layer_stages([5, 4, 3], 3.0) == [0, 0, 0]


def test_the_drop_is_scaled_down_for_few_heads_and_never_up():
    few, many = plan_of(scores=(15.0, 14.6, 14.5), heads=9), plan_of(scores=(90.0, 88.9, 88.9), heads=40)
    assert few.layer_stage() == [0, 1, 1] and few.layer_stage(2.0) == [0, 0, 0]
    assert many.layer_stage() == [0, 1, 1]


def test_tokens_kept_per_stage_are_the_papers():
    assert [kept_tokens(3584, stage, 5, 1536) for stage in range(5)] == [3584, 3072, 2560, 2048, 1536]
    assert kept_tokens(3587, 0, 5, 1536) == 3587  # rounding takes nothing from the first stage
    assert [kept_tokens(1000, stage, 5, 1536) for stage in range(5)] == [1000] * 5
    assert kept_tokens(9000, 0, 1, 1536) == 9000


def test_the_heads_that_lay_highest_in_most_texts_form_the_high_group():
    ranks = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [0, 3, 1, 2]])  # of 4 heads in 3 texts
    plan = plan_from(ranks[:, None].double(), torch.ones(1), heads=4)
    # heads of rank 2 or 3: none, once, twice, three times
    assert plan.head_group(2) == [[0, 0, 1, 1]]
    assert plan.reversed().head_group(2) == [[1, 1, 0, 0]]
    assert plan.head_group(4)[0][0] == 0 and sorted(plan.head_group(4)[0]) == [0, 1, 2, 3]
    assert plan.head_group(1) == [[0, 0, 0, 0]]
    assert plan.head_group(3, drop=1) == [[-1, 0, 2, 1]]  # the last head had the middle rank more often
    with pytest.raises(ValueError, match="at most 4 budgets"):
        plan.head_group(5)


def test_uneven_groups_give_the_lowest_one_more_head():
    assert group_sizes(3, 2) == [2, 1] and group_sizes(8, 3) == [3, 3, 2] and group_sizes(4, 4) == [1] * 4


def test_a_plan_survives_its_file_and_other_files_are_refused(tmp_path):
    plan, file = replace(plan_of(), fingerprint="abc", model="m"), tmp_path / "plan.json"
    plan.save(file)
    assert UnCompPlan.load(file) == plan and list(tmp_path.iterdir()) == [file]
    assert szilard.UnComp(plan=file).loaded_plan() == plan
    with pytest.raises(ValueError, match="there is no UnComp plan"):
        UnCompPlan.load(tmp_path / "other.json")
    record = json.loads(file.read_text())
    for broken in ("[]", "{", json.dumps(record | {"method": "x"}), json.dumps(record | {"layer_scores": [1.0]})):
        file.write_text(broken)
        with pytest.raises(ValueError, match="is no plan"):
            UnCompPlan.load(file)


def test_calibration_averages_query_heads_and_knows_its_model(llama):
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(3, VOCAB, (20,), generator=generator).tolist() for _ in range(4)]
    done = []
    plan = calibrate_uncomp(llama, texts, progress=done.append)
    assert (plan.layers, plan.kv_heads, plan.heads, plan.top, plan.texts) == (3, 2, 4, 2, 4) and done == [1, 2, 3, 4]
    assert all(sum(votes) == 4 for layer in plan.rank_votes for votes in layer)
    assert all(4 <= score <= 4 * 2.72 for score in plan.layer_scores)
    assert calibrate_uncomp(llama, texts, what="key").heads == 2
    with szilard.UnComp(plan=plan, **SMALL)(llama):
        pass
    other = replace(plan, fingerprint="0" * 12)
    with pytest.raises(ValueError, match="other weights"), szilard.UnComp(plan=other, **SMALL)(llama):
        pass
    with pytest.raises(ValueError, match="GPT2"), szilard.UnComp(plan=plan, **SMALL)(tiny_model("gpt2")):
        pass
    with pytest.raises(ValueError, match="there are none"):
        calibrate_uncomp(llama, [[5]])


def test_bad_settings_are_refused_in_one_sentence(llama):
    for settings, sentence in (
        ({"budgets": (8, 16)}, "no room beside the window"),
        ({"budgets": (512, 256)}, "groups='reversed'"),
        ({"budgets": 384}, "list of whole numbers"),
        ({"budgets": ()}, "list of whole numbers"),
        ({"kernel": 4}, "odd"),
        ({"plan": 3}, "plan must be"),
        ({"stages": True, "min_tokens": 4}, "min_tokens"),
        ({"budgets": None, "drop_heads": 1}, "give budgets"),
    ):
        with pytest.raises((ValueError, TypeError), match=sentence):
            szilard.UnComp(**settings)
    with pytest.raises(ValueError, match="needs a plan"), szilard.UnComp()(llama):
        pass
    with pytest.raises(ValueError, match="at most 2 budgets"), szilard.UnComp(groups="random", budgets=(9,) * 3)(llama):
        pass
    with pytest.raises(ValueError, match="drop_heads=2"), szilard.UnComp(groups="random", drop_heads=2)(llama):
        pass
    with (
        pytest.raises(ValueError, match="slide over a window"),
        szilard.UnComp(plan=plan_of(), stages=True)(tiny_model("gemma3")),
    ):
        pass


def test_the_command_writes_a_plan_and_bad_data_is_told_before_the_model_is_loaded(tmp_path, model_folder, capsys):
    data, out = tmp_path / "t.txt", tmp_path / "plan.json"
    data.write_text("w9 w8 w7 w10 w11\n\nw12 w13 w14 w15")
    options = ["--data", str(data), "-o", str(out)]
    assert main(["train", "uncomp", *options, "--model", model_folder, "--length", "4", "--dtype", "float64"]) == 0
    plan = UnCompPlan.load(out)
    assert plan.texts == 2 and plan.fingerprint and "stage" in capsys.readouterr().err
    data.write_text("")
    assert main(["train", "uncomp", *options, "--model", "nowhere"]) == 2
    assert "holds no text" in capsys.readouterr().err


# ---- storage and eviction ------------------------------------------------------------------------------------


@torch.no_grad()
def test_budgets_larger_than_the_text_change_no_logit(model):
    inputs = prompt_batch(2)
    plain = model(**inputs)
    step = {"input_ids": torch.tensor([[7], [8]]), "attention_mask": F.pad(inputs["attention_mask"], (0, 1), value=1)}
    expected = model(**step, past_key_values=plain.past_key_values).logits
    with szilard.UnComp(groups="random", budgets=(60, 70))(model):
        first = model(**inputs)
        logits = model(**step, past_key_values=first.past_key_values).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(first.logits[real], plain.logits[real], atol=1e-9)
    assert torch.allclose(logits, expected, atol=1e-9)


def test_one_group_evicts_what_snapkv_evicts(llama):
    inputs = prompt_batch(3, longest=30)
    for pool in ("max", "avg"):
        same = {"window": 4, "kernel": 5, "pool": pool}
        with szilard.SnapKv(budget=12, **same)(llama) as snapkv:
            expected = generate(llama, inputs)
        with szilard.UnComp(groups="uniform", budgets=(12,), phase="prefill", **same)(llama) as run:
            assert torch.equal(expected, generate(llama, inputs))
            assert run.summary()["kv_read"] == snapkv.summary()["kv_read"] < run.summary()["kv_read_full"]


@torch.no_grad()
def test_memory_is_that_of_the_budgets_and_stays_so_while_generating(llama):
    ids = torch.randint(3, VOCAB, (1, 40), generator=torch.Generator().manual_seed(2))
    full = llama(ids)
    whole = sum(layer.keys.nbytes + layer.values.nbytes for layer in full.past_key_values.layers)
    for groups in ("high-more", "reversed", "random", "uniform"):
        with szilard.UnComp(plan=plan_of(), groups=groups, **SMALL)(llama) as run:
            past = llama(ids).past_key_values
            for token in range(5):
                llama(torch.tensor([[token + 5]]), past_key_values=past)
                held = sum(part.keys.nbytes + part.values.nbytes for layer in past.layers for part in layer.parts)
                assert held / whole == pytest.approx(8 / 40, rel=0.02)
                assert run.summary()["kv_bytes_held"] == held
                assert past.get_seq_length() == 41 + token
            lengths = [[part.stored for part in layer.parts] for layer in past.layers]
            assert lengths == ([[8]] * 3 if groups == "uniform" else [[6, 10]] * 3)
            heads = [[group.tolist() for group in layer.heads] for layer in past.layers]
        labels = plan_of().head_group(2)
        if groups == "high-more":
            assert heads == [[[label.index(0)], [label.index(1)]] for label in labels]
        if groups == "reversed":
            assert heads == [[[label.index(1)], [label.index(0)]] for label in labels]


@torch.no_grad()
def test_what_stays_is_what_the_papers_rule_keeps_at_every_step():
    """Layer 0, whose queries and keys depend on the tokens alone: the rule on the full matrix of probabilities."""
    model, window, kernel, budgets = tiny_model("llama"), 3, 3, (6, 10)
    ids = torch.randint(3, VOCAB, (1, 26), generator=torch.Generator().manual_seed(4))
    prompt, plan = 18, plan_of()
    seen = {}

    class Look(Session):
        only_watches = True

        def run(self, module, query, key, value, mask, scaling, **rest):
            seen.setdefault(module.layer_idx, (query, key))
            return super().run(module, query, key, value, mask, scaling, **rest)

    with Look(szilard.UnComp, model).opened():
        model(ids, use_cache=False)
    query, key = seen[0]
    with szilard.UnComp(plan=plan, budgets=budgets, window=window, kernel=kernel)(model):
        past = model(ids[:, :prompt]).past_key_values
        kept = []
        for step in range(prompt, ids.shape[1] + 1):
            kept.append([part.columns[0].tolist() for part in past.layers[0].parts])
            if step < ids.shape[1]:
                model(ids[:, step : step + 1], past_key_values=past)
    for group, budget in enumerate(budgets):
        (head,) = [head for head, label in enumerate(plan.head_group(2)[0]) if label == group]
        slots, rows = list(range(prompt)), []
        for step in range(prompt, ids.shape[1] + 1):
            fresh = range(prompt - window, prompt) if step == prompt else [step - 1]
            if step > prompt:
                slots.append(step - 1)
            for at in fresh:
                share = dict.fromkeys(slots, 0.0)
                visible = [slot for slot in slots if slot <= at]
                for one in (2 * head, 2 * head + 1):
                    products = query[0, one, at] @ key[0, head, visible].T * 8**-0.5
                    for slot, value in zip(visible, products.softmax(-1).tolist(), strict=True):
                        share[slot] += value / 2
                rows = [*rows, share][-window:]
            old = slots[:-window]
            mass = torch.tensor([[sum(row.get(slot, 0.0) for row in rows) for slot in old]])
            score = F.max_pool1d(mass, kernel, stride=1, padding=kernel // 2)[0]
            best = score.sort(descending=True, stable=True).indices[: budget - window]
            slots = [old[index] for index in sorted(best.tolist())] + slots[-window:]
            assert kept[step - prompt][group] == [slots] and len(slots) == budget


class Masked(Session):
    """Everything stays stored; some slots of some heads are not to be seen."""

    def __init__(self, model, allowed, *, from_prompt):
        super().__init__(szilard.UnComp, model)
        self.allowed, self.from_prompt = allowed, from_prompt

    def cache_layer(self, index):
        return GrowingLayer()

    def attend(self, call):
        visible = call.visible()
        if visible is None:
            visible = torch.ones(1, 1, call.new, call.keys.shape[2], dtype=torch.bool)
        if call.before or self.from_prompt:
            allowed = self.allowed[call.index]  # [batch, kv heads or 1, prompt]
            later = call.keys.shape[2] - allowed.shape[2]
            visible = visible & F.pad(allowed, (0, later), value=True)[:, :, None]
        return attend_to_all(call, visible)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_groups_attend_as_a_full_cache_whose_evicted_slots_are_masked(architecture):
    model = tiny_model(architecture)
    inputs, kv_heads = prompt_batch(3, longest=24), 2 if architecture == "llama" else 4
    mask = F.pad(inputs["attention_mask"], (0, 3), value=1)
    steps = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    positions = mask.cumsum(1)[:, 24:] - 1
    with szilard.UnComp(plan=plan_of(3, kv_heads), phase="prefill", **SMALL)(model):
        past = model(**inputs, position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :24]).past_key_values
        allowed = []
        for layer in past.layers:
            kept = torch.zeros(3, kv_heads, 24, dtype=torch.bool)
            for part, heads in zip(layer.parts, layer.heads, strict=True):
                kept[:, heads] = kept[:, heads].scatter(2, part.columns, True)
            allowed.append(kept)
        found = [
            model(
                steps[:, i : i + 1],
                attention_mask=mask[:, : 25 + i],
                position_ids=positions[:, i : i + 1],
                past_key_values=past,
            ).logits
            for i in range(3)
        ]
    with Masked(model, allowed, from_prompt=False).opened():
        past = model(**inputs, position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :24]).past_key_values
        for i in range(3):
            expected = model(
                steps[:, i : i + 1],
                attention_mask=mask[:, : 25 + i],
                position_ids=positions[:, i : i + 1],
                past_key_values=past,
            ).logits
            assert torch.allclose(found[i], expected, atol=1e-9)


def test_rows_shorter_than_a_budget_and_padded_ones_get_what_they_get_alone(llama):
    inputs = prompt_batch(4, longest=12)  # 12, 10, 8 and 6 tokens under budgets of 6 and 10
    for options in ({}, {"phase": "prefill"}, {"pool": "avg"}, {"drop_heads": 1, "budgets": (6,)}):
        method = szilard.UnComp(plan=plan_of(), **SMALL | options)
        with method(llama):
            together = generate(llama, inputs)
        for row in range(4):
            length = int(inputs["attention_mask"][row].sum())
            with method(llama):
                alone = generate(llama, {name: value[row : row + 1, -length:] for name, value in inputs.items()})
            assert alone[0, length:].tolist() == together[row, 12:].tolist()


def test_beams_reorder_the_groups(llama):
    inputs = prompt_batch(2, longest=20)
    method = szilard.UnComp(groups="random", **SMALL)
    with method(llama):
        together = generate(llama, inputs, num_beams=3)
    with method(llama):
        alone = generate(llama, {name: value[1:, 2:] for name, value in inputs.items()}, num_beams=3)
    assert alone[0, 18:].tolist() == together[1, 20:].tolist()


def test_a_prompt_in_chunks_ends_at_the_budgets(llama):
    inputs = prompt_batch(1, longest=24)
    with szilard.UnComp(plan=plan_of(), **SMALL)(llama) as run:
        assert generate(llama, inputs, prefill_chunk_size=9).shape == (1, 32)
        assert [len(group) for group in run.groups[0]] == [1, 1]
        assert run.summary()["kv_held_share"] == pytest.approx(16 / (2 * 31))


# ---- the decoding state's verbs ------------------------------------------------------------------------------


@torch.no_grad()
def test_a_tree_whose_rows_accept_different_paths_leaves_what_feeding_them_leaves(llama):
    inputs = prompt_batch(3, longest=20)
    tokens = torch.tensor([[5, 6, 7, 8, 9]] * 3)
    tree = DraftTree.from_parents(tokens, torch.tensor([[-1, 0, 0, 2, 3]] * 3))
    paths = [[0], [0, 2, 3], [0, 1]]
    method = szilard.UnComp(groups="random", phase="prefill", **SMALL)
    with method(llama):
        state = open_state(llama, inputs)
        state.prefill()
        state.feed(tree=tree)
        path = torch.tensor([row + [-1] * (5 - len(row)) for row in paths])
        state.keep(path, torch.tensor([len(row) for row in paths]))
        found = state.feed(torch.tensor([10, 11, 12]))
    for row, accepted in enumerate(paths):
        length = int(inputs["attention_mask"][row].sum())
        with method(llama):
            alone = open_state(llama, {name: value[row : row + 1, -length:] for name, value in inputs.items()})
            alone.prefill()
            for node in accepted:
                alone.feed(tokens[:1, node])
            expected = alone.feed(torch.tensor([10 + row]))
        assert torch.allclose(found[row], expected[0], atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("phase", ["prefill", "both"])
@pytest.mark.parametrize("drop_heads", [0, 1])
def test_forks_selections_and_joins_keep_every_row(llama, phase, drop_heads):
    inputs = prompt_batch(2, longest=20)
    budgets = (6, 10)[drop_heads:]
    method = szilard.UnComp(plan=plan_of(), phase=phase, drop_heads=drop_heads, **SMALL | {"budgets": budgets})
    with method(llama):
        state = open_state(llama, inputs)
        state.prefill()
        twin = state.fork(1)
        twin.feed(torch.tensor([5, 6]))
        expected = twin.feed(torch.tensor([7, 8]))  # of both rows after 5 7 and 6 8
        state.feed(torch.tensor([5, 6]))
        first, second = state.fork(1, torch.tensor([0])), state.fork(1, torch.tensor([1]))
        second.join(first)
        assert torch.allclose(second.feed(torch.tensor([8, 7])), expected[[1, 0]], atol=1e-9)
        state.select(torch.tensor([1, 0, 1]))
        assert torch.allclose(state.feed(torch.tensor([8, 7, 8])), expected[[1, 0, 1]], atol=1e-9)


@torch.no_grad()
def test_rewinding_takes_back_what_came_after_the_prompt(llama):
    with szilard.UnComp(groups="random", phase="prefill", **SMALL)(llama):
        state = open_state(llama, prompt_batch(2, longest=20))
        state.prefill()
        expected = state.fork(1).feed(torch.tensor([5, 6]))
        cached = state.cached
        state.feed(torch.tensor([9, 9]), rewindable=True)
        state.feed(torch.tensor([7, 7]), rewindable=True)
        state.rewind(cached)
        assert torch.allclose(state.feed(torch.tensor([5, 6])), expected, atol=1e-9)


# ---- dropped heads -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_dropped_head_is_not_stored_and_takes_the_output_of_the_most_similar_one():
    model = tiny_model("gpt2")
    ids = torch.randint(3, VOCAB, (1, 20), generator=torch.Generator().manual_seed(5))
    plan = plan_of(3, 4)
    with szilard.UnComp(plan=plan, drop_heads=2, budgets=(40,), window=4)(model) as run:
        past = model(ids).past_key_values
        layer = past.layers[0]
        dropped = sorted(range(4), key=lambda head: plan.head_entropy[0][head])[:2]
        assert run.dropped[0] == sorted(dropped) and layer.keys.shape[1] == 2
        full = model(ids, use_cache=True)
        del full
        outputs = {}
        handle = model.transformer.h[0].attn.c_proj.register_forward_pre_hook(
            lambda module, arguments: outputs.update(heads=arguments[0].view(4, 8))
        )
        model(torch.tensor([[7]]), past_key_values=past)
        handle.remove()
        for head, donor in zip(run.dropped[0], layer.donors[0].tolist(), strict=True):
            assert donor not in run.dropped[0]
            assert torch.equal(outputs["heads"][head], outputs["heads"][donor])


# ---- stages --------------------------------------------------------------------------------------------------

STAGES = {"stages": True, "min_tokens": 8, "window": 3, "kernel": 3, "stage_drop": 1.0}


@torch.no_grad()
def test_deeper_layers_store_fewer_tokens_and_the_last_logits_are_those_of_masked_attention(llama):
    inputs = prompt_batch(2, longest=20)  # of 20 and 18 tokens; three stages: 20, 14, 8 and 18, 13, 8
    mask = F.pad(inputs["attention_mask"], (0, 1), value=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    step = {"input_ids": torch.tensor([[7], [8]]), "attention_mask": mask, "position_ids": positions[:, 20:]}
    with szilard.UnComp(plan=plan_of(), budgets=None, **STAGES)(llama) as run:
        first = llama(**inputs, position_ids=positions[:, :20])
        assert [layer.parts[0].stored for layer in first.past_key_values.layers] == [20, 14, 8]
        assert first.logits.shape[1] == 20
        alive = []
        for layer, kept in zip(first.past_key_values.layers, ([20, 18], [14, 13], [8, 8]), strict=True):
            there = torch.zeros(2, 1, 20, dtype=torch.bool).scatter(2, layer.parts[0].all_columns()[:, :1], True)
            there &= inputs["attention_mask"].bool()[:, None]
            assert there.sum(-1)[:, 0].tolist() == kept and bool(there[..., -3:].all())
            alive.append(there)
        assert run.summary()["prompt_tokens_run"] == 42 and run.summary()["prompt_tokens_full"] == 60
        second = llama(**step, past_key_values=first.past_key_values).logits
    with Masked(llama, alive, from_prompt=True).opened():
        expected = llama(**inputs, position_ids=positions[:, :20])
        assert torch.allclose(first.logits[:, -3:], expected.logits[:, -3:], atol=1e-9)
        assert torch.allclose(second, llama(**step, past_key_values=expected.past_key_values).logits, atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_with_stages_a_batch_gives_each_row_what_it_gets_alone(architecture):
    model, inputs = tiny_model(architecture), prompt_batch(4, longest=20)
    plan = plan_of(3, 4 if architecture == "gpt2" else 2)
    for budgets in (None, (6, 10)):
        method = szilard.UnComp(plan=plan, budgets=budgets, **STAGES)
        with method(model):
            together = generate(model, inputs)
        for row in range(4):
            length = int(inputs["attention_mask"][row].sum())
            with method(model):
                alone = generate(model, {name: value[row : row + 1, -length:] for name, value in inputs.items()})
            assert alone[0, length:].tolist() == together[row, 20:].tolist()


def test_short_prompts_and_models_of_one_stage_lose_no_token(llama):
    inputs = prompt_batch(2, longest=20)
    plain = generate(llama, inputs)
    one = plan_of(scores=(1.0, 1.0, 1.0))
    for method in (
        szilard.UnComp(plan=one, budgets=None, **STAGES),
        szilard.UnComp(plan=plan_of(), budgets=None, **STAGES | {"min_tokens": 20}),
    ):
        with method(llama):
            assert torch.equal(plain, generate(llama, inputs))


def test_of_a_prompt_in_chunks_only_the_first_is_cut_by_stages(llama):
    inputs = prompt_batch(1, longest=24)
    with szilard.UnComp(plan=plan_of(), budgets=None, **STAGES)(llama) as run:
        generate(llama, inputs, prefill_chunk_size=12, max_new_tokens=2)
        assert run.summary()["prompt_tokens_run"] == 12 + 10 + 8  # of the first chunk, in three layers
        assert run.reads.held == {0: 2 * 25, 1: 2 * 23, 2: 2 * 21}


@torch.no_grad()
def test_trees_work_on_layers_of_different_lengths(llama):
    inputs = prompt_batch(2, longest=20)
    tree = DraftTree.from_parents(torch.tensor([[5, 6, 7]] * 2), torch.tensor([[-1, 0, 0]] * 2))
    method = szilard.UnComp(plan=plan_of(), phase="prefill", **STAGES | {"budgets": (6, 10)})
    with method(llama):
        state = open_state(llama, inputs)
        state.prefill()
        twin = state.fork(1)
        scores = state.feed(tree=tree)
        state.keep(torch.tensor([[0, 2, -1]] * 2), torch.tensor([2, 1]))
        after = state.feed(torch.tensor([9, 9]))
        assert torch.allclose(scores[:, 0], twin.feed(torch.tensor([5, 5]))[:, 0], atol=1e-9)
        assert torch.allclose(after[1], twin.fork(1).feed(torch.tensor([9, 9]))[1], atol=1e-9)
        twin.feed(torch.tensor([7, 7]))
        assert torch.allclose(after[0], twin.feed(torch.tensor([9, 9]))[0], atol=1e-9)
