"""Speculative decoding writes what plain decoding writes, whatever the drafts are."""

import pytest
import torch

import szilard
from tests.conftest import ARCHITECTURES, EOS, prompt_batch, tiny_model
from tests.speculative.drafters import Replay


def run(model, inputs, method=None, **options):
    torch.manual_seed(3)
    settings = {"max_new_tokens": 24, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


def answers(out, inputs):
    rows = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("length", "siblings"), [(0, 0), (3, 0), (4, 4), (0, 5)])
def test_greedy_is_unchanged_by_any_tree(architecture, rows, length, siblings):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    plain = run(model, inputs)
    method = Replay(answers(plain, inputs), length, siblings)
    out = run(model, inputs, method)
    assert torch.equal(out.sequences, plain.sequences)
    if length == 3:
        counters = out.cost.counters
        assert counters["target_forwards"] < 24 / 3


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("rows", [1, 4])
def test_processors_see_each_nodes_own_text(architecture, rows):
    model, inputs = tiny_model(architecture), prompt_batch(rows)
    options = {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "min_new_tokens": 9}
    plain = run(model, inputs, **options)
    out = run(model, inputs, Replay(answers(plain, inputs), 5, 3), **options)
    assert torch.equal(out.sequences, plain.sequences)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.6, "eos_token_id": None},
        {"repetition_penalty": 1.6, "pad_token_id": 43, "eos_token_id": None},
        {"min_new_tokens": 20, "eos_token_id": 43},
        {"no_repeat_ngram_size": 2, "forced_eos_token_id": 5},
        {"exponential_decay_length_penalty": (3, 1.2)},
        {"sequence_bias": [[[43], 8.0], [[16, 76], -9.0]], "eos_token_id": None},
    ],
)
def test_processors_see_a_row_that_was_left_behind_as_in_plain_decoding(options):
    model, inputs = tiny_model("llama"), prompt_batch(4)
    plain = run(model, inputs, **options)
    known = [row[: 4 * number + 2] + [3] * 20 for number, row in enumerate(answers(plain, inputs))]
    out = run(model, inputs, Replay(known, 4, 2), **options)
    assert torch.equal(out.sequences, plain.sequences)


@pytest.mark.parametrize("eos_after", [1, 2, 3, 6])
@pytest.mark.parametrize("rows", [1, 3])
def test_an_end_inside_an_accepted_path_ends_the_row(rows, eos_after):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    free = run(model, inputs, eos_token_id=None)
    ends = answers(free, inputs)[0][eos_after]
    plain = run(model, inputs, eos_token_id=ends)
    known = free.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    out = run(model, inputs, Replay(known, 5), eos_token_id=ends)
    assert torch.equal(out.sequences, plain.sequences)


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
def test_the_length_limit_may_lie_inside_a_tree(limit):
    model, inputs = tiny_model("llama"), prompt_batch(3)
    known = answers(run(model, inputs), inputs)
    out = run(model, inputs, Replay(known, 5, 2), max_new_tokens=limit)
    assert torch.equal(out.sequences, run(model, inputs, max_new_tokens=limit).sequences)


def test_sampling_with_one_row_draws_the_same_tokens():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    options = {"do_sample": True, "temperature": 0.9, "top_p": 0.95}
    plain = run(model, inputs, **options)
    out = run(model, inputs, Replay(answers(plain, inputs), 4, 3), **options)
    assert torch.equal(out.sequences, plain.sequences)
    assert out.cost.counters["accepted"] > 0


@pytest.mark.parametrize("rows", [1, 4])
def test_an_oracle_commits_its_chain_and_one_more_token_per_forward(rows):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    plain = run(model, inputs, eos_token_id=None, max_new_tokens=25)
    known = plain.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    out = run(model, inputs, Replay(known, 3), eos_token_id=None, max_new_tokens=25)
    assert torch.equal(out.sequences, plain.sequences)
    assert out.cost.counters == {
        "target_forwards": 6,
        "row_steps": 6 * rows,
        "nodes_verified": 24 * rows,
        "accepted": 18 * rows,
        **{f"accepted_{depth}": 6 * rows for depth in (1, 2, 3)},
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cache_after_a_step_is_that_of_a_fresh_prompt(architecture):
    from szilard.speculative.tree import DraftTree
    from tests.speculative.state import open_state

    model, inputs = tiny_model(architecture), prompt_batch(3)
    state = open_state(model, inputs)
    state.commit(state.choose(state.prefill()))
    for step in range(6):
        pending = state.tokens[:, -1]
        tree = DraftTree.from_paths(pending, [[[5, 6, 7], [5, 8], [9]], [[9, 9]], [[7], [8, 5, 5, 6]]])
        logits = state.feed(tree=tree)
        # every node's logits are those of a plain forward of the text and its path
        for row in range(3):
            real = int(state.cached[row]) - tree.tokens.shape[1]
            text = state.tokens[row, -(real + 1) :]
            for node in range(int(tree.size[row])):
                ids = torch.cat([text, tree.tokens[row, tree.path(row, node)[1:]]])
                expected = model(ids[None]).logits[0, -1]
                torch.testing.assert_close(logits[row, node], expected, atol=1e-9, rtol=1e-9)
        path = torch.tensor([[0, 1, 4 if step % 2 else 2], [0, 1, -1], [0, -1, -1]])
        counts = torch.tensor([3, 2, 1])
        state.keep(path, counts)
        kept = torch.gather(tree.tokens, 1, path.clamp(min=0))
        state.commit(torch.cat([kept[:, 1:], torch.full((3, 1), 4)], 1).scatter(1, counts[:, None] - 1, 4), counts)
        assert state.cached.tolist() == (state.lengths - 1).tolist()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("draft_model", [False, True])
def test_scores_and_logits_of_every_row_stand_at_its_own_tokens(rows, draft_model):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    options = {"output_scores": True, "output_logits": True, "repetition_penalty": 1.3, "eos_token_id": None}
    plain = run(model, inputs, **options)
    known = answers(plain, inputs)
    known = [row[: 5 * number + 4] + [3] * 20 for number, row in enumerate(known)]  # rows advance differently
    method = szilard.DraftModel(draft=tiny_model("llama")) if draft_model else Replay(known, 4, 1)
    out = run(model, inputs, method, **options)
    assert torch.equal(out.sequences, plain.sequences)
    for name in ("scores", "logits"):
        assert len(out[name]) == 24
        torch.testing.assert_close(torch.stack(out[name]), torch.stack(plain[name]).to(torch.float32))


def test_scores_of_drawn_drafts_are_those_of_the_text():
    model, inputs = tiny_model("llama"), prompt_batch(3)
    method = szilard.DraftModel(draft=tiny_model("qwen2"), draft_tokens=3)
    options = {"do_sample": True, "temperature": 0.7, "top_k": 0, "output_scores": True, "eos_token_id": None}
    out = run(model, inputs, method, **options)
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 24, dtype=torch.long)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(out.sequences, attention_mask=mask, position_ids=positions).logits[:, -25:-1] / 0.7
    expected = torch.log_softmax(logits.float(), dim=-1)
    torch.testing.assert_close(torch.stack(out.scores, 1).log_softmax(-1), expected, atol=1e-4, rtol=1e-4)
