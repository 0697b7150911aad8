"""UNComp in time and memory: reading a long text, decoding after it, and what the process holds meanwhile.

    python benchmarks/uncomp_speed.py --data wikitext2_test.txt [--context 8000] [--new 32] [--rounds 3]

The embedded SmolLM2-135M-Instruct (float32) reads a stretch of text and goes on with it; contestants in turn in every
round, the first round warms up. Held: resident memory of the process with the cache there, above that before the text
was read. Medians over rounds go to results/uncomp-speed.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from transformers import DynamicCache

import szilard
from szilard.attention.uncomp.plan import UnCompPlan, calibrate_uncomp

CALIBRATION, PIECE = 16, 512
BUDGETS = (256, 384, 512)  # of the three key-value heads of a layer, by their entropy


def resident() -> int:
    """Bytes of the process in memory, what was freed given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@torch.no_grad()
def once(model: Any, method: Any, ids: torch.Tensor, new: int) -> dict[str, float]:
    """Seconds of the prompt and of a token, bytes of cache and process."""
    before = resident()
    with contextlib.nullcontext() if method is None else method(model):
        cache = DynamicCache(config=model.config)
        start = time.perf_counter()
        logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
        prefill = time.perf_counter() - start
        held = resident() - before
        tokens = []
        start = time.perf_counter()
        for _ in range(new):
            tokens.append(int(logits[0, -1].argmax()))
            logits = model(torch.tensor([tokens[-1:]]), past_key_values=cache).logits
        step = (time.perf_counter() - start) / new
    return {"prefill_seconds": prefill, "milliseconds_per_token": 1000 * step, "held_megabytes": held / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="running text")
    parser.add_argument("--plan", type=Path, help="kept calibration; made when the file is not there")
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    engine: Any = szilard.load(engine="transformers", dtype="float32")
    ids = engine.tokenizer.encode(arguments.data.read_text(encoding="utf-8")[:1_000_000])
    if arguments.plan is not None and arguments.plan.exists():
        plan = UnCompPlan.load(arguments.plan)
    else:
        pieces = [ids[start : start + PIECE] for start in range(0, CALIBRATION * PIECE, PIECE)]
        plan = calibrate_uncomp(engine.model, pieces, name=engine.name)
        if arguments.plan is not None:
            plan.save(arguments.plan)
    prompt = torch.tensor([ids[CALIBRATION * PIECE :][: arguments.context]])
    contestants = {
        "plain": None,
        "uncomp": szilard.UnComp(plan=plan, budgets=BUDGETS),
        "uncomp, prompt only": szilard.UnComp(plan=plan, budgets=BUDGETS, phase="prefill"),
        "uncomp, stages": szilard.UnComp(plan=plan, budgets=BUDGETS, stages=True),
        "snapkv": szilard.SnapKv(budget=sum(BUDGETS) // len(BUDGETS), window=8),
    }
    store = Store("uncomp-speed")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(arguments.rounds + 1):
        for name, method in contestants.items():
            measured = once(engine.model, method, prompt, arguments.new)
            print(number, name, {entry: round(value, 2) for entry, value in measured.items()}, flush=True)
            if number:
                found[name].append(measured)
    for name, rounds in found.items():
        key = {"model": engine.name, "context": arguments.context, "method": name}
        values = {entry: round(statistics.median(one[entry] for one in rounds), 2) for entry in rounds[0]}
        if key not in store:
            store.add(key, values | {"rounds": arguments.rounds})


if __name__ == "__main__":
    main()
