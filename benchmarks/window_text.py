"""Window-Diffusion on texts: how much of the canvas must be computed for the text of the whole canvas.

    python benchmarks/window_text.py

Stories, records and sums of zoo/tiny-diffusion, 64 answer columns, one column per round and no blocks. Agreement with
the output of the whole canvas, and accuracy, against columns computed, over w_in, w_ex and R; then the other options,
the stop at an end of text with and without a window, and Fast-dLLM's caches. Lines go to results/window-text.jsonl; a
stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffusion_run import Filled, run, summary
from diffusion_texts import COLUMNS, TASKS, Texts, agreement
from results_store import Store

import szilard
from szilard.diffusion.cache import CanvasCache
from szilard.diffusion.method import DiffusionMethod

INTERNAL, EXTERNAL, REFRESH = (4, 8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32)
MIDDLE = {"internal": 16, "external": 32, "refresh": 16}  # a quarter, a half, a quarter of the canvas


@dataclass(frozen=True)
class Setting:
    """A cache, the rule beside it, and what it is compared with.

    Attributes:
        part: of the store.
        name: of the setting.
        method: the rule.
        cache: what is computed; None: everything.
        reference: the rule on the whole canvas.
    """

    part: str
    name: str
    method: DiffusionMethod
    cache: CanvasCache | None
    reference: DiffusionMethod


def settings() -> Iterator[Setting]:
    """The grid first."""
    one = szilard.TopKUnmask(block_length=None)
    sure = szilard.ThresholdUnmask(block_length=None)
    ending = szilard.TopKUnmask(block_length=None, end_of_text="committed")
    blocks = szilard.TopKUnmask(block_length=32)
    window = szilard.WindowDiffusion
    yield Setting("options", "whole canvas", one, None, one)
    for refresh in REFRESH:
        for external in EXTERNAL:
            for internal in (size for size in INTERNAL if size <= external):
                name = f"w_in {internal}, w_ex {external}, R {refresh}"
                yield Setting("grid", name, one, window(internal=internal, external=external, refresh=refresh), one)
    others: dict[str, dict[str, Any]] = {
        "window": {},
        "window, pruned refresh": {"refresh_scope": "pruned"},
        "window, refresh commits any": {"refresh_commit": "all"},
        "window, refresh commits the first": {"refresh_commit": "first"},
        "window, committed columns computed once": {"keep_recent": 1},
    }
    for name, options in others.items():
        yield Setting("options", name, one, window(**MIDDLE, **options), one)
    for rule, method in (("threshold 0.9", sure), ("one per round, stop at the end", ending)):
        yield Setting("options", f"whole canvas, {rule}", method, None, one)
        yield Setting("options", f"window, {rule}", method, window(**MIDDLE), one)
    yield Setting("options", "whole canvas, blocks of 32", blocks, None, blocks)
    yield Setting("options", "prefix cache, blocks of 32", blocks, szilard.PrefixCache(), blocks)
    yield Setting("options", "dual cache, blocks of 32", blocks, szilard.DualCache(), blocks)


def measure(store: Store, engine: Any, texts: Texts) -> None:
    """A record per setting."""
    references: dict[DiffusionMethod, list[Filled]] = {}
    for setting in settings():
        key = {"part": setting.part, "model": engine.name, "task": texts.task, "setting": setting.name}
        key |= {"samples": len(texts.prompts), "columns": COLUMNS}
        if key in store:
            continue
        if setting.reference not in references:
            references[setting.reference] = run(engine.canvas_model, texts.prompts, setting.reference, length=COLUMNS)
        reference = references[setting.reference]
        start = time.perf_counter()
        found = run(engine.canvas_model, texts.prompts, setting.method, length=COLUMNS, cache=setting.cache)
        values = {"accuracy": round(texts.accuracy(found, engine.tokenizer), 4)} | agreement(found, reference)
        values |= summary(found, COLUMNS)
        whole = sum(answer.columns for answer in references[setting.reference]) / len(found)
        values["fewer_columns"] = round(whole / values["columns"], 3)
        store.add(key, values | {"options": f"{setting.method}, {setting.cache}", "seconds": _since(start)})
        print(
            f"{texts.task:7} {setting.name:48} right {values['accuracy']:6.1%} agreement {values['agreement']:6.1%} "
            f"rounds {values['rounds']:5.1f} columns {values['columns']:7.0f} ({values['fewer_columns']:.2f} x fewer)",
            flush=True,
        )


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="zoo/tiny-diffusion", help="in the place of the zoo's")
    parser.add_argument("--samples", type=int, default=64, help="texts of a task (default: %(default)s)")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    engine = szilard.load(given.checkpoint, dtype="float32")
    store = Store("window-text")
    for task in given.tasks:
        measure(store, engine, Texts.drawn(task, given.samples, engine.tokenizer))


if __name__ == "__main__":
    main()
