"""LEAD against its baselines, in one run, on real input. Resumable: what is in `results/` is not measured again.

    python benchmarks/reproduce_lead.py vision [--questions 500] [--seeds 3]
    python benchmarks/reproduce_lead.py text --data gsm8k_test.jsonl [--questions 60]

`vision`: held-out questions about pictures on zoo/tiny-vlm. Seed s names both a fresh set of questions and the draws.
`text`: grade-school maths (GSM8K, one {"question", "answer"} a line) on the embedded SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from results_store import Store
from rich.console import Console
from rich.progress import Progress

import szilard
from szilard import Greedy, Lead, Sampling, SoftThinking, SwiReasoning

# The chains of tiny-vlm have 20-40 tokens, so the published windows (128..512) never let a row think latently twice;
# the rows with a window of 4 show the switching at this scale.
VISION_METHODS: dict[str, Any] = {
    "greedy": Greedy(),
    "sampling": Sampling(temperature=0.6, top_k=20, top_p=0.95),
    "soft thinking": SoftThinking(),
    "swi-reasoning": SwiReasoning(),
    "swi-reasoning, window 4": SwiReasoning(window=4),
    "lead, no anchor": Lead(anchor=None),
    "lead": Lead(),
    "lead, no anchor, window 4": Lead(anchor=None, window=4),
    "lead, window 4": Lead(window=4),
    "lead, anchor 0.2, window 4": Lead(anchor_strength=0.2, window=4),
    "lead, anchor 0.6, window 4": Lead(anchor_strength=0.6, window=4),
    "lead, starts discrete, window 4": Lead(initial_mode="discrete", window=4),
    "lead, no anchor, starts discrete, window 4": Lead(anchor=None, initial_mode="discrete", window=4),
    "lead, anchor <vision_start> and <vision_end>, window 4": Lead(anchor=(5, 7), window=4),
    "lead, anchor <think>, window 4": Lead(anchor="<think>", window=4),
    "lead, released constants": Lead.released(),
    "lead, threshold 0 (always latent)": Lead(threshold=0.0, max_switches=None),
    "lead, threshold 0.3, window 0": Lead(threshold=0.3, window=0),
    "lead, threshold 0.5, window 0": Lead(threshold=0.5, window=0),
    "lead, threshold 1, window 0": Lead(threshold=1.0, window=0),
    "lead, no anchor, threshold 0.3, window 0": Lead(anchor=None, threshold=0.3, window=0),
    "lead, no anchor, threshold 1, window 0": Lead(anchor=None, threshold=1.0, window=0),
    "lead, threshold inf (plain)": Lead(threshold=math.inf),
}
TEXT_METHODS: dict[str, Any] = {
    "greedy": Greedy(),
    "sampling": Sampling(temperature=0.6, top_k=20, top_p=0.95),
    "soft thinking": SoftThinking(),
    "swi-reasoning": SwiReasoning(),
    "lead, no anchor": Lead(),  # a text model has no visual tokens to anchor to
    "lead, starts discrete, window 16": Lead(initial_mode="discrete", window=16),
    "lead, released constants": Lead.released(),
}
TRANSITIONS = {"so", "because", "however", "therefore", "thus", "but", "since", "then", "wait", "now"}


def run(engine: Any, prompts: list[Any], method: Any, seed: int, batch: int, tokens: int, **options: Any) -> list[Any]:
    """All prompts through one method, in batches of similar length; results in the prompts' order."""
    images = options.pop("images", None)
    order = sorted(range(len(prompts)), key=lambda i: len(str(prompts[i])))
    results: list[Any] = [None] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        pictures = {"images": [images[i] for i in rows]} if images else {}
        replies = engine.generate(
            [prompts[i] for i in rows], method, max_new_tokens=tokens, seed=seed * 10_000 + start, **pictures, **options
        )
        for i, reply in zip(rows, replies, strict=True):
            results[i] = reply
    return results


def costs(results: list[Any], seconds: float) -> dict[str, Any]:
    """Counts over a set of results."""
    calls = {id(result.cost): result.cost for result in results}.values()
    latent = sum(result.trace.summary()["latent_steps"] for result in results)
    steps = sum(len(result.tokens) for result in results)
    anchored = sum(
        int(np.nansum(result.trace["anchored"].astype(float)))
        for result in results
        if "anchored" in result.trace.columns
    )
    switches = sum(result.trace.summary()["switches"] for result in results)
    return {
        "tokens": steps / len(results),
        "latent_share": latent / steps,
        "switches": switches / len(results),
        "anchored": anchored / len(results),
        "gflops": sum(cost.flops for cost in calls) / len(results) / 1e9,
        "finished": sum(result.finish_reason == "stop" for result in results) / len(results),
        "seconds": seconds,
    }


