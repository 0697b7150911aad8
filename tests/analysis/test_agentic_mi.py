"""Information that compressors keep: scores, bounds, sources, resuming, and what follows from it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from szilard.analysis.agentic_mi import (
    CondensePrompt,
    Point,
    agentic_mi,
    answer_questions,
    api_cost,
    choice_importance,
    continuation_distortion,
    flops_per_generation,
    partial_correlation,
    point,
    recommend,
)
from szilard.analysis.agentic_mi import measure as measuring
from szilard.analysis.agentic_mi.hard_negatives import bm25, competitors
from szilard.analysis.agentic_mi.page import to_html
from szilard.analysis.agentic_mi.scoring import Scorer
from szilard.compression.baselines import Truncation
from szilard.compression.method import TextCompressor
from szilard.compression.text import CompressedText
from szilard.decoding.cost import ModelSize
from szilard.information import RateDistortion, mutual_information_from_log_likelihood
from tests.conftest import tiny_tokenizer

PROMPT = CondensePrompt(plain="{context} w20 w21", with_query="{context} w20 {query} w22")
CONTEXTS = ["w30 w31 w32 w33", "w34 w35", "w36 w37 w38 w39 w40 w41"]
TEXTS = ["w50", "w51 w52 w53", "w54 w55 w56 w57 w58 w59 w60"]


def full_forward(engine, prompt, text):
    """Log-likelihood of `text` after `prompt` without cache or batch."""
    with torch.no_grad():
        logits = engine.model(torch.tensor([prompt + text])).logits[0].double()
    taken = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return float(taken.gather(1, torch.tensor(text)[:, None]).sum())


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [[None] * 3, ["w70", "w71 w72", "w70"]])
def test_scores_behind_a_shared_prefix_equal_the_full_forward(engine, queries):
    scorer = Scorer(engine, PROMPT, 3)
    texts = [scorer.text_ids(text, True) for text in TEXTS]
    found = scorer.column(CONTEXTS[0], queries, texts)
    wanted = [
        full_forward(engine, scorer.ids(CONTEXTS[0], query), text) for query, text in zip(queries, texts, strict=True)
    ]
    assert found.dtype == np.float64 and found == pytest.approx(wanted, abs=1e-3)


def test_a_padded_batch_scores_like_its_rows_one_by_one(engine):
    scorer = Scorer(engine, PROMPT, 3)
    texts = [scorer.text_ids(text, True) for text in TEXTS]
    together = scorer.column(CONTEXTS[1], [None] * 3, texts)
    apart = [float(scorer.column(CONTEXTS[1], [None], [text])[0]) for text in texts]
    assert together == pytest.approx(apart, abs=1e-5)


def test_a_truncated_text_is_scored_without_an_end_and_an_empty_one_costs_only_its_end(engine):
    scorer = Scorer(engine, PROMPT, 3)
    end = engine.tokenizer.eos_token_id
    assert scorer.text_ids("w50 w51", False) == scorer.text_ids("w50 w51", True)[:-1]
    assert scorer.text_ids("", True) == [end] and scorer.text_ids("", False) == []
    scores = scorer.column(CONTEXTS[0], [None] * 2, [[], [end]])
    assert scores[0] == 0.0
    assert scores[1] == pytest.approx(full_forward(engine, scorer.ids(CONTEXTS[0], None), [end]), abs=1e-3)


def test_the_scoring_temperature_divides_the_logits(engine):
    prompt, text = Scorer(engine, PROMPT, 3).ids(CONTEXTS[0], None), [50]
    with torch.no_grad():
        logits = engine.model(torch.tensor([prompt])).logits[0, -1].double()
    found = Scorer(engine, PROMPT, 3, temperature=0.5).column(CONTEXTS[0], [None], [text])
    assert found[0] == pytest.approx(float(torch.log_softmax(logits / 0.5, dim=-1)[50]), abs=1e-3)


def test_the_prefix_read_is_whichever_makes_the_model_read_less():
    a, b = [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8]
    assert Scorer._shared([a, b], [[9], [9]]) == [([1, 2, 3, 4, 5, 6], [0, 1])]
    many = [a] * 40 + [b] * 40  # 6 + 80 repeated ends are more than 14
    assert [len(members) for _, members in Scorer._shared(many, [[9]] * 80)] == [40, 40]
    assert Scorer._shared([a, a], [[9], []]) == [(a, [0])]


@pytest.mark.llama
def test_llama_cpp_scores_equal_one_text_at_a_time(tmp_path):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from szilard.engines.llama_cpp_engine import LlamaCppEngine
    from szilard.engines.llama_cpp_model import LlamaModel
    from tests.speculative import tiny_gguf

    engine = LlamaCppEngine.__new__(LlamaCppEngine)  # its file has no vocabulary, so it is given one
    engine.name, engine._model = "tiny", LlamaModel(tiny_gguf.write(tmp_path / "tiny.gguf"), "tiny", 1)
    engine.tokenizer, engine.provides = tiny_tokenizer(), engine._model.provides
    scorer = Scorer(engine, PROMPT, 3)
    texts = [scorer.text_ids(text, True) for text in TEXTS]
    together = scorer.column(CONTEXTS[0], ["w70", "w71 w72", "w70"], texts)
    for query, text, score in zip(["w70", "w71 w72", "w70"], texts, together, strict=True):
        state = engine.state(torch.tensor(scorer.ids(CONTEXTS[0], query) + text), max_new_tokens=1)
        logits = [
            engine.state(torch.tensor(scorer.ids(CONTEXTS[0], query) + text[:at])).prefill() for at in range(len(text))
        ]
        state.close()
        wanted = sum(float(torch.log_softmax(row[0], -1)[token]) for row, token in zip(logits, text, strict=True))
        assert score == pytest.approx(wanted, abs=1e-3)


# ---- the measurement -------------------------------------------------------------------------------------------------


def test_a_text_that_is_alike_for_all_contexts_carries_nothing(engine):
    report = agentic_mi(["w50 w51"] * 3, engine, CONTEXTS, prompt=PROMPT)
    assert report.nats == 0.0 and report.information.raw <= 1e-9
    assert report.matrix.shape == (3, 1, 3) and report.matrix.dtype == torch.float64


def test_a_model_writes_samples_for_every_seed_and_repeats_them(engine):
    options = {"samples": 2, "seeds": (3, 4), "max_new_tokens": 6, "prompt": PROMPT, "batch_size": 2}
    report = agentic_mi(engine, None, CONTEXTS, **options)
    again = agentic_mi(engine, engine, CONTEXTS, **options)
    assert report.texts == again.texts and torch.equal(report.matrix, again.matrix)
    assert report.matrix.shape == (3, 4, 3) and len(report.per_seed) == 2
    assert sum(report.per_seed) / 2 == pytest.approx(report.information.raw)
    assert 0 <= report.nats <= math.log(3) and report.scorer_is_compressor
    assert len({text for row in report.texts for text in row}) > 6  # samples differ
    lengths = [one.tokens for row in report.compressions for one in row]
    assert report.length == pytest.approx(sum(lengths) / 12) and max(lengths) <= 6
    assert report.truncated == sum(not one.ended for row in report.compressions for one in row) > 0
    assert report.bits_per_token == pytest.approx(report.bits / report.length)
    assert report.flops > 0 and report.flops_of_reading > 0


def test_at_temperature_0_one_text_is_enough(engine):
    report = agentic_mi(engine, engine, CONTEXTS, samples=3, temperature=0, max_new_tokens=4, prompt=PROMPT)
    assert report.matrix.shape == (3, 1, 3) and len(report.per_seed) == 1


def test_texts_and_scores_are_those_of_each_context_and_its_own_query(engine):
    queries = ["w70", "w71 w72", "w70"]
    report = agentic_mi(TEXTS, engine, CONTEXTS, queries, prompt=PROMPT)
    scorer = Scorer(engine, PROMPT, 3)
    for i, query in enumerate(queries):
        for column, context in enumerate(CONTEXTS):  # the query stays while the context varies
            wanted = full_forward(engine, scorer.ids(context, query), scorer.text_ids(TEXTS[i], True))
            assert float(report.matrix[i, 0, column]) == pytest.approx(wanted, abs=1e-3)
    assert report.conditional


def test_empty_texts_are_kept_and_counted(engine):
    report = agentic_mi([["", "w50"], ["w51", " "], ["w52", "w53"]], engine, CONTEXTS, prompt=PROMPT)
    assert report.empty == 2 and report.matrix.shape == (3, 2, 3)
    assert report.length == report.scorer_length == pytest.approx(4 / 6)


@pytest.mark.embedded
def test_a_text_that_names_its_source_reaches_the_ceiling(embedded):
    contexts = ["Ann has a red car.", "Bob has two black dogs.", "Carl lives in Oslo."]
    report = agentic_mi(contexts, embedded, contexts)
    assert report.bits == pytest.approx(math.log2(3), abs=0.01) and report.saturation == 1.0
    wrong = mutual_information_from_log_likelihood(report.matrix, own=[1, 2, 0])  # each under another's context
    assert wrong.nats == 0.0 and wrong.raw < -1


# ---- where texts come from -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FirstWords(TextCompressor):
    """Keeps the first words."""

    slug: ClassVar[str] = "first-words"
    paper: ClassVar[str] = "none"

    @classmethod
    def neutral(cls):
        return cls()

    def compress(self, contexts, budget=None, *, engine=None):
        return [self.of(text, text.split()[:budget]) for text in contexts]

    def of(self, original, words):
        return CompressedText(" ".join(words), original, (), len(original.split()), len(words), self.slug, "words")


@dataclass(frozen=True)
class ChanceWords(FirstWords):
    """Keeps words by chance.

    Attributes:
        seed: of the draws.
    """

    seed: int = 0

    def compress(self, contexts, budget=None, *, engine=None):
        random = np.random.default_rng(self.seed)
        return [self.of(text, [str(word) for word in random.permutation(text.split())[:budget]]) for text in contexts]


def test_a_text_compressor_gives_one_text_at_its_budget(engine):
    report = agentic_mi(FirstWords(), engine, CONTEXTS, budget=2, prompt=PROMPT)
    assert report.texts == [["w30 w31"], ["w34 w35"], ["w36 w37"]]
    assert report.compressor == "first-words 2" and report.length == 2 and report.flops is None


def test_a_text_compressor_with_a_seed_gives_other_texts_for_each_sample(engine):
    report = agentic_mi(ChanceWords, engine, CONTEXTS, budget=1, samples=3, seeds=(0, 1), prompt=PROMPT)
    assert report.matrix.shape == (3, 6, 3) and len(report.per_seed) == 2
    assert len(set(report.texts[2])) > 1


# ---- resuming --------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("stage", ["compressions", "contexts"])
def test_a_killed_measurement_goes_on_where_it_was(engine, tmp_path, monkeypatch, stage):
    options = {"max_new_tokens": 5, "prompt": PROMPT, "batch_size": 2}
    wanted = agentic_mi(engine, None, CONTEXTS, **options)

    def killed(what, done, total):
        if what == stage and done >= 2:
            raise Killed

    with pytest.raises(Killed):
        agentic_mi(engine, None, CONTEXTS, folder=tmp_path / "run", progress=killed, **options)
    with (tmp_path / "run" / "compressions.jsonl").open("a") as file:
        file.write('{"context": 0, "samp')  # torn by the kill
    read = []
    monkeypatch.setattr(
        measuring.Scorer, "column", lambda self, *given, own=Scorer.column: read.append(1) or own(self, *given)
    )
    found = agentic_mi(engine, None, CONTEXTS, folder=tmp_path / "run", **options)
    assert torch.equal(found.matrix, wanted.matrix) and found.texts == wanted.texts
    assert len(read) == (3 if stage == "compressions" else 1)
    read.clear()
    assert torch.equal(agentic_mi(engine, None, CONTEXTS, folder=tmp_path / "run", **options).matrix, wanted.matrix)
    assert not read


def test_a_folder_of_another_measurement_is_refused(engine, tmp_path):
    agentic_mi(TEXTS, engine, CONTEXTS, prompt=PROMPT, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="another measurement"):
        agentic_mi(TEXTS[::-1], engine, CONTEXTS, prompt=PROMPT, folder=tmp_path / "run")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        agentic_mi(TEXTS, engine, CONTEXTS, prompt=PROMPT, folder=tmp_path)


def test_a_text_compressor_is_known_by_its_options_and_not_by_where_they_lie_in_memory(engine, tmp_path):
    for _ in range(2):  # another function object each time, as in another process

        def words(text):
            return len(text.split())

        agentic_mi(Truncation(count_tokens=words), engine, CONTEXTS, budget=1, prompt=PROMPT, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="another measurement"):
        agentic_mi(Truncation(side="head"), engine, CONTEXTS, budget=1, prompt=PROMPT, folder=tmp_path / "run")


# ---- hard negatives --------------------------------------------------------------------------------------------------

NOTES = ["the ward is north", "the ward is south", "a ship went down", "a ship sailed home"]


def test_bm25_finds_the_near_duplicates():
    alike = bm25(NOTES)
    np.fill_diagonal(alike, -1)
    assert alike.argmax(1).tolist() == [1, 0, 3, 2]
    rivals = competitors(NOTES, "bm25", 1)
    assert rivals.columns.tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]] and rivals.own.tolist() == [0] * 4


def test_hard_negatives_are_the_same_scores_in_columns_of_their_own(engine):
    contexts, texts = [*CONTEXTS, "w30 w31 w32 w34"], [*TEXTS, "w61"]
    all_ = agentic_mi(texts, engine, contexts, prompt=PROMPT)
    near = agentic_mi(texts, engine, contexts, prompt=PROMPT, hard_negatives="bm25", negatives=1)
    assert near.matrix.shape == (4, 1, 2) and near.ceiling_bits == 1.0
    assert near.matrix[0, 0].tolist() == pytest.approx(all_.matrix[0, 0, [0, 3]].tolist(), abs=1e-6)
    given = agentic_mi(texts[:1], engine, contexts[:1], prompt=PROMPT, hard_negatives="given", negatives=[contexts[1:]])
    assert given.matrix[0].tolist()[0] == pytest.approx(all_.matrix[0, 0].tolist(), abs=1e-6)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contexts": CONTEXTS[:1], "compressor": TEXTS[:1]}, "at least 2 contexts"),
        ({"contexts": ["w3", " "]}, "empty"),
        ({"queries": ["w3"]}, "1 queries for 3 contexts"),
        ({"compressor": TEXTS[:2]}, "each of 3 contexts"),
        ({"compressor": 3}, "a compressor is"),
        ({"compressor": "no-such-thing"}, "no compressor"),
        ({"scorer": None}, "need a scorer"),
        ({"samples": 0}, "samples"),
        ({"seeds": ()}, "seeds"),
        ({"hard_negatives": "hard"}, "hard_negatives"),
        ({"negatives": 2}, "go with hard_negatives"),
        ({"hard_negatives": "bm25", "negatives": 3}, "between 1 and 2"),
        ({"hard_negatives": "given", "negatives": [["w3"], ["w4"], []]}, "same number"),
        ({"contexts": ["w3", "w4", "w5 " * 250]}, "context 2 takes"),
    ],
)
def test_bad_input_is_refused_before_any_work(engine, monkeypatch, change, words):
    monkeypatch.setattr(measuring.Scorer, "column", lambda *_: pytest.fail("work began"))
    arguments = {"compressor": TEXTS, "scorer": engine, "contexts": CONTEXTS, "prompt": PROMPT} | change
    with pytest.raises((ValueError, TypeError), match=words):
        agentic_mi(**arguments)


def test_a_context_too_long_for_the_writer_is_refused_before_any_work(engine, monkeypatch):
    monkeypatch.setattr(type(engine), "generate", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(ValueError, match="context window"):
        agentic_mi(engine, None, ["w3", "w4", "w5 " * 200], max_new_tokens=100, prompt=PROMPT)


def test_what_is_filled_into_a_prompt_is_not_searched_for_names():
    prompt = CondensePrompt(plain="{context}! {sentences}", with_query="{query}: {context}? {sentences}")
    assert prompt.fill("a {sentences} b", "{context}", 6, chat=False).startswith("{context}: a {sentences} b? 6")
    with pytest.raises(ValueError, match="must hold"):
        CondensePrompt(plain="summarise")


# ---- predictors and what follows -------------------------------------------------------------------------------------


def test_answers_are_scored_kept_and_counted(engine, tmp_path):
    asked = [[("w70", "w1"), ("w71", "w2")], [("w70", "w3")], [("w72", "w4")]]
    texts = [[text] for text in TEXTS]
    options = {"max_new_tokens": 4, "ask": "{notes} {question}", "folder": tmp_path / "answers"}
    answers = answer_questions(engine, texts, asked, **options)
    assert answers.distortion == 1.0 and len(answers.records) == 4 and answers.flops > 0
    replies = iter([record["reply"] for record in answers.records])
    judged = answer_questions(
        engine, texts, asked, judge=lambda question, answer, reply: reply == next(replies), **options
    )
    assert judged.distortion == 0.0  # the kept replies, under another judge
    with pytest.raises(ValueError, match="not all empty"):
        answer_questions(engine, texts, [[], [], []])


def test_an_answer_counts_where_its_words_stand_in_the_reply():
    from szilard.analysis.agentic_mi.predict import holds_answer

    assert holds_answer("?", "Okafor", "The nurse is okafor.") == 1
    assert holds_answer("?", "20", "It is 200 mg") == 0
    assert holds_answer("?", "12 May", "on 12 May, at noon") == 1


def test_continuations_are_judged_in_nats_per_token(engine):
    found = continuation_distortion(engine, [["w50"], [""]], ["w60 w61 w62", "w63"])
    prompt = engine.encode(["w50\n\n"], raw=True)["input_ids"][0].tolist()
    wanted = -full_forward(engine, prompt, [60, 61, 62])
    assert found.records[0]["nats"] == pytest.approx(wanted, abs=1e-3)
    assert found.distortion == pytest.approx(sum(record["nats"] for record in found.records) / 4)


def made(compressor, predictor, distortion, tokens, flops, *, bits=3.0, length=20.0):
    return Point(compressor, predictor, bits, 4.0, length, bits / length, distortion, 0.05, tokens, flops, None)


def test_the_recommended_pair_is_the_cheapest_of_the_best_within_the_budget():
    points = [made("a", "p", 0.50, 50, 1.0), made("b", "p", 0.22, 90, 3.0), made("c", "p", 0.20, 200, 9.0)]
    assert recommend(points).point.compressor == "b" and "within its standard error" in recommend(points).reason
    assert recommend(points, tokens=60).point.compressor == "a"
    assert "beyond the budget c with p reaches 0.200" in recommend(points, tokens=60).reason
    nothing = recommend(points, flops=0.5)
    assert nothing.point is None and "fewest tokens take a with p" in nothing.reason
    with pytest.raises(ValueError, match="different numbers of contexts"):
        recommend([points[0], dataclasses.replace(points[1], ceiling_bits=3.0)])


def test_without_a_predictor_the_shortest_of_the_most_informative_is_recommended():
    points = [made("long", None, None, None, 1.0, bits=3.9, length=80), made("short", None, None, None, 1.0, bits=3.8)]
    assert recommend(points).point.compressor == "short"
    assert recommend(points, tokens=10).point is None


def test_partial_correlation_takes_the_length_out():
    random = np.random.default_rng(0)
    length = random.normal(size=400)
    bits, accuracy = length + 0.1 * random.normal(size=400), length + 0.1 * random.normal(size=400)
    assert np.corrcoef(bits, accuracy)[0, 1] > 0.95
    assert abs(partial_correlation(bits, accuracy, length)) < 0.15
    assert partial_correlation(bits, 2 * bits + length, length) == pytest.approx(1.0)
    assert math.isnan(partial_correlation(length, accuracy, length))


def test_the_choice_that_answers_depend_on_is_the_important_one():
    pytest.importorskip("sklearn")
    random = np.random.default_rng(1)
    rows = [{"family": str(random.choice(["q", "s"])), "size": float(random.choice([0.5, 1.5]))} for _ in range(300)]
    right = [float(random.random() < (0.9 if row["family"] == "q" else 0.2)) for row in rows]
    importance = choice_importance(rows, right)
    assert next(iter(importance)) == "family" and importance["family"] > 0.1 > importance["size"]
    with pytest.raises(ValueError, match="all right or all wrong"):
        choice_importance(rows, [1.0] * 300)


def test_the_papers_costs():
    size = ModelSize("m", layers=2, layer_parameters=1000, attention_width=8, kv_bytes_per_token=4)
    assert flops_per_generation(size, 90, 10) == 10 * (2 * 1000 + 2 * 2 * 100 * 8)
    assert api_cost(1_000_000, 500_000, 2.5, 10.0) == pytest.approx(7.5)


def test_the_page_shows_bounds_curves_and_advice_and_loads_nothing(engine):
    report = agentic_mi(TEXTS, engine, CONTEXTS, prompt=PROMPT, name="<b>mine</b>")
    points = [made("a", "p", 0.5, 50, 1.0), made("b", "p", 0.2, 90, 3.0)]
    fit = RateDistortion(0.6, 8.0, 0.2, 0.9, 3)
    page = to_html([report.to_dict()], points, {"p": fit}, advice=["Take b & go."])
    assert "&lt;b&gt;mine&lt;/b&gt;" in page and "<b>mine</b>" not in page and "Take b &amp; go." in page
    assert 'class="bound"' in page and "polyline" in page and "D₀ = 0.20" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert point(report).distortion is None
