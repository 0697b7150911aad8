"""What a predictor makes of the compressions: answers to questions, or how well it foresees a continuation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from szilard.analysis.agentic_mi.compute import flops_of_reading, flops_per_generation, size_of
from szilard.analysis.agentic_mi.run_folder import RunFolder
from szilard.analysis.agentic_mi.sources import digest
from szilard.engines.engine import Engine
from szilard.evaluation.likelihood import log_likelihoods
from szilard.options import check_number

Judge = Callable[[str, str, str], float]
_NAMES = re.compile(r"\{(notes|question)\}")
_ASK = "Notes:\n\n{notes}\n\nQuestion: {question}\nAnswer in a few words, from the notes alone."


@dataclass(frozen=True)
class Answers:
    """A predictor on the compressions of one compressor.

    Attributes:
        predictor: its name.
        distortion: 1 - mean score of the answers, or nats per token of the continuations.
        standard_error: of the distortion, over contexts.
        tokens_in, tokens_out: read and written, mean per question.
        flops: of the predictor, mean per question.
        records: per question: "context", "sample", "question", "reply", "score", "tokens_in", "tokens_out"; per
            continuation: "context", "sample", "nats", "tokens_in", "tokens_out".
    """

    predictor: str
    distortion: float
    standard_error: float
    tokens_in: float
    tokens_out: float
    flops: float
    records: tuple[dict[str, Any], ...]


def holds_answer(question: str, reference: str, reply: str) -> float:
    """1 if the reference's words stand in the reply in their order (no capitals, no punctuation), else 0."""
    wanted, found = (" ".join(re.findall(r"\w+", text.lower())) for text in (reference, reply))
    return float(f" {wanted} " in f" {found} ")


