"""How long does a token take in a long context? Full attention, TidalDecode and Quest, interleaved in one process.

    python benchmarks/tidal_latency.py [--contexts 4096 8192 16384 32768] [--steps 8] [--rounds 5] [--save]

The model is the embedded SmolLM2-135M-Instruct (float32). The cache is filled with random keys and values instead of
reading a text: the time of a step depends on their number and not on what they hold. For the same reason it does not
matter that positions go beyond the 8,192 that the model was trained on. What is written is meaningless; this measures
time only.

A round times `--steps` forwards of one token for every contestant, one contestant after the other; the first round
warms up; after a contestant's turn its cache is cropped to the context again. Reported: the median over rounds of the
mean time of a step, and its ratio to transformers' own loop (a DynamicCache and sdpa attention).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any

import torch
from results_store import Store
from transformers import DynamicCache

import szilard
from szilard.engines.growing_layer import GrowingLayer

CONTESTANTS: dict[str, Any] = {
    "transformers": None,
    "full attention, growing cache": szilard.TidalDecode.neutral(),
    "tidal-decode, 1 reselect layer": szilard.TidalDecode(budget=512, reselect_layers=(13,), per="layer"),
    "tidal-decode, 5 reselect layers": szilard.TidalDecode(
        budget=512, reselect_layers=(6, 10, 14, 18, 22), per="layer"
    ),
    "quest": szilard.Quest(budget=512),
}


def filled_cache(model: Any, context: int, layer: Any) -> DynamicCache:
    """A cache that holds `context` random tokens."""
    config = model.config
    cache = DynamicCache(config=config)
    heads, size = config.num_key_value_heads, config.head_dim or config.hidden_size // config.num_attention_heads
    for index in range(config.num_hidden_layers):
        if layer is not None:
            cache.layers[index] = layer()
        shape = (1, heads, context, size)
        cache.layers[index].update(torch.randn(shape, dtype=model.dtype), torch.randn(shape, dtype=model.dtype))
    return cache


@torch.no_grad()
def seconds_per_step(model: Any, method: Any, cache: Any, context: int, steps: int) -> float:
    """Mean time of a forward of one token; the cache is as long as before afterwards."""
    token = torch.tensor([[42]])
    with contextlib.nullcontext() if method is None else method(model):
        model(token, past_key_values=cache)  # takes the layers over, makes room, looks at Quest's pages
        start = time.perf_counter()
        for _ in range(steps):
            model(token, past_key_values=cache)
        took = (time.perf_counter() - start) / steps
    cache.crop(context - cache.get_seq_length())
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--save", action="store_true", help="keep the times in results/tidal-latency.jsonl")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    engine = szilard.load(dtype="float32")
    store = Store("tidal-latency")
    print(f"{engine.name}, {engine.model.dtype}, {torch.get_num_threads()} threads")
    for context in arguments.contexts:
        torch.manual_seed(0)
        stock, growing = filled_cache(engine.model, context, None), filled_cache(engine.model, context, GrowingLayer)
        times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        for _ in range(arguments.rounds + 1):
            for name, method in CONTESTANTS.items():
                cache = stock if method is None else growing
                times[name].append(seconds_per_step(engine.model, method, cache, context, arguments.steps))
        peer = statistics.median(times["transformers"][1:])
        for name, taken in times.items():
            step = statistics.median(taken[1:])
            print(f"{context:>7}  {name:<33} {1000 * step:>8.1f} ms  {peer / step:>6.2f}x", flush=True)
            if arguments.save:
                key = {"model": engine.name, "context": context, "method": name}
                values = {"seconds": round(step, 5), "speedup": round(peer / step, 3)}
                store.add(key, values | {"rounds": arguments.rounds, "steps": arguments.steps})


if __name__ == "__main__":
    main()
