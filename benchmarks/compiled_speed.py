"""What compiled steps and weights in fewer bits buy, beside transformers' own loop: the engines take turns in one process.

    python benchmarks/compiled_speed.py [--save] [--model NAME] [--tokens 96] [--rounds 5] [--formats int8 int4]

The peer is `AutoModelForCausalLM.from_pretrained(...).generate(...)` in float32, as a user gets it. Every round takes other
prompts; rounds are paired. "same": the share of answers with the tokens that the same weights give without compiling.
"nats": the loss per token of the first 4,096 tokens of --text after whole windows of 512, which says what fewer bits cost.
The formats need torchao (pip install 'szilard[quantize]').
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from decoding_speed import PROMPTS
from results_store import Store
from transformers import AutoModelForCausalLM

import szilard
from szilard.engines.gguf import converted
from szilard.engines.loading import find

WINDOW, WINDOWS = 512, 8


def main() -> None:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--formats", nargs="*", default=["int8", "int4"])
    parser.add_argument("--methods", nargs="*", default=["greedy", "prompt-lookup"], help="with one row")
    parser.add_argument("--text", type=Path, default=None, help="a text file for the loss")
    parser.add_argument("--save", action="store_true", help="keep the records in results/compiled.jsonl")
    arguments = parser.parse_args()
    path, name = find(arguments.model)
    folder = converted(path) if path is not None and path.suffix == ".gguf" else (path or name)
    peer = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    engines: dict[str, Any] = {"szilard": szilard.load(arguments.model, dtype="float32")}
    engines["compile"] = szilard.load(arguments.model, dtype="float32", compile=True)
    for format in arguments.formats:
        engines[format] = szilard.load(arguments.model, quantize=format)
        engines[f"{format}, compile"] = szilard.load(arguments.model, quantize=format, compile=True)
    records = []
    for batch in arguments.batches:
        for method in arguments.methods if batch == 1 else ["greedy"]:
            records += _timed(peer, engines, name, method, batch, arguments.tokens, arguments.rounds)
    if arguments.text is not None:
        for engine in ("szilard", *arguments.formats):
            loss = _loss(engines[engine], arguments.text.read_text(encoding="utf-8"))
            records.append(({"model": name, "weights": "float32" if engine == "szilard" else engine}, {"nats": loss}))
            print(engine, loss)
    if arguments.save:
        store = Store("compiled")
        for key, values in records:
            store.add(key, values)


def _timed(
    peer: Any, engines: dict[str, Any], name: str, method: str, batch: int, tokens: int, rounds: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    seconds: dict[str, list[float]] = {engine: [] for engine in ("transformers", *engines)}
    given: dict[str, list[Any]] = {engine: [] for engine in seconds}
    for number in range(rounds + 1):  # the first round compiles
        prompts = [PROMPTS[(number * batch + row) % len(PROMPTS)] for row in range(batch)]
        inputs = engines["szilard"].encode(prompts)
        for engine in seconds:
            start = time.perf_counter()
            if engine == "transformers":
                found = peer.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()
            else:
                results = engines[engine].generate(prompts, method, max_new_tokens=tokens, min_new_tokens=tokens)
                found = [result.tokens for result in results]
            seconds[engine].append(time.perf_counter() - start)
            given[engine] += found
    records = []
    for engine, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["transformers"][1:], times[1:], strict=True)]
        plain = {"szilard": "transformers", "compile": "szilard"}.get(engine, engine.removesuffix(", compile"))
        same = [one == other for one, other in zip(given[engine], given[plain], strict=True)]
        values = {
            "ratio": round(statistics.median(ratios), 3),
            "tokens_per_second": round(batch * tokens / statistics.median(times[1:]), 1),
            "first_seconds": round(times[0], 1),
            "same": round(sum(same) / len(same), 3),
        }
        records.append(({"model": name, "engine": engine, "method": method, "batch": batch, "tokens": tokens}, values))
        print(f"{name} batch {batch} {method:<14} {engine:<16} {values}", flush=True)
    return records


@torch.no_grad()
def _loss(engine: Any, text: str) -> float:
    ids = torch.tensor(engine.tokenizer(text)["input_ids"][: WINDOW * WINDOWS]).view(WINDOWS, WINDOW)
    total = 0.0
    for window in ids:
        logits = engine.model(window[None]).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, window[1:]))
    return round(total / WINDOWS, 4)


if __name__ == "__main__":
    main()