def answer_questions(
    predictor: Engine,
    texts: Sequence[Sequence[str]],
    questions: Sequence[Sequence[tuple[str, str]]],
    *,
    judge: Judge = holds_answer,
    max_new_tokens: int = 24,
    batch_size: int = 8,
    ask: str = _ASK,
    folder: str | Path | None = None,
    name: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Answers:
    """Let a predictor answer from the compressions, greedily.

    Args:
        predictor: an engine.
        texts: compressions, [contexts][samples].
        questions: of each context: (question, right answer).
        judge: scores (question, right answer, reply) between 0 and 1. Paper: a language model; here: whether the
            answer's words stand in the reply, which needs no service.
        max_new_tokens: limit of a reply.
        batch_size: prompts answered at once.
        ask: the user's turn; `{notes}` and `{question}` are filled in.
        folder: keeps the replies as they come; the same call goes on there after it was killed.
        name: of the predictor in tables.
        progress: called with "answers", how many are there, of how many.

    Raises:
        ValueError: no questions, other counts of texts and questions, or a prompt that does not fit into the window.
    """
    if len(questions) != len(texts) or not any(questions):
        raise ValueError(
            f"questions are a list of (question, answer) for each of {len(texts)} contexts, not all empty."
        )
    for what in ("{notes}", "{question}"):
        if what not in ask:
            raise ValueError(f"ask must hold {what}, which is filled in.")
    check_number("max_new_tokens", max_new_tokens, low=1, integer=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    wanted = [
        (context, sample, number)
        for context, row in enumerate(texts)
        for sample in range(len(row))
        for number in range(len(questions[context]))
    ]
    prompts = {}
    for context, sample, number in wanted:
        values = {"notes": texts[context][sample].strip() or "(empty)", "question": questions[context][number][0]}
        text = _NAMES.sub(lambda match, values=values: values[match[1]], ask)  # type: ignore[misc]
        prompts[context, sample, number] = text if predictor.has_chat_template else f"{text}\nAnswer:"
    predictor.check_length(predictor.encode(list(prompts.values())), max_new_tokens)
    facts = {"predictor": predictor.fingerprint, "prompts": digest(prompts.values()), "max_new_tokens": max_new_tokens}
    run = RunFolder(None if folder is None else Path(folder), facts)
    known = {(one["context"], one["sample"], one["question"]): one for one in run.lines("answers")}
    left = [key for key in wanted if key not in known]
    for start in range(0, len(left), batch_size):
        batch = left[start : start + batch_size]
        results = predictor.generate([prompts[key] for key in batch], max_new_tokens=max_new_tokens, trace=False)
        found = [
            {
                "context": key[0],
                "sample": key[1],
                "question": key[2],
                "reply": result.text,
                "tokens_in": result.prompt_tokens,
                "tokens_out": len(result.tokens),
            }
            for key, result in zip(batch, results, strict=True)
        ]
        run.append("answers", found)
        known |= dict(zip(batch, found, strict=True))
        if progress is not None:
            progress("answers", len(known), len(wanted))
    records = []
    for context, sample, number in wanted:
        record = known[context, sample, number]
        question, reference = questions[context][number]
        records.append(record | {"score": float(judge(question, reference, record["reply"]))})
    lost = np.array([1 - record["score"] for record in records])
    return _answers(predictor, name, records, lost, np.ones(len(records)))


def continuation_distortion(
    predictor: Engine,
    texts: Sequence[Sequence[str]],
    continuations: Sequence[str],
    *,
    between: str = "\n\n",
    name: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Answers:
    """How badly a predictor foresees how each context went on, given its compression: nats per token.

    Args:
        predictor: an engine.
        texts: compressions, [contexts][samples].
        continuations: one per context, held out from the compressor.
        between: stands between compression and continuation; no chat template is used.
        name, progress: as in `answer_questions`.

    Raises:
        ValueError: other counts, an empty continuation, or one that does not fit into the window.
    """
    if len(continuations) != len(texts) or not all(text.strip() for text in continuations):
        raise ValueError(f"there must be a continuation, not empty, for each of {len(texts)} contexts.")
    ids = [predictor.tokenizer.encode(text, add_special_tokens=False) for text in continuations]
    records, done = [], 0
    total = sum(len(row) for row in texts)
    for context, row in enumerate(texts):
        for sample, text in enumerate(row):
            prompt = predictor.encode([text + between], raw=True)["input_ids"][0] if text.strip() else None
            if prompt is None:  # nothing is known: the first token has to do as what comes before
                start = predictor.tokenizer.bos_token_id
                prompt = torch.tensor([predictor.tokenizer.eos_token_id or 0 if start is None else start])
            (found,), _ = log_likelihoods(predictor, prompt, [ids[context]])
            record = {"context": context, "sample": sample, "nats": -found.total}
            records.append(record | {"tokens_in": len(prompt), "tokens_out": len(ids[context])})
            done += 1
            if progress is not None:
                progress("continuations", done, total)
    nats = np.array([record["nats"] for record in records], dtype=float)
    lengths = np.array([record["tokens_out"] for record in records], dtype=float)
    return _answers(predictor, name, records, nats, lengths)


def _answers(
    predictor: Engine, name: str | None, records: list[dict[str, Any]], lost: np.ndarray, weights: np.ndarray
) -> Answers:
    """Totals over all records: what was lost, over its weights; the error over contexts."""
    size = size_of(predictor)
    by_context: dict[int, list[tuple[float, float]]] = {}
    for record, loss, weight in zip(records, lost, weights, strict=True):
        by_context.setdefault(record["context"], []).append((loss, weight))
    means = [sum(a for a, _ in pairs) / sum(b for _, b in pairs) for pairs in by_context.values()]
    error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    flops = [
        flops_of_reading(size, record["tokens_in"])
        + flops_per_generation(size, record["tokens_in"], record["tokens_out"])
        for record in records
    ]
    return Answers(
        predictor=name or Path(predictor.name).name.removesuffix(".gguf"),
        distortion=float(lost.sum() / weights.sum()),
        standard_error=error,
        tokens_in=float(np.mean([record["tokens_in"] for record in records])),
        tokens_out=float(np.mean([record["tokens_out"] for record in records])),
        flops=float(np.mean(flops)),
        records=tuple(records),
    )


def questions_of(records: Sequence[dict[str, Any]]) -> Iterator[list[tuple[str, str]]]:
    """The questions of contexts as a file has them: "query" with "answer", and "questions", a list of such pairs.

    Raises:
        ValueError: one without its answer.
    """
    for number, record in enumerate(records, start=1):
        pairs: list[tuple[str, str]] = []
        listed = record.get("questions") or []
        if not isinstance(listed, list):
            raise ValueError(f'context {number}: "questions" are a list of questions with answers, not {listed!r}.')
        if record.get("answer") is not None:
            listed = [{"question": record.get("query"), "answer": record["answer"]}, *listed]
        for pair in listed:
            question, answer = (pair.get("question"), pair.get("answer")) if isinstance(pair, dict) else (None, None)
            if not (isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()):
                raise ValueError(f'context {number}: a question is {{"question": text, "answer": text}}, not {pair!r}.')
            pairs.append((question, answer))
        yield pairs
