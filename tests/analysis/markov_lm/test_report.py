"""Markov diagnostics of a model on texts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.analysis.markov_lm import markov_report
from szilard.analysis.markov_lm.bootstrap import by_document
from szilard.analysis.markov_lm.collection import collect, linear_head, windows
from szilard.analysis.markov_lm.probes import (
    Probe,
    ProbeConfig,
    bigram_losses,
    chosen_baseline,
    plain_start,
    split_documents,
    state_losses,
    train_probe,
    useful_draft_length,
    window_start,
    window_states,
)
from szilard.engines import TransformersEngine
from szilard.information.predictive_geometry import mean_pullback_metric
from szilard.reasoning.tasks import number_tokenizer

QUICK = ProbeConfig(steps=8, batch_size=32, save_every=4, log_every=2, hidden=16)


@pytest.fixture(scope="module")
def small() -> Any:
    tokenizer = number_tokenizer(10)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape).eval()
    return TransformersEngine(model, tokenizer, name="small")


def texts(count: int, length: int = 40, seed: int = 0) -> list[list[int]]:
    return torch.randint(3, 20, (count, length), generator=torch.Generator().manual_seed(seed)).tolist()


def collected(engine: Any, rows: list[list[int]], **changes: Any) -> Any:
    settings = {"divergences": ("kl",), "horizon": 3, "layers": (-1,), "kept": 1000, "contexts": 5, "seed": 0}
    head = linear_head(engine.model)
    return collect(engine.model, windows(rows, 20), head=head, vocabulary=len(head), **(settings | changes))


def test_a_state_belongs_to_the_token_that_it_predicts_and_the_surplus_begins_one_later(small: Any) -> None:
    rows = texts(2, 20)
    seen = collected(small, rows).positions
    with torch.no_grad():
        out = small.model(input_ids=torch.tensor(rows), output_hidden_states=True)
    for at in range(len(seen)):
        number, place = int(seen.document[at]), int(seen.place[at])
        assert seen.following[at].tolist() == rows[number][place + 1 : place + 4]
        torch.testing.assert_close(
            seen.hidden[-1][at].float(), out.hidden_states[-1][number, place], atol=2e-2, rtol=2e-2
        )
        log_p = out.logits[number, place + 1].log_softmax(-1)
        assert float(seen.nll[at, 1]) == pytest.approx(-float(log_p[rows[number][place + 2]]), abs=1e-4)
        assert int(seen.greedy[at, 1]) == int(log_p.argmax())


def test_sums_over_a_pass_are_those_of_all_positions_whatever_the_batch(small: Any) -> None:
    rows = [*texts(3, 20), *texts(2, 11, seed=1)]
    one, other = (collected(small, rows, batch=batch) for batch in (1, 4))
    torch.testing.assert_close(one.mass, other.mass, atol=1e-6, rtol=1e-4)
    assert sorted(one.nll.tolist()) == pytest.approx(sorted(other.nll.tolist()), abs=1e-4)
    with torch.no_grad():
        states = [
            small.model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, :-1]
            for row in rows
        ]
    head = linear_head(small.model)
    metric = (head.double().T * one.mass) @ head.double() - one.outer
    torch.testing.assert_close(metric, mean_pullback_metric(head, torch.cat(states)).double(), atol=1e-5, rtol=1e-3)


def test_a_report_has_all_parts_and_their_nulls(small: Any, tmp_path: Path) -> None:
    report = markov_report(
        small,
        texts(12),
        horizon=3,
        layers=(1, -1),
        untrained=True,
        permutations=3,
        contexts=60,
        probe_config=QUICK,
        folder=tmp_path,
    )
    assert report.tokens == 12 * 39 and report.entropy["kl"].mean > 0
    assert report.calibration_gap.mean == pytest.approx(report.loss.mean - report.entropy["kl"].mean, abs=1e-4)
    assert [(row.layer, row.offset) for row in report.surplus] == [(1, 1), (-1, 1), (1, 2), (-1, 2)]
    for row in report.surplus:  # a model that knows nothing may be worse than frequencies
        assert row.recovered is None or math.isfinite(row.recovered)
    last = report.alignment[-1]
    assert last.rho > last.null[1] and last.untrained is not None
    assert report.geometry is not None and report.geometry["effective_rank"] > 1
    assert set(report.dirichlet) == {"leading", "chance", "last"}
    assert json.loads(report.to_json())["model"] == "small"
    page = report.to_html()
    assert "small" in page and page.count("<svg") == 2 and "nan" not in page.lower().replace("nano", "")


def test_teachers_and_tokens_that_came_can_say_what_is_alike(small: Any) -> None:
    shared = {"probes": False, "contexts": 60, "permutations": 2, "horizon": 2}
    taught = markov_report(small, texts(12), similarity_source=small, **shared)
    own = markov_report(small, texts(12), **shared)
    assert taught.alignment[0].rho == pytest.approx(own.alignment[0].rho, abs=1e-3)
    came = markov_report(small, texts(12), similarity_source="next-token", **shared)
    assert came.source == "next-token" and came.alignment[0].rho < own.alignment[0].rho
    gram = markov_report(small, texts(12), kernel="bhattacharyya", **shared)
    assert gram.alignment[0].rho > gram.alignment[0].null[1]


def test_an_engine_without_hidden_states_gives_its_entropies_and_refuses_the_rest(small: Any) -> None:
    blind = SimpleNamespace(
        name="logits only",
        tokenizer=small.tokenizer,
        context_window=64,
        vocab_size=small.vocab_size,
        state=small.state,
    )
    rows = texts(4)
    with pytest.raises(ValueError, match="logits only gives no hidden states"):
        markov_report(blind, rows)
    alone = markov_report(blind, rows, probes=False, geometry=False)
    whole = markov_report(small, rows, probes=False, geometry=False)
    assert alone.entropy["kl"].mean == pytest.approx(whole.entropy["kl"].mean, abs=1e-4)
    assert alone.loss.mean == pytest.approx(whole.loss.mean, abs=1e-4)


def test_probes_go_on_after_a_kill_to_the_same_losses(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from szilard.analysis.markov_lm import probes

    seen = collected(small, texts(12, 20)).positions
    parts = split_documents(seen.document, 0)
    embeddings, head = small.model.get_input_embeddings().weight.detach(), linear_head(small.model)
    start = window_start(small.model, seen.following[:, :1], seen.following[:, 1], parts, head, None)
    data = (seen.hidden[-1], seen.following[:, :1], seen.following[:, 1], parts, embeddings, head, start)
    whole, _ = train_probe(*data, tmp_path / "whole", QUICK, sees=True, device="cpu")
    forward, count = probes._Objective.forward, 0

    def dying(self: Any, **batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(probes._Objective, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        train_probe(*data, tmp_path / "parts", QUICK, sees=True, device="cpu")
    monkeypatch.setattr(probes._Objective, "forward", forward)
    again, _ = train_probe(*data, tmp_path / "parts", QUICK, sees=True, device="cpu")
    assert torch.equal(whole, again)


def test_a_blind_probe_does_not_see_the_state(small: Any, tmp_path: Path) -> None:
    seen = collected(small, texts(12, 20)).positions
    parts = split_documents(seen.document, 0)
    embeddings, head = small.model.get_input_embeddings().weight.detach(), linear_head(small.model)
    start = plain_start(seen.hidden[-1], seen.following[:, 1], parts, head)
    rest = (seen.following[:, :1], seen.following[:, 1], parts, embeddings, head, start)
    one, _ = train_probe(seen.hidden[-1], *rest, tmp_path / "a", QUICK, sees=False, device="cpu")
    other, _ = train_probe(torch.randn_like(seen.hidden[-1]), *rest, tmp_path / "b", QUICK, sees=False, device="cpu")
    assert torch.equal(one, other)


def test_documents_are_never_cut_between_learning_and_testing() -> None:
    document = torch.arange(10).repeat_interleave(7)
    parts = split_documents(document, 0)
    assert sum(map(len, parts.values())) == 70
    owners = [set(document[rows].tolist()) for rows in parts.values()]
    assert not (owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2])


def test_the_model_on_a_short_window_is_the_model_on_these_tokens_alone(small: Any) -> None:
    tokens, target = torch.tensor([[4, 5], [6, 7], [4, 5]]), torch.tensor([8, 9, 10])
    found = state_losses(window_states(small.model, tokens, None), target, linear_head(small.model))
    with torch.no_grad():
        log_p = small.model(input_ids=tokens).logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(found, -log_p.gather(1, target[:, None])[:, 0], atol=1e-5, rtol=1e-5)


def test_a_bigram_learns_what_follows_what() -> None:
    previous = torch.arange(6).repeat(50)
    target = (previous + 1) % 6
    parts = {"learned": torch.arange(200), "chosen": torch.arange(200, 250), "tested": torch.arange(250, 300)}
    assert float(bigram_losses(previous, target, parts, 6).mean()) < 0.2
    assert chosen_baseline({"a": torch.ones(3), "b": torch.zeros(3)})[0] == "b"


def test_a_useful_draft_ends_where_the_share_falls() -> None:
    assert useful_draft_length([0.8, 0.5, 0.1, 0.9]) == 2 and useful_draft_length([math.nan]) == 0


def test_errors_are_over_documents() -> None:
    document = torch.arange(20).repeat_interleave(50)
    values = torch.randn(20, generator=torch.Generator().manual_seed(0))[document]
    found = by_document(values, document)
    assert found.error == pytest.approx(float(values.view(20, 50)[:, 0].std() / 20**0.5), rel=0.25)
    assert found.low < found.mean < found.high
    assert by_document(values, torch.zeros(1000, dtype=torch.long)).error == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"horizon": 1}, "horizon"),
        ({"layers": (9,)}, "layers"),
        ({"kernel": "rbf"}, "kernel"),
        ({"similarity_source": "teacher"}, "similarity_source"),
        ({"similarity_source": "next-token", "kernel": "hellinger"}, "one draw"),
        ({"contexts": 2}, "contexts"),
    ],
)
def test_settings_that_cannot_be_are_said(small: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        markov_report(small, texts(4), **given)


def test_texts_that_are_too_few_or_too_short_are_said(small: Any) -> None:
    with pytest.raises(ValueError, match="at least 4 tokens"):
        markov_report(small, [[3, 4]])
    with pytest.raises(ValueError, match="at least 3 texts"):
        markov_report(small, texts(2))


def test_a_head_that_is_no_matrix_is_refused(small: Any) -> None:
    class Capped(torch.nn.Module):
        config, device = small.model.config, torch.device("cpu")

        def get_output_embeddings(self) -> Any:
            return small.model.get_output_embeddings()

        def forward(self, **given: Any) -> Any:
            out = small.model(**given)
            out.logits = 2 * torch.tanh(out.logits / 2)
            return out

    with pytest.raises(ValueError, match="are not a matrix times"):
        linear_head(Capped())


@pytest.mark.parametrize("given", ["next", "nothing"])
def test_probes_start_at_the_frequencies_of_tokens(small: Any, tmp_path: Path, given: str) -> None:
    report = markov_report(
        small, texts(9), given=given, geometry=False, horizon=3, folder=tmp_path, probe_config=ProbeConfig(steps=1)
    )
    for row in report.surplus:
        assert row.given == given and row.with_state.mean == pytest.approx(row.without.mean, abs=0.5)


def test_a_window_start_is_the_model_on_that_window(small: Any) -> None:
    seen = collected(small, texts(12, 20)).positions
    parts, head = split_documents(seen.document, 0), linear_head(small.model)
    tokens, target = seen.following[:, :2], seen.following[:, 2]
    start = window_start(small.model, tokens, target, parts, head, None)
    probe = Probe(small.model.get_input_embeddings().weight.detach(), head, start, 2, 8, sees=True, state=16)
    with torch.no_grad():
        logits = probe(seen.hidden[-1], tokens, start.states)
        whole = small.model(input_ids=tokens).logits[:, -1]
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)


def test_probes_of_other_texts_are_not_taken_for_these(small: Any, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"geometry": False, "horizon": 2, "folder": str(tmp_path), "probe_config": QUICK}
    one = markov_report(small, texts(6), **shared)
    again = markov_report(small, texts(6), **shared)
    assert one.surplus == again.surplus
    with pytest.raises(ValueError, match="other texts"):
        markov_report(small, texts(6, seed=1), **shared)
    with pytest.raises(ValueError, match="other settings"):
        markov_report(small, texts(6), **(shared | {"probe_config": ProbeConfig(steps=5)}))


def test_energies_are_of_the_states_that_the_head_reads_whatever_the_layers(small: Any) -> None:
    shared: dict[str, Any] = {"probes": False, "contexts": 60, "permutations": 0, "horizon": 2}
    one, other = (markov_report(small, texts(12), layers=layers, **shared) for layers in ((-1,), (1,)))
    assert one.dirichlet == other.dirichlet and one.alignment[0].null is None
    assert len(one.directions) == len(one.eigenvalues) == 8
    assert one.eigenvalues == sorted(one.eigenvalues, reverse=True)


@pytest.mark.parametrize(
    ("given", "texts_given", "told"),
    [
        ({}, "one text alone", "list of documents"),
        ({}, 5, "list of documents"),
        ({}, [None, [3, 4]], "text 0 must be a string"),
        ({}, [[3.5] * 9] * 4, "text 0 must be a string"),
        ({}, [[3] * 9, [10_000] * 9, [3] * 9], "token id 10000"),
        ({}, [[-1] * 9] * 4, "token id -1"),
        ({"layers": -1}, None, "layers must be whole numbers in a list"),
        ({"layers": ()}, None, "layers must be whole numbers in a list"),
        ({"layers": "last"}, None, "layers must be whole numbers in a list"),
        ({"given": "some"}, None, "given"),
        ({"beta": math.nan}, None, "beta"),
        ({"seed": "a"}, None, "seed"),
        ({"probe_config": {"steps": 1}}, None, "ProbeConfig"),
        ({"probes": 1}, None, "probes"),
    ],
)
def test_what_is_no_text_or_no_setting_is_said(small: Any, given: dict[str, Any], texts_given: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        markov_report(small, texts(4) if texts_given is None else texts_given, **given)


def test_a_teacher_of_other_tokens_is_refused(small: Any) -> None:
    other = SimpleNamespace(
        name="other", model=small.model, tokenizer=number_tokenizer(9), context_window=64, vocab_size=small.vocab_size
    )
    with pytest.raises(ValueError, match="other tokens"):
        markov_report(small, texts(4), similarity_source=other, probes=False)


def test_a_model_that_gives_no_states_is_refused(small: Any) -> None:
    class Silent(torch.nn.Module):
        config, device = small.model.config, torch.device("cpu")

        def get_output_embeddings(self) -> Any:
            return small.model.get_output_embeddings()

        def forward(self, **given: Any) -> Any:
            out = small.model(**given)
            out.hidden_states = None
            return out

    with pytest.raises(ValueError, match="gives no hidden states"):
        linear_head(Silent())
