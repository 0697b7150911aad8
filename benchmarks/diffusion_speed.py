"""What the loop costs beside the model, and what computing only a window of a long canvas saves.

    python benchmarks/diffusion_speed.py [--rounds 5] [--save]

Loop: a run of `engine.generate` against bare forwards of the same shapes, as many as the run took, the two in turn.
Window: a canvas of 1,024 tokens, one token per round, whole and under caches: columns computed, seconds, the same
number of tokens. The model has the shape of zoo/tiny-diffusion and random weights, on which time does not depend.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from results_store import Store
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import szilard
from szilard.diffusion.canvas_model import MaskedDiffusionConfig
from szilard.diffusion.engine import DiffusionEngine

VOCAB, MASK, PROMPT = 256, 255, 16


def engine_of(width: int, layers: int) -> DiffusionEngine:
    """Random weights; no end of text, so that every run commits as many tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=5 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=2048,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    words = {f"w{number}": number for number in range(VOCAB)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")))
    return DiffusionEngine(LlamaForCausalLM(config), tokenizer, MaskedDiffusionConfig(MASK), name=f"{layers} x {width}")


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loop(store: Store | None, rounds: int) -> None:
    """A run over its bare forwards."""
    engine = engine_of(128, 3)
    for batch, length, method in (
        (1, 64, szilard.TopKUnmask(block_length=None)),
        (8, 64, szilard.TopKUnmask(block_length=None)),
        (8, 256, szilard.TopKUnmask(k=4)),
        (32, 64, szilard.TopKUnmask()),
        (8, 256, szilard.EntropyBound(gamma=0.0)),
        (8, 256, szilard.Ete(threshold=1.5, explore_per_round=1, horizon=0)),
    ):
        key = {"part": "loop", "method": str(method), "batch": batch, "answer": length}
        if store is not None and key in store:
            continue
        prompts = [torch.randint(1, 200, (PROMPT,)) for _ in range(batch)]
        canvas = torch.randint(1, 200, (batch, PROMPT + length))
        block = method.block_length or length
        wanted = torch.arange(PROMPT, PROMPT + block).expand(batch, -1)
        real = torch.ones_like(canvas, dtype=torch.bool)
        ratios, shares = [], []
        for number in range(rounds + 1):
            result: Any = None

            def run(prompts: Any = prompts, method: Any = method, length: int = length) -> None:
                nonlocal result
                result = engine.generate(prompts, method, max_new_tokens=length, trace=False)[0]

            took = seconds_of(run)
            forwards = result.cost.total_forward_passes

            def bare(forwards: int = forwards, canvas: Any = canvas, real: Any = real, wanted: Any = wanted) -> None:
                for _ in range(forwards):
                    engine.canvas_model.predict(canvas, real, wanted)

            base = seconds_of(bare)
            if number:
                ratios.append(took / base)
                shares.append(1000 * (took - base) / forwards)
        values = {"seconds_over_bare_forwards": round(statistics.median(ratios), 3)}
        values |= {"milliseconds_beside_a_forward": round(statistics.median(shares), 3), "forwards": forwards}
        print(key, values, flush=True)
        if store is not None:
            store.add(key, values | {"rounds": rounds})


def window(store: Store | None, rounds: int) -> None:
    """A long canvas, whole and under caches."""
    engine = engine_of(128, 3)
    length = 1024 - PROMPT
    prompt = torch.randint(1, 200, (PROMPT,))
    whole, blocks = szilard.TopKUnmask(block_length=None), szilard.TopKUnmask()
    contestants = {
        "whole canvas": (whole, None),
        "window-diffusion": (whole, szilard.WindowDiffusion()),
        "window-diffusion, pruned": (whole, szilard.WindowDiffusion(refresh_scope="pruned")),
        "window-diffusion, refresh 8": (whole, szilard.WindowDiffusion(refresh=8)),
        "prefix-cache, blocks of 32": (blocks, "prefix-cache"),
        "dual-cache, blocks of 32": (blocks, "dual-cache"),
    }
    found: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for number in range(rounds):
        for name, (method, cache) in contestants.items():
            start = time.perf_counter()
            results[name] = engine.generate(prompt, method, attention=cache, max_new_tokens=length, trace=False)
            found[name].append(time.perf_counter() - start)
            print(number, name, round(found[name][-1], 2), flush=True)
    base = sum(results["whole canvas"].cost.tokens.values())
    for name, seconds in found.items():
        cost = results[name].cost
        computed = sum(cost.tokens.values())
        key = {"part": "window", "method": name, "canvas": 1024}
        values = {
            "tokens": len(results[name].tokens),
            "forwards": cost.total_forward_passes,
            "columns_computed": computed,
            "fewer": round(base / computed, 2),
            "seconds": round(statistics.median(seconds), 2),
            "speed": round(statistics.median(a / b for a, b in zip(found["whole canvas"], seconds, strict=True)), 2),
        }
        print(key, values, flush=True)
        if store is not None and key not in store:
            store.add(key, values | {"rounds": rounds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "loop", "window"), default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/diffusion-speed.jsonl")
    arguments = parser.parse_args()
    store = Store("diffusion-speed") if arguments.save else None
    if arguments.part in ("all", "loop"):
        loop(store, arguments.rounds)
    if arguments.part in ("all", "window"):
        window(store, max(2, arguments.rounds // 2))


if __name__ == "__main__":
    main()
