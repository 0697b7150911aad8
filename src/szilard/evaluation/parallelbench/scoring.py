"""Scores of answers, 0 or 1 (text tasks: also the parts they are made of).

Loose reading, the default, takes the answer out of whatever stands around it; `strict` wants it in exactly the asked
form and nothing else (of the puzzles: inferred; compact answers and texts have one reading).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from szilard.evaluation.parallelbench.answers import read_cells, read_compact, read_digits, read_list, read_rows
from szilard.evaluation.parallelbench.generate import task_kind
from szilard.evaluation.parallelbench.grammar import grammatical
from szilard.evaluation.parallelbench.sample import Sample

_BY_LABEL = ("copy", "reverse", "sort", "insert_index", "remove_index", "replace_index", "sudoku")


def score(
    name: str,
    pred: str,
    sample: Sample | Mapping[str, Any] | Sequence[Any],
    strict: bool = False,
    *,
    grammar: str = "language-tool",
) -> float:
    """Whether an answer is right, 0 or 1.

    Args:
        name: the task.
        pred: what the model wrote.
        sample: the question: a `Sample`, an object with its "label" and "metadata", or, where the answer is unique, the
            label alone.
        strict: only the exact form counts.
        grammar: "language-tool", or "offline" (see `grammar.py`); of text tasks.

    Raises:
        ValueError: no such task, a label that does not suffice, or no LanguageTool.
    """
    kind = task_kind(name)
    label, metadata = _reference(kind.name, sample)
    if kind.group == "text":
        given = {"label": label, "metadata": metadata}
        return text_metrics(kind.name, pred, given, grammar=grammar)["score"]
    if kind.group == "puzzle":
        return float(_puzzle(kind.name, pred, label, metadata, strict))
    answer = read_compact(pred, metadata["width"]) if metadata.get("compact") else read_list(pred, strict=strict)
    return float(answer is not None and _list(kind.name, answer, label, metadata))


def text_metrics(
    name: str,
    pred: str,
    sample: Sample | Mapping[str, Any],
    *,
    grammar: str = "language-tool",
    composite: bool = False,
) -> dict[str, float]:
    """The parts of a text's score, 0..1, with "score".

    "grammar" alone is what the published figures report. The score of a sentence is grammar and "inclusion" (every word
    is found in it, in any case); that of a summary or a paraphrase is grammar; with `composite` it is the product of
    grammar and the rest: "rougeL" (stemmed) of a summary; "bertscore" and "novelty" (1 - BLEU), both against the
    text, of a paraphrase (against which text is inferred).

    Raises:
        ValueError: a package is missing.
    """
    label, metadata = _reference(name, sample)
    parts = {"grammar": float(grammatical(pred, grammar))}
    kind = task_kind(name).name
    if kind.startswith("w2s_"):
        parts["inclusion"] = float(all(word.lower() in pred.lower() for word in label))
        return parts | {"score": parts["grammar"] * parts["inclusion"]}
    if composite and kind == "summarization":
        parts["rougeL"] = float(_rouge().score(label, pred)["rougeL"].fmeasure)
    elif composite:
        parts["bertscore"] = float(_bert_score()([pred], [metadata["text"]], lang="en")[2][0])
        parts["novelty"] = 1 - float(_bleu().corpus_score([pred], [[metadata["text"]]]).score) / 100
    product = 1.0
    for part in parts.values():
        product *= part
    return parts | {"score": product}


def check_composite(name: str) -> None:
    """Refuse, before any work, a composite score whose packages are missing.

    Raises:
        ValueError: one is.
    """
    if task_kind(name).name == "summarization":
        _rouge()
    elif task_kind(name).name == "paraphrasing":
        _bert_score()
        _bleu()


def _reference(name: str, sample: Any) -> tuple[Any, Mapping[str, Any]]:
    if isinstance(sample, Sample):
        return sample.label, sample.metadata
    if isinstance(sample, Mapping) and {"label", "metadata"} <= sample.keys():
        return sample["label"], sample["metadata"]
    if isinstance(sample, Sequence) and not isinstance(sample, str) and name in _BY_LABEL:
        return list(sample), {}
    raise ValueError(
        f"to score '{name}', give the sample, or its label and metadata: the label alone does not suffice."
    )


def _list(name: str, answer: list[str], label: list[str], metadata: Mapping[str, Any]) -> bool:
    if name in _BY_LABEL:
        return answer == label
    given, word = metadata["input"], metadata["word"]
    if name == "shuffle":
        return sorted(answer) == sorted(given) and answer != given
    if name == "remove_random":
        kept = set(answer)
        return len(answer) == len(given) - 1 and answer == [item for item in given if item in kept]
    if word not in answer:
        return False
    at = answer.index(word)  # the first: a second one cannot be right
    rest = answer[:at] + answer[at + 1 :]
    if name == "insert_random":
        return rest == given
    return len(answer) == len(given) and rest == given[:at] + given[at + 1 :]  # replace_random


def _puzzle(name: str, pred: str, label: Any, metadata: Mapping[str, Any], strict: bool) -> bool:
    compact = metadata.get("compact", False)
    if name == "sudoku":
        return bool((read_cells(pred, 4) if compact else read_digits(pred, strict=strict)) == label)
    symbols, n = metadata["symbols"], metadata["n"]
    rows = read_cells(pred, n) if compact else read_rows(pred, symbols, strict=strict)
    if len(rows) < n or ((strict or compact) and len(rows) > n):
        return False
    square = rows[:n]  # of more lines the first
    wanted = sorted(symbols)
    if not all(sorted(row) == wanted for row in square):
        return False
    return all(sorted(column) == wanted for column in zip(*square, strict=True))


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ValueError("ROUGE-L needs the package rouge-score: pip install 'szilard[eval]'.") from None
    return RougeScorer(["rougeL"], use_stemmer=True)


@cache
def _bert_score() -> Any:
    try:
        from bert_score import score as bert_score
    except ImportError:
        raise ValueError("BERTScore needs the package bert-score: pip install bert-score.") from None
    return bert_score


@cache
def _bleu() -> Any:
    try:
        from sacrebleu import BLEU
    except ImportError:
        raise ValueError("BLEU needs the package sacrebleu: pip install 'szilard[eval]'.") from None
    return BLEU(effective_order=True)
