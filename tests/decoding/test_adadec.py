"""AdaDec: the score, the pauses, and that a lookahead leaves no trace."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from szilard.decoding.adadec import AdaDec
from szilard.decoding.adadec_threshold import (
    ThresholdFit,
    fit_records,
    logistic_regression,
    score_reference,
    threshold_of,
)
from szilard.information import entropy
from tests.conftest import prompt_batch, tiny_model


def run(model, inputs, method=None, **options):
    torch.manual_seed(3)
    settings = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


@torch.no_grad()
def by_definition(model, ids, method, new_tokens):
    """The published loop without a cache: one candidate at a time, for models without an end token."""
    changed = 0
    for _ in range(new_tokens):
        logits = model(ids).logits[:, -1].float()
        token = logits.argmax(-1)
        if float(entropy(logits)) >= method.threshold:
            first = torch.log_softmax(logits, -1)
            scores = []
            for candidate in first.topk(method.candidates).indices[0]:
                total, text = float(first[0, candidate]), torch.cat([ids, candidate.view(1, 1)], 1)
                for _ in range(method.lookahead):
                    best, said = torch.log_softmax(model(text).logits[:, -1].float(), -1).max(-1)
                    total, text = total + float(best), torch.cat([text, said[:, None]], 1)
                scores.append(total / (method.lookahead + 1))
            winner = first.topk(method.candidates).indices[0, int(torch.tensor(scores).argmax())].view(1)
            changed += int(winner != token)
            token = winner
        ids = torch.cat([ids, token[:, None]], 1)
    return ids, changed


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("reuse", [False, True])
def test_it_is_the_published_loop(architecture, reuse):
    model, inputs = tiny_model(architecture), prompt_batch(1)
    plain = run(model, inputs, AdaDec.neutral())
    threshold = float(np.median(plain.trace["entropy"]))
    method = AdaDec(threshold=threshold, lookahead=3, reuse_lookahead=reuse)
    out = run(model, inputs, method, eos_token_id=None, max_new_tokens=17)
    expected, changed = by_definition(model, inputs["input_ids"], method, 14)
    assert out.sequences[:, :-3].tolist() == expected.tolist()  # at the length limit a lookahead is cut, too
    assert out.trace["changed"][:14].sum() == changed
    assert changed or architecture == "gemma3"  # which repeats itself
    assert (out.trace["entropy"][out.trace["paused"]] >= threshold).all()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    "setting", [{"threshold": math.inf}, {"threshold": 0.0, "candidates": 1}, {"threshold": 0.0, "lookahead": 0}]
)
def test_neutral_settings_are_greedy(rows, setting):
    model, inputs = tiny_model("llama"), prompt_batch(rows)
    assert torch.equal(run(model, inputs).sequences, run(model, inputs, AdaDec(**setting)).sequences)


def test_reuse_changes_nothing_but_the_count():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    plain = run(model, inputs, AdaDec.neutral())
    threshold = float(np.quantile(plain.trace["entropy"], 0.8))
    with_reuse = run(model, inputs, AdaDec(threshold=threshold), max_new_tokens=40, eos_token_id=None)
    without = run(
        model, inputs, AdaDec(threshold=threshold, reuse_lookahead=False), max_new_tokens=40, eos_token_id=None
    )
    assert torch.equal(with_reuse.sequences, without.sequences)
    saved = without.cost.total_forward_passes - with_reuse.cost.total_forward_passes
    assert saved == with_reuse.cost.counters["reused_tokens"] > 0


def test_a_batch_pauses_by_rows_in_one_pass_per_step():
    model, inputs = tiny_model("llama"), prompt_batch(4)
    method = AdaDec(threshold=0.0, lookahead=2, candidates=3)
    out = run(model, inputs, method, max_new_tokens=3, min_new_tokens=3)
    prompt = inputs["input_ids"].shape[1]
    # Per step 2 lookahead forwards of 4 x 3 rows, but 1 at the last but one and none at the end: the length is limited.
    assert out.cost.counters["pauses"] == 12
    assert out.cost.counters["lookahead_forwards"] == 2 + 1 + 0
    assert out.cost.forward_passes["LlamaForCausalLM"] == 3 + 3
    assert out.cost.tokens["LlamaForCausalLM"] == 4 * prompt + 2 * 4 + 3 * 12
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        alone = run(
            model,
            {name: value[row : row + 1, -length:] for name, value in inputs.items()},
            method,
            max_new_tokens=3,
            min_new_tokens=3,
        )
        assert alone.sequences[0, length : length + 3].tolist() == out.sequences[row, prompt:].tolist()


def test_below_the_threshold_a_step_is_one_forward():
    model, inputs = tiny_model("llama"), prompt_batch(2)
    out = run(model, inputs, AdaDec(threshold=1e6), max_new_tokens=9, min_new_tokens=9)
    assert out.cost.forward_passes["LlamaForCausalLM"] == 9


def test_random_pauses_come_at_their_rate():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    out = run(model, inputs, AdaDec(pause="random", random_rate=0.3), max_new_tokens=100, eos_token_id=None)
    assert 15 <= out.cost.counters["pauses"] <= 45


def test_bad_input_is_refused_in_one_sentence(engine):
    with pytest.raises(ValueError, match="szilard train adadec"):
        engine.generate("Hi", AdaDec(), max_new_tokens=4)
    with pytest.raises(ValueError, match="candidates"):
        AdaDec(candidates=0)
    assert AdaDec(threshold="Qwen/Qwen3-0.6B").resolved_threshold() == 1.321288


# ---- learning the threshold ----------------------------------------------------------------------------------


def test_the_threshold_algebra_and_the_regression_have_their_closed_forms():
    assert threshold_of(0.15, 1.7419, -2.6312) == pytest.approx(1.3213, abs=1e-4)
    random = np.random.default_rng(0)
    x = random.exponential(1.0, 20_000)
    y = random.random(20_000) < 1 / (1 + np.exp(-(2.0 - 3.0 * x)))
    intercept, coefficient = logistic_regression(x, y)
    assert intercept == pytest.approx(2.0, abs=0.1) and coefficient == pytest.approx(-3.0, abs=0.15)


def test_records_give_a_threshold_where_the_cut_is_most_accurate():
    random = np.random.default_rng(1)
    entropies = random.exponential(0.5, 20_000)
    right = random.random(20_000) < 1 / (1 + np.exp(-(3.0 - 2.0 * entropies)))
    fit = fit_records(entropies, np.where(right, 1, 3), seed=0)
    assert fit.threshold == pytest.approx(1.5, abs=0.35)  # where P(y = 1) is one half
    assert fit.above["first_above"] < 0.5 < fit.above["first_below"]
    assert fit.spearman > 0.2


def test_learning_on_a_model_scores_every_position_and_round_trips(engine, tmp_path):
    prompt, solution = "w5 w9", "w3 w17 w60 w5"
    entropies, ranks = score_reference(engine, prompt, solution)
    ids = torch.tensor(
        [
            engine.encode([prompt], raw=True)["input_ids"][0].tolist()
            + engine.tokenizer.encode(solution, add_special_tokens=False)
        ]
    )
    n = len(entropies)
    with torch.no_grad():
        logits = engine.model(ids).logits[0, -n - 1 : -1].float()
    np.testing.assert_allclose(entropies, entropy(logits).numpy(), atol=1e-4)
    order = logits.argsort(-1, descending=True)
    assert ranks.tolist() == [1 + order[i].tolist().index(int(ids[0, len(ids[0]) - n + i])) for i in range(n)]
    fit = fit_records(np.array([0.1, 0.2, 0.1, 2.0, 2.5, 3.0, 0.3, 2.2] * 20), np.array([1, 1, 1, 2, 4, 2, 1, 3] * 20))
    fit.save(tmp_path / "tau.json")
    assert ThresholdFit.load(tmp_path / "tau.json") == fit
    assert AdaDec(threshold=str(tmp_path / "tau.json")).resolved_threshold() == fit.threshold
    learned = AdaDec(threshold=str(tmp_path / "tau.json"))
    for model, fingerprint in (("folder/tiny", ""), ("renamed", engine.fingerprint)):
        replace(fit, model=model, fingerprint=fingerprint).save(tmp_path / "tau.json")
        assert learned.resolved_threshold(engine) == fit.threshold
    for model, fingerprint in (("tiny-7b", ""), ("tiny", "0123")):
        replace(fit, model=model, fingerprint=fingerprint).save(tmp_path / "tau.json")
        with pytest.raises(ValueError, match=f"was learned for {model}, not for tiny as it is here: learn one"):
            learned.resolved_threshold(engine)
    with pytest.raises(ValueError, match="no threshold file"):
        AdaDec(threshold=str(tmp_path / "none.json")).resolved_threshold()


def test_rows_pause_at_random_by_themselves_and_finished_rows_are_not_counted():
    model, inputs = tiny_model("llama"), prompt_batch(3)
    method = AdaDec(pause="random", random_rate=0.3, reuse_lookahead=False)
    together = run(model, inputs, method, max_new_tokens=40, eos_token_id=None)
    paused = []
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        out = run(model, alone, method, max_new_tokens=40, eos_token_id=None)
        paused.append(out.trace["paused"].tolist())
    trace = [together.trace.row(row)["paused"].tolist() for row in range(3)]
    assert trace == paused and len({tuple(row) for row in paused}) == 3
    counters = together.cost.counters
    assert counters["steps"] == 120 and counters["pauses"] == sum(map(sum, paused))


def test_a_fit_that_would_always_pause_is_refused():
    entropies = np.array([0.001, 1.0] * 500)  # the first choice is mostly wrong, a little more so where it is uncertain
    ranks = np.array([1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 1, 2, 1, 2, 2, 2, 2, 2, 2, 2] * 50)
    with pytest.raises(ValueError, match="no entropy is low enough"):
        fit_records(entropies, ranks)
