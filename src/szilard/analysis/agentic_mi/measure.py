"""The measurement: write the compressions, score each under every competing context, estimate.

1. z_ij = sample(compressor, prompt(x_i, q_i)); empty and truncated texts are kept and counted
2. for every context l: read prompt(x_l, q) once, score all z_ij behind it, each under its own query q_i
3. I_i = mean_j (S[i,j,i] - logsumexp_l S[i,j,l] + log N);  I = max(0, mean_i I_i)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from szilard.analysis.agentic_mi.compute import size_of
from szilard.analysis.agentic_mi.hard_negatives import Competitors, competitors
from szilard.analysis.agentic_mi.prompts import CondensePrompt
from szilard.analysis.agentic_mi.report import InformationReport
from szilard.analysis.agentic_mi.run_folder import RunFolder
from szilard.analysis.agentic_mi.scoring import Scorer
from szilard.analysis.agentic_mi.sources import Compression, Source, check_seeds, digest, source_of
from szilard.compression.method import Budget
from szilard.engines.engine import Engine
from szilard.information.mutual_information import mutual_information_from_log_likelihood
from szilard.options import check_number
from szilard.whole_folder import held

Progress = Callable[[str, int, int], None]


def agentic_mi(
    compressor: Any,
    scorer: Engine | None,
    contexts: Sequence[str],
    queries: Sequence[str] | None = None,
    *,
    samples: int = 2,
    temperature: float = 0.7,
    scoring_temperature: float = 1.0,
    hard_negatives: str = "none",
    negatives: int | Sequence[Sequence[str]] | None = None,
    max_new_tokens: int = 256,
    sentences: int = 3,
    seeds: int | Sequence[int] = (0,),
    budget: Budget = None,
    counter: Engine | None = None,
    prompt: CondensePrompt | None = None,
    batch_size: int = 8,
    folder: str | Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> InformationReport:
    """How many bits about the context a compressor's texts carry.

    Args:
        compressor: an engine, which is asked to condense; a text compressor of the library (name, class or object); or
            texts: one, or a list of equally many, per context.
        scorer: the engine that scores the texts, best of another family than the compressor (published: 7 to 8 billion
            parameters); None: the compressor itself.
        contexts: texts, at least two.
        queries: one per context, for I(X;Z|Q): texts are written and scored with their own query, whatever the
            context. Text compressors do not read it; their texts are scored with it.
        samples: M, texts per context and seed; a text compressor without a seed and a model at temperature 0 give one.
        temperature: of the writing model (inferred); 0: greedy.
        scoring_temperature: of the scorer (inferred: 1). Equal to `temperature`, with the compressor as scorer, the
            claim is about the channel that the texts were drawn from.
        hard_negatives: "none": all contexts compete. "bm25": each with its nearest. "given": each with `negatives`.
        negatives: how many, for "bm25"; texts per context, for "given".
        max_new_tokens: limit of a text.
        sentences: asked for; published: 3, 6 or 9.
        seeds: independent repetitions. Paper: 5; here: 1, because the cost grows with them.
        budget: of a text compressor.
        counter: whose tokens a text compressor's budget counts, and which scores for it.
        prompt: the request (see `CondensePrompt`).
        batch_size: contexts that a model writes for at once.
        folder: keeps texts and scores as they come; the same call goes on there after it was killed.
        name: of the compressor in tables.
        progress: called with what is done ("compressions", "contexts"), how much of it, and of how much.

    Returns:
        The report. Estimates of compressors compare only under one scorer, one request and the same contexts.

    Raises:
        ValueError, TypeError: bad input, before any work: contexts that do not fit into a window among it.
    """
    contexts = _checked(contexts, "contexts")
    if queries is not None:
        queries = _checked(queries, "queries")
        if len(queries) != len(contexts):
            raise ValueError(f"there are {len(queries)} queries for {len(contexts)} contexts: give one for each.")
    for what, value in (("samples", samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        check_number(what, value, low=1, integer=True)
    check_number("sentences", sentences, low=1, integer=True)
    check_number("temperature", temperature, low=0)
    check_number("scoring_temperature", scoring_temperature, low=1e-6)
    if scorer is None and not isinstance(compressor, Engine):
        raise ValueError("texts of no model need a scorer: give an engine that reads them.")
    if scorer is not None and not isinstance(scorer, Engine):
        raise TypeError(f"a scorer is an engine (szilard.load(...)) or None, not {type(scorer).__name__}.")
    prompt = prompt or CondensePrompt()
    settings = {
        "queries": queries,
        "samples": samples,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "sentences": sentences,
        "seeds": check_seeds(seeds),
        "budget": budget,
        "counter": counter,
        "prompt": prompt,
        "batch_size": batch_size,
    }
    rivals = competitors(contexts, hard_negatives, negatives)
    source = source_of(compressor, contexts, settings)
    reader = Scorer(scorer or compressor, prompt, sentences, scoring_temperature)
    every: list[str | None] = [None, *(queries or ())]
    lengths = {query: 0 if query is None else len(reader.text_ids(query, False)) for query in every}
    requests = (  # every text with the longest of its queries: all of them would be N^2 contexts to tokenise
        (len(reader.ids(text, max(_asked(queries, rivals, number), key=lengths.__getitem__, default=None))), number)
        for number, text in enumerate(rivals.pool)
    )
    longest = max(requests)
    reader.check_window(longest, max_new_tokens if source.engine is not None else 1)
    facts = {
        "contexts": digest(rivals.pool),
        "columns": digest([rivals.columns.tobytes().hex()]),
        "queries": None if queries is None else digest(queries),
        "compressor": source.facts(),
        "scorer": reader.engine.fingerprint,
        "request": [prompt.plain, prompt.with_query, prompt.system, sentences],
        "scoring_temperature": scoring_temperature,
    }
    path = None if folder is None else Path(folder)
    run = RunFolder(path, facts)
    with contextlib.ExitStack() as stack:
        if path is not None:
            stack.enter_context(held(path / ".lock", f"to {str(path)!r}"))
        written = _write(source, run, len(contexts), progress)
        ids = [[reader.text_ids(one.text, one.ended) for one in row] for row in written]
        reader.check_window(longest, max(len(text) for row in ids for text in row))
        columns = _score(reader, rivals, queries, ids, run, progress)
    at = rivals.columns  # [contexts, competitors]
    matrix = torch.from_numpy(columns[at, np.arange(len(contexts))[:, None]].transpose(0, 2, 1).copy())
    estimate = mutual_information_from_log_likelihood(matrix, own=rivals.own.tolist())
    by_seed = estimate.terms.split(source.per_seed, dim=1)
    ends = reader.engine.tokenizer.eos_token_id is not None
    return InformationReport(
        compressor=name or source.name,
        scorer=Path(reader.engine.name).name,
        scorer_is_compressor=reader.engine is source.engine,
        information=estimate,
        matrix=matrix,
        own=tuple(rivals.own.tolist()),
        per_seed=tuple(float(terms.mean()) for terms in by_seed),
        compressions=written,
        scorer_tokens=tuple(
            tuple(len(text) - (one.ended and ends) for text, one in zip(texts, row, strict=True))
            for texts, row in zip(ids, written, strict=True)
        ),
        conditional=queries is not None,
        size=None if source.engine is None else size_of(source.engine),
    )


def _asked(queries: Sequence[str] | None, rivals: Competitors, number: int) -> list[str | None]:
    """Under which query the texts of each context that competes for text `number` of the pool are scored."""
    return [None if queries is None else queries[row] for row in rivals.rows(number)]


def _write(
    source: Source, run: RunFolder, contexts: int, progress: Progress | None
) -> tuple[tuple[Compression, ...], ...]:
    """Step 1: all texts, those of an earlier run taken over."""
    known = run.compressions()
    total = contexts * source.samples
    for batch in source.batches():
        if not all(pair in known for pair in batch):
            found = source.write(batch)
            run.add_compressions(found)
            known |= {(one.context, one.sample): one for one in found}
        if progress is not None:
            progress("compressions", min(len(known), total), total)
    return tuple(tuple(known[context, sample] for sample in range(source.samples)) for context in range(contexts))


def _score(
    reader: Scorer,
    rivals: Competitors,
    queries: Sequence[str] | None,
    ids: Sequence[Sequence[list[int]]],
    run: RunFolder,
    progress: Progress | None,
) -> np.ndarray:
    """Step 2: float64 [pool, contexts, samples]; NaN where a text does not compete."""
    contexts, samples = len(ids), len(ids[0])
    columns = np.full((len(rivals.pool), contexts, samples), np.nan)
    for number, text in enumerate(rivals.pool):
        found = run.column(number)
        if found is None:
            rows = rivals.rows(number)
            asked = [query for query in _asked(queries, rivals, number) for _ in range(samples)]
            found = np.full((contexts, samples), np.nan)
            scores = reader.column(text, asked, [one for row in rows for one in ids[row]])
            found[rows] = scores.reshape(len(rows), samples)
            run.add_column(number, found)
        columns[number] = found
        if progress is not None:
            progress("contexts", number + 1, len(rivals.pool))
    return columns


def _checked(texts: Any, what: str) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"{what} are a list of texts, not {type(texts).__name__}.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{what} must be texts, but number {number} is {type(text).__name__}.")
        if not text.strip():
            raise ValueError(f"{what} number {number} is empty.")
    return list(texts)
