"""Scores: what is right, what is not, loose and strict."""

import importlib.util

import pytest

from szilard.evaluation.parallelbench import Sample, score, text_metrics
from szilard.evaluation.parallelbench.answers import read_list
from szilard.evaluation.parallelbench.grammar import grammatical, offline_faults

NO_LANGUAGE_TOOL = importlib.util.find_spec("language_tool_python") is None


def listed(items, *, label=None, word=None):
    metadata = {"input": items, "word": word, "index": None, "n": len(items), "compact": False, "width": 1}
    return {"label": label or items, "metadata": metadata}


def written(items):
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        ('["A B", "C D"]', ["A B", "C D"], ["A B", "C D"]),
        ("Here: ['A B',  C D ] ok?", ["A B", "C D"], None),
        ('["x"] is now ["A B", "C D"]', ["A B", "C D"], None),
        ('["A B","C D"]', ["A B", "C D"], None),  # no blank after the comma
        ('"A B", "C D"', ["A B", "C D"], None),
        (' ["A B"] \n', ["A B"], ["A B"]),
        ("[]", [], []),
        ("", [], None),
    ],
)
def test_a_list_is_read_loosely_or_strictly(text, loose, strict):
    assert read_list(text) == loose
    assert read_list(text, strict=True) == strict


# ---- lists ----------------------------------------------------------------------------------------------------------


def test_a_list_with_one_right_answer_must_be_it():
    sample = listed(["a", "b", "c"], label=["c", "b", "a"])
    assert score("reverse", written("cba"), sample) == 1
    assert score("reverse", written("cab"), sample) == 0
    assert score("reverse", "Sure: [c, b, a].", sample) == 1
    assert score("reverse", "Sure: [c, b, a].", sample, strict=True) == 0
    assert score("reverse", written("cba"), ["c", "b", "a"]) == 1  # the label alone suffices


@pytest.mark.parametrize(
    ("answer", "right"), [("bac", 1), ("cba", 1), ("abc", 0), ("bab", 0), ("ab", 0), ("abcd", 0), ("bacc", 0)]
)
def test_a_shuffle_has_the_same_items_in_another_order(answer, right):
    assert score("shuffle", written(answer), listed(["a", "b", "c"])) == right


@pytest.mark.parametrize(
    ("answer", "right"), [("wabc", 1), ("abwc", 1), ("abcw", 1), ("abc", 0), ("awbwc", 0), ("bwac", 0), ("wab", 0)]
)
def test_inserting_leaves_the_others_as_they_were(answer, right):
    assert score("insert_random", written(answer), listed(["a", "b", "c"], word="w")) == right


@pytest.mark.parametrize(
    ("answer", "right"), [("ab", 1), ("bc", 1), ("ac", 1), ("ba", 0), ("abc", 0), ("a", 0), ("aa", 0), ("ax", 0)]
)
def test_removing_takes_one_and_keeps_the_order(answer, right):
    assert score("remove_random", written(answer), listed(["a", "b", "c"])) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [("wbc", 1), ("awc", 1), ("abw", 1), ("wbw", 0), ("www", 0), ("abc", 0), ("wac", 0), ("wabc", 0), ("bwc", 0)],
)
def test_replacing_changes_one_place_and_no_other(answer, right):
    assert score("replace_random", written(answer), listed(["a", "b", "c"], word="w")) == right


def test_compact_answers_are_cut_by_the_words_of_an_item():
    sample = listed(["a b", "c d"])
    sample["metadata"] |= {"compact": True, "width": 2}
    assert score("shuffle", "c d a b", sample) == 1
    assert score("shuffle", "a b c d", sample) == score("shuffle", "c d a", sample) == 0
    assert score("shuffle", '["c d", "a b"]', sample) == 0


# ---- puzzles --------------------------------------------------------------------------------------------------------

