"""EntropyPrune: what dropping visual tokens costs in answers, and what it saves in prefill time.

    python benchmarks/entropy_prune_vision.py                  # both parts
    python benchmarks/entropy_prune_vision.py --part accuracy  # zoo/tiny-vlm on held-out scenes
    python benchmarks/entropy_prune_vision.py --part profile   # the matrix entropy of its image tokens, per layer
    python benchmarks/entropy_prune_vision.py --part prefill   # a random decoder of LLaVA's proportions

Accuracy: every score at the same layer and the same number of tokens, random and evenly spaced ones among them. Prefill:
12 layers of width 512 with 8 heads read 576 visual and 40 text tokens given as embeddings; the number of tokens that
stay is the greatest with which the visual tokens' FLOPs fall by 68 %. Plain and pruned prompts run in turn, so that a
busy machine slows both. Lines go to results/entropy-prune.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from results_store import Store
from transformers import LlamaConfig, LlamaForCausalLM

import szilard
from szilard.analysis.visual_entropy import visual_entropy_profile
from szilard.attention.entropy_prune import SCORES
from szilard.attention.token_budget import flops_reduction
from szilard_zoo import scenes

KEEPS = (0.5, 0.32, 0.25, 0.125)
SEEDS = (0, 1, 2)  # of random choices
BATCH = 64
VISUAL, BEFORE, AFTER = 576, 20, 20  # tokens of the prompt whose prefill is timed
TARGET = 0.68  # of the visual tokens' FLOPs


def accuracy(store: Store, count: int, layers: list[int]) -> None:
    """Held-out questions answered with some of the image tokens."""
    engine = szilard.load("zoo/tiny-vlm")
    samples = list(scenes.dataset("heldout", count, seed=11))
    settings: list[tuple[str, int, float, int]] = [("none", 1, 1.0, 0)]
    for layer in layers:
        for keep in KEEPS:
            for score in SCORES:
                settings += [(score, layer, keep, seed) for seed in (SEEDS if score == "random" else (0,))]
    for score, layer, keep, seed in settings:
        key = {"part": "accuracy", "score": score, "layer": layer, "keep": keep, "seed": seed, "scenes": count}
        if key in store:
            continue
        method = None if score == "none" else szilard.EntropyPrune(layer=layer, keep=keep, score=score, seed=seed)
        right: dict[str, list[bool]] = {}
        counters: dict[str, float] = {}
        for start in range(0, count, BATCH):
            part = samples[start : start + BATCH]
            results = engine.generate(
                [sample.question for sample in part],
                images=[[sample.image] for sample in part],
                attention=method,
                max_new_tokens=64,
                trace=False,
            )
            for sample, result in zip(part, results, strict=True):
                right.setdefault(sample.kind, []).append(scenes.is_correct(sample, result.text))
            for name in ("prunable_flops", "prunable_flops_full", "prunable_tokens", "prunable_tokens_kept"):
                counters[name] = counters.get(name, 0) + results[0].cost.counters.get(name, 0)
        every = [one for kind in right.values() for one in kind]
        full = counters["prunable_flops_full"]
        values = {
            "accuracy": sum(every) / len(every),
            "by_kind": {kind: sum(own) / len(own) for kind, own in right.items()},
            "visual_flops_reduction": 1 - counters["prunable_flops"] / full if full else 0.0,
            "tokens_kept": counters["prunable_tokens_kept"] / count if full else None,
        }
        store.add(key, values)
        print(key, {name: value for name, value in values.items() if name != "by_kind"}, flush=True)


def profile(store: Store, count: int) -> None:
    """The matrix entropy of the image tokens in every layer."""
    engine: Any = szilard.load("zoo/tiny-vlm")
    samples = list(scenes.dataset("heldout", count, seed=11))
    for states in ("query", "key"):
        key = {"part": "profile", "states": states, "scenes": count}
        if key in store:
            continue
        batches = (engine.encode([sample.question], images=[[sample.image]]) for sample in samples)
        found = visual_entropy_profile(engine.model, batches, states=states)
        values = {"entropy": found.entropy, "error": found.error, "layer": found.layer}
        store.add(key, values)
        print(key, values, flush=True)


def prefill(store: Store, repeats: int) -> None:
    """Plain and pruned prompts in turn."""
    hidden, wide, depth, heads = 512, 1376, 12, 8
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config).eval()
    prompt = torch.randn(1, BEFORE + VISUAL + AFTER, hidden) * 0.02
    for layer in (1, 2):
        keep = max(
            keep for keep in range(1, VISUAL) if flops_reduction(depth, layer, VISUAL, keep, hidden, wide) >= TARGET
        )
        key = {"part": "prefill", "layer": layer, "keep": keep, "repeats": repeats}
        if key in store:
            continue
        methods = {
            name: szilard.EntropyPrune(layer=layer, keep=keep, score=name, span=(BEFORE, VISUAL))
            for name in ("entropy", "stride")
        }
        seconds: dict[str, list[float]] = {"plain": [], **{name: [] for name in methods}}
        for turn in range(repeats + 2):
            for name in seconds:
                found = _once(model, prompt, methods.get(name))
                if turn >= 2:  # the first ones warm up
                    seconds[name].append(found)
        median = {name: statistics.median(own) for name, own in seconds.items()}
        paired = {
            name: statistics.median(a / b for a, b in zip(seconds["plain"], seconds[name], strict=True))
            for name in methods
        }
        values = {
            "seconds": median,
            "speed": median["plain"] / median["entropy"],
            "speed_paired": paired,
            "visual_flops_reduction": flops_reduction(depth, layer, VISUAL, keep, hidden, wide),
        }
        store.add(key, values)
        print(key, values, flush=True)


@torch.no_grad()
def _once(model: Any, prompt: torch.Tensor, method: Any) -> float:
    """Seconds of a prefill."""
    if method is None:
        begin = time.perf_counter()
        model(inputs_embeds=prompt, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - begin
    with method(model):
        begin = time.perf_counter()
        model(inputs_embeds=prompt, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "accuracy", "profile", "prefill"), default="all")
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--store", default="entropy-prune", help="file under results/")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    if arguments.part in ("all", "prefill"):
        prefill(store, arguments.repeats)
    if arguments.part in ("all", "profile"):
        profile(store, min(64, arguments.scenes))
    if arguments.part in ("all", "accuracy"):
        accuracy(store, arguments.scenes, arguments.layers)


if __name__ == "__main__":
    main()
