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
    ProbeConfig,
    bigram_losses,
    chosen_baseline,
    split_documents,
    train_probe,
    useful_draft_length,
    window_losses,
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
    assert all(math.isfinite(row.recovered) for row in report.surplus)
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
    data = (seen.hidden[-1], seen.following[:, :1], seen.following[:, 1], parts, embeddings, head)
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
    rest = (seen.following[:, :1], seen.following[:, 1], parts, embeddings, head)
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
    found = window_losses(small.model, tokens, target, None, small.vocab_size)
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