LATIN = {"label": None, "metadata": {"symbols": ["A", "B", "7", "Q"], "n": 4, "compact": False}}
SQUARE = "A,B,7,Q\nB,A,Q,7\n7,Q,A,B\nQ,7,B,A"


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        (SQUARE, 1, 1),
        (f"Here it is:\n{SQUARE}\nDone.", 1, 0),
        (SQUARE.replace(",", ", "), 1, 1),
        (f"{SQUARE}\nA,B,7,Q", 1, 0),  # of five rows the first four
        ("A,B,7,Q\nB,A,Q,7\n7,Q,A,B\nA,7,B,Q", 0, 0),  # a column with A twice
        ("A,B,7,Q\nB,A,Q,7\n7,Q,A,B", 0, 0),
        ("A,B,7,Q,A\nB,A,Q,7\n7,Q,A,B\nQ,7,B,A", 0, 0),
    ],
)
def test_a_latin_square_may_be_any(text, loose, strict):
    assert score("latin_square", text, LATIN) == loose
    assert score("latin_square", text, LATIN, strict=True) == strict


def test_a_sudoku_must_be_its_solution():
    label = [list("1234"), list("3412"), list("2143"), list("4321")]
    text = "1234\n3412\n2143\n4321"
    assert score("sudoku", text, label) == score("sudoku", text, label, strict=True) == 1
    spaced = text.replace("\n", " \n\n").replace("12", "1 2")
    assert score("sudoku", spaced, label) == 1
    assert score("sudoku", spaced, label, strict=True) == 0
    assert score("sudoku", text.replace("12", "21"), label) == 0
    assert score("sudoku", text + "\n1234", label) == 0


# ---- texts ----------------------------------------------------------------------------------------------------------

WORDS = {"label": ["dog", "park"], "metadata": {"words": ["dog", "park"], "n": 2}}


def test_a_sentence_needs_all_words_and_grammar():
    good, bad = "The dog runs in the park.", "The the dog runs in the park."
    assert score("w2s_easy", good, WORDS, grammar="offline") == 1
    assert score("w2s_easy", "The dog runs.", WORDS, grammar="offline") == 0
    assert text_metrics("w2s_easy", bad, WORDS, grammar="offline") == {"grammar": 0, "inclusion": 1, "score": 0}


def test_the_figures_of_a_summary_are_grammar_and_its_composite_is_a_product():
    pytest.importorskip("rouge_score")
    sample = Sample("summarization", (), "", "Ann meets Bob.", "Ann meets Bob.", {"text": "Ann: Hi Bob"})
    assert score("summarization", "It rains.", sample, grammar="offline") == 1
    metrics = text_metrics("summarization", "Ann met Bob.", sample, grammar="offline", composite=True)
    assert metrics["score"] == metrics["rougeL"] == pytest.approx(2 / 3)


@pytest.mark.skipif(importlib.util.find_spec("bert_score") is not None, reason="bert-score is there")
def test_without_bert_score_the_composite_of_a_paraphrase_is_refused():
    sample = {"label": "x", "metadata": {"text": "It rains."}}
    with pytest.raises(ValueError, match="pip install bert-score"):
        text_metrics("paraphrasing", "Rain falls.", sample, grammar="offline", composite=True)


@pytest.mark.skipif(not NO_LANGUAGE_TOOL, reason="LanguageTool is there")
def test_without_language_tool_grammar_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="install Java and language-tool-python, or take grammar=offline"):
        score("w2s_easy", "The dog is in the park.", WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "The owner gave the dog a treat.",
        'She said: "An hour is a short time." He agreed!',
        "A unicorn (of an unusual colour) used a one-way street, the fact that that surprised me.",
    ],
)
def test_good_sentences_have_no_offline_fault(text):
    assert offline_faults(text) == ()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("The dog dog barks.", "repeated"),
        ("He is a honest man.", "wrong article"),
        ("It was an university.", "wrong article"),
        ("He left (in a hurry.", "not closed"),
        ("He left) again.", "closes nothing"),
        ('He said "no.', "quotation mark"),
        ("he left.", "lower case"),
        ("He left. then he came.", "lower case"),
        ("He left", "no end"),
    ],
)
def test_offline_faults_are_named(text, fault):
    assert fault in " ".join(offline_faults(text))
    assert not grammatical(text, "offline")


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_label_that_does_not_suffice_is_refused():
    with pytest.raises(ValueError, match="label alone does not suffice"):
        score("shuffle", "[a, b]", ["b", "a"])
    with pytest.raises(ValueError, match="there is no task"):
        score("mix", "[a, b]", ["b", "a"])
