"""LocalLeap on texts that are determined in part: what locality buys over a lower threshold everywhere.

    python benchmarks/localleap_text.py [--filter FOLDER] [--part rules|diagnostic]

Stories, records and sums of zoo/tiny-diffusion, 64 answer columns in blocks of 32. Rules: agreement with the output of
one column per round, and accuracy, against rounds. Diagnostic: along that output, how often a prediction is already the
final one, by its confidence and its distance to the nearest open column with confidence 0.9. FOLDER is what
`szilard train learn2pd` wrote. Lines go to results/localleap-text.jsonl; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusion_contestants import ETE_KINDS, THRESHOLDS, Contestant, chosen, learn2pd, learned_filter, local_leap
from diffusion_run import BATCH, run, summary
from diffusion_texts import BLOCK, COLUMNS, TASKS, Texts, agreement
from results_store import Store

import szilard
from szilard.diffusion.learn2pd.oracle import EgpOracle
from szilard.diffusion.look import Look
from szilard.diffusion.state import DenoisingState
from szilard.diffusion.unmask import TopKUnmask

ANCHOR = 0.9
CONFIDENCE = (0.0, 0.3, 0.5, 0.65, 0.75, 0.9)  # lower ends of the buckets
DISTANCE = (1, 2, 3, 5, 9, 17)  # smallest of the buckets


def contestants(learned: szilard.Learn2PD | None) -> Iterator[Contestant]:
    """One per round, thresholds, LocalLeap near and everywhere, and what else decides by confidence."""
    yield Contestant("one per round", "", TopKUnmask(block_length=BLOCK))
    for k in (2, 4, 8):
        yield Contestant("top-k, confidence", k, TopKUnmask(k=k, block_length=BLOCK))
    for threshold in sorted({*THRESHOLDS, 0.65, 0.75, 0.85}):
        yield Contestant("threshold", threshold, szilard.ThresholdUnmask(threshold=threshold, block_length=BLOCK))
    for radius in (1, 2, 4, 8, None):
        yield from local_leap(radius)
    yield from learn2pd(learned)
    for name, options in ETE_KINDS.items():
        for horizon in (0, 1):
            yield Contestant(name, f"horizon {horizon}", szilard.Ete(horizon=horizon, block_length=BLOCK, **options))
    yield Contestant("EGP oracle", "", EgpOracle(block_length=BLOCK))


def rules(store: Store, engine: Any, texts: Texts, asked: list[Contestant]) -> None:
    """A record per contestant."""
    reference = None
    for contestant in asked:
        key = {"part": "rules", "model": engine.name, "task": texts.task, "curve": contestant.curve}
        key |= {"setting": contestant.setting, "samples": len(texts.prompts), "columns": COLUMNS, "block": BLOCK}
        if key in store:
            continue
        if reference is None:
            reference = run(engine.canvas_model, texts.prompts, TopKUnmask(block_length=BLOCK), length=COLUMNS)
        start = time.perf_counter()
        found = run(engine.canvas_model, texts.prompts, contestant.method, length=COLUMNS)
        values = {"accuracy": round(texts.accuracy(found, engine.tokenizer), 4)} | agreement(found, reference)
        values |= summary(found, COLUMNS)
        seconds = round(time.perf_counter() - start, 1)
        store.add(key, values | {"options": contestant.options, "seconds": seconds})
        print(
            f"{texts.task:7} {contestant.curve:24} {contestant.setting!s:9} right {values['accuracy']:6.1%} "
            f"agreement {values['agreement']:6.1%} rounds {values['rounds']:6.2f} ({values['text_rounds']:.2f})",
            flush=True,
        )


@dataclass(frozen=True)
class _Watched(TopKUnmask):
    """One column per round, looked at: rows, columns, proposals, confidences and open columns of every round."""

    seen: list[tuple[torch.Tensor, ...]] = field(default_factory=list, repr=False)

    def chosen(self, state: DenoisingState, look: Look) -> torch.Tensor:
        place = look.columns - state.prompt_width
        self.seen.append((look.rows, place, look.tokens.clone(), look.confidence.clone(), look.open))
        return super().chosen(state, look)


def diagnostic(store: Store, engine: Any, texts: Texts) -> None:
    """P(prediction is the final token | its confidence, distance to the nearest other anchor), columns of the text."""
    key = {"part": "diagnostic", "model": engine.name, "task": texts.task, "samples": len(texts.prompts)}
    key |= {"columns": COLUMNS, "block": BLOCK, "anchor": ANCHOR}
    if key in store:
        return
    right: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for first in range(0, len(texts.prompts), BATCH):
        watched = _Watched(block_length=BLOCK)
        found = run(engine.canvas_model, texts.prompts[first : first + BATCH], watched, length=COLUMNS)
        final = torch.tensor([answer.canvas for answer in found])
        ends = torch.tensor([len(answer.tokens) for answer in found])
        for rows, places, tokens, confidence, open_ in watched.seen:
            anchors = open_ & (confidence >= ANCHOR)
            apart = (places[:, :, None] - places[:, None]).abs()  # [rows, column, anchor]
            apart = apart.masked_fill(~anchors[:, None] | (apart == 0), COLUMNS)
            nearest = apart.amin(2)  # COLUMNS: there is no other anchor
            agrees = tokens == final[rows[:, None], places]
            counted = open_ & (places < ends[rows, None])
            for c, d, same in zip(
                confidence[counted].tolist(), nearest[counted].tolist(), agrees[counted].tolist(), strict=True
            ):
                cell = f"{_bucket(c, CONFIDENCE)}, {'none' if d == COLUMNS else _bucket(d, DISTANCE)}"
                count[cell] += 1
                right[cell] += same
    cells = {cell: [right[cell], number] for cell, number in sorted(count.items())}
    store.add(key, {"confidence": CONFIDENCE, "distance": DISTANCE, "cells": cells})
    print(f"{texts.task:7} diagnostic: {sum(count.values())} predictions", flush=True)


def _bucket(value: float, lower: tuple[float, ...] | tuple[int, ...]) -> float | int:
    return max(end for end in lower if value >= end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "rules", "diagnostic"), default="all")
    parser.add_argument("--checkpoint", default="zoo/tiny-diffusion", help="in the place of the zoo's")
    parser.add_argument("--filter", type=Path, help="folder of a filter of Learn2PD")
    parser.add_argument("--samples", type=int, default=64, help="texts of a task (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="beginnings of curves' names")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    engine = szilard.load(given.checkpoint, dtype="float32")
    learned = learned_filter(given.filter)
    if learned is not None:
        learned.check(engine)
    try:
        asked = chosen(list(contestants(learned)), given.only)
    except ValueError as error:
        parser.error(str(error))
    store = Store("localleap-text")
    for task in given.tasks:
        texts = Texts.drawn(task, given.samples, engine.tokenizer)
        if given.part in ("all", "rules"):
            rules(store, engine, texts, asked)
        if given.part in ("all", "diagnostic"):
            diagnostic(store, engine, texts)


if __name__ == "__main__":
    main()
