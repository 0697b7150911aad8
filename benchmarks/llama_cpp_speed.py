"""What szilard's loop costs on top of llama.cpp: tokens per second beside llama-cpp-python's own greedy loop.

    python benchmarks/llama_cpp_speed.py [model.gguf] [--tokens 128] [--rounds 7] [--threads N] [--save]

Both run in one process, alternately, on the same prompt; the table gives the medians over the rounds, prompt included.
The last lines split szilard's step into llama.cpp's own forward and everything else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from results_store import Store
from rich.console import Console
from rich.table import Table

import szilard
from szilard.engines.llama_cpp_engine import LlamaCppEngine
from szilard.engines.loading import find

PROMPT = "Explain step by step why the sky is blue and the sunset is red."


def compare(
    path: Any, name: str, *, tokens: int = 128, rounds: int = 7, threads: int | None = None, save: bool = False
) -> Table:
    """Time both loops (and LEAD, which has no counterpart) alternately.

    Returns:
        Median milliseconds per new token and tokens per second of each, and the ratio to llama-cpp-python. A run
        that ends early counts the tokens it made.
    """
    import llama_cpp

    engine = LlamaCppEngine(path, name=name, threads=threads)
    threads = engine._model.threads
    prompt = engine.encode([PROMPT])["input_ids"][0]
    native = llama_cpp.Llama(str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def native_loop(temperature: float) -> int:
        native.reset()
        count = 0
        for _ in native.generate(prompt.tolist(), temp=temperature, top_k=1 if temperature else 40):
            count += 1
            if count == tokens:
                break
        return count

    def ours(method: Any, **options: Any) -> int:
        return len(engine.generate(prompt, method, max_new_tokens=tokens, **options).tokens)

    runs: dict[str, Callable[[], int]] = {
        "llama-cpp-python, temp=0": lambda: native_loop(0.0),
        "llama-cpp-python, top_k=1": lambda: native_loop(1.0),
        "szilard greedy, no trace": lambda: ours(None, trace=False),
        "szilard greedy": lambda: ours(None),
        "szilard LEAD": lambda: ours(szilard.Lead()),
    }
    seconds: dict[str, list[float]] = {what: [] for what in runs}
    for round_number in range(rounds + 1):
        for what, run in runs.items():
            start = time.perf_counter()
            made = run()
            if round_number:  # the first round warms up
                seconds[what].append((time.perf_counter() - start) / made)
    base = statistics.median(seconds["llama-cpp-python, temp=0"])
    table = Table("loop", "ms/token", "tokens/s", "ratio", title=f"{name}, {tokens} new tokens, {threads} threads")
    for what, times in seconds.items():
        median = statistics.median(times)
        if save:
            key = {"peer": "llama-cpp-python", "model": name, "batch": 1, "method": what}
            Store("speed").add(key, {"ratio": round(base / median, 3), "tokens_per_second": round(1 / median, 1)})
        table.add_row(what, f"{median * 1e3:.2f}", f"{1 / median:.1f}", f"{base / median:.3f}")
    for what, milliseconds in step_parts(engine, prompt, tokens).items():
        table.add_row(f"  of a greedy step: {what}", f"{milliseconds:.3f}", "", "")
    native.close()
    return table


def step_parts(engine: LlamaCppEngine, prompt: Any, tokens: int) -> dict[str, float]:
    """Median milliseconds of the parts of a greedy step: llama.cpp's forward and the Python around it."""
    parts: dict[str, list[float]] = {"llama_decode": [], "feed around it": [], "choose": [], "commit": []}
    lib, forwards = engine._model.lib, []
    decode = lib.llama_decode

    def timed_decode(*arguments: Any) -> int:
        start = time.perf_counter()
        code = decode(*arguments)
        lib.llama_get_logits(arguments[0])  # waits for the result
        forwards.append(time.perf_counter() - start)
        return code

    lib.llama_decode = timed_decode
    try:
        with engine.state(prompt, max_new_tokens=tokens) as state:  # type: ignore[attr-defined]
            logits = state.prefill()
            while True:
                times = [time.perf_counter()]
                chosen = state.choose(logits)
                times.append(time.perf_counter())
                state.commit(chosen)
                times.append(time.perf_counter())
                if state.done:
                    break
                logits = state.feed(chosen)[:, -1]
                times.append(time.perf_counter())
                parts["choose"].append(times[1] - times[0])
                parts["commit"].append(times[2] - times[1])
                parts["llama_decode"].append(forwards[-1])
                parts["feed around it"].append(times[3] - times[2] - forwards[-1])
    finally:
        lib.llama_decode = decode
    return {name: statistics.median(values) * 1e3 for name, values in parts.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="a GGUF file; default: the embedded model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", action="store_true", help="keep the ratios in results/speed.jsonl")
    given = parser.parse_args()
    path, name = find(given.model)
    Console().print(
        compare(path, name, tokens=given.tokens, rounds=given.rounds, threads=given.threads, save=given.save)
    )


if __name__ == "__main__":
    main()