def vision(arguments: argparse.Namespace) -> None:
    """Accuracy, hallucination, length and cost on the zoo's vision-language model."""
    from szilard_zoo import scenes

    store, console = Store("lead-vision"), Console(stderr=True)
    engine = szilard.load("zoo/tiny-vlm")
    with Progress(console=console) as progress:
        task = progress.add_task("vision", total=arguments.seeds * len(VISION_METHODS))
        for seed in range(arguments.seeds):
            kinds = ("existence", "count", "colour", "position")
            samples = list(scenes.dataset("heldout", arguments.questions, seed=100 + seed, prior=0.0, kinds=kinds))
            pictures = [scenes.render(sample.scene) for sample in samples]
            for name, method in VISION_METHODS.items():
                progress.update(task, description=f"seed {seed}: {name}")
                key = {"task": "tiny-vlm", "questions": len(samples), "seed": seed, "method": name}
                if key not in store:
                    start = time.perf_counter()
                    results = run(
                        engine, [s.question for s in samples], method, seed, 50, 96, images=[[p] for p in pictures]
                    )
                    seconds = time.perf_counter() - start
                    texts = [result.text for result in results]
                    right = [scenes.is_correct(s, t) for s, t in zip(samples, texts, strict=True)]
                    by_kind = {
                        kind: sum(r for r, s in zip(right, samples, strict=True) if s.kind == kind)
                        / sum(s.kind == kind for s in samples)
                        for kind in kinds
                    }
                    false = scenes.chair(samples, texts)
                    polls = scenes.pope(samples, texts)
                    values = {
                        "accuracy": sum(right) / len(right),
                        "accuracy_by_kind": by_kind,
                        "chair_mention": false.per_mention,
                        "chair_text": false.per_text,
                        "mentions": false.mentions,
                        "pope": {
                            k: {"accuracy": p.accuracy, "f1": p.f1, "yes_rate": p.yes_rate} for k, p in polls.items()
                        },
                        "method_options": str(method),
                        "sample": {"question": samples[0].question, "text": texts[0]},
                        **costs(results, seconds),
                    }
                    store.add(key, values)
                    console.print(
                        f"seed {seed} {name}: {values['accuracy']:.3f}, CHAIR_i {values['chair_mention']:.3f}"
                    )
                progress.advance(task)


def text(arguments: argparse.Namespace) -> None:
    """Accuracy, length and cost on GSM8K, and the entropy at transition words in the greedy chains."""
    store, console = Store("lead-text"), Console(stderr=True)
    lines = Path(arguments.data).read_text(encoding="utf-8").splitlines()[: arguments.questions]
    items = [json.loads(line) for line in lines]
    engine = szilard.load(arguments.model)
    prompts = [f"{item['question']}\nThink step by step and end with 'The answer is N.'" for item in items]
    answers = [number(item["answer"].split("####")[-1]) for item in items]
    with Progress(console=console) as progress:
        task = progress.add_task("text", total=len(TEXT_METHODS))
        for name, method in TEXT_METHODS.items():
            progress.update(task, description=name)
            key = {
                "task": "gsm8k",
                "model": engine.name,
                "questions": len(items),
                "tokens": arguments.tokens,
                "method": name,
            }
            if key not in store:
                start = time.perf_counter()
                results = run(engine, prompts, method, 0, arguments.batch, arguments.tokens)
                seconds = time.perf_counter() - start
                right = [number(r.text) == a for r, a in zip(results, answers, strict=True)]
                values = {
                    "accuracy": sum(right) / len(right),
                    "mean_entropy": float(np.mean([result.trace.summary()["mean_entropy"] for result in results])),
                    "distinct_share": float(np.mean([len(set(r.tokens)) / len(r.tokens) for r in results])),
                    "method_options": str(method),
                    "sample": results[0].text[:300],
                    **costs(results, seconds),
                }
                if name == "greedy":
                    values |= transition_entropy(results)
                store.add(key, values)
                console.print(f"{name}: {values['accuracy']:.3f}, {values['tokens']:.0f} tokens")
            progress.advance(task)


def transition_entropy(results: list[Any]) -> dict[str, float]:
    """Mean next-token entropy (nats) where a transition word was chosen, and elsewhere."""
    at, elsewhere = [], []
    for result in results:
        for step in result.trace:
            word = (step.text or "").strip().lower()
            (at if word in TRANSITIONS else elsewhere).append(step.entropy)
    return {
        "transition_entropy": float(np.mean(at)),
        "transition_words": len(at),
        "other_entropy": float(np.mean(elsewhere)),
    }


def number(text: str) -> float | None:
    """The last number in a text."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("vision")
    command.add_argument("--questions", type=int, default=500)
    command.add_argument("--seeds", type=int, default=3)
    command.set_defaults(function=vision)
    command = commands.add_parser("text")
    command.add_argument("--data", required=True, help="GSM8K test file, JSON lines")
    command.add_argument("--model", default=None)
    command.add_argument("--questions", type=int, default=60)
    command.add_argument("--tokens", type=int, default=192)
    command.add_argument("--batch", type=int, default=10)
    command.set_defaults(function=text)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
