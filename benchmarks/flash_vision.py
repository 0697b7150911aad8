"""Flash on the zoo's vision-language model: what compression, the number of latents, K and the head are worth.

    python benchmarks/flash_vision.py --work build/drafters

Every variant is trained on the same answers of the model (a few minutes each; a stopped run goes on where it was), and
then drafts for held-out scenes beside plain decoding and prompt lookup. A line per variant and batch size goes to
results/flash-vision.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from results_store import Store

import szilard
from szilard.speculative.draft_config import FlashConfig
from szilard.speculative.draft_training import train_heads
from szilard.speculative.flash.training import FlashObjective
from szilard_zoo import scenes
from szilard_zoo.train_drafters import COMMON, RECIPES, picture_answers

VARIANTS: dict[str, dict[str, Any]] = {
    "16 latents, K = 4": {},
    "4 latents": {"latents": 4},
    "means in the place of latents": {"compression": "mean"},
    "every image slot": {"compression": "none"},
    "no image": {"latents": 0},
    "attention alone (the released head)": {"head": "official"},
    "K = 1": {"draft_tokens": 1},
    "K = 2": {"draft_tokens": 2},
    "K = 8": {"draft_tokens": 8},
}
TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/drafters"))
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    data = picture_answers(arguments.work)
    engine = szilard.load("zoo/tiny-vlm")
    methods: dict[str, Any] = {"plain": None, "prompt lookup": szilard.PromptLookup()}
    for name, changes in VARIANTS.items():
        settings = COMMON | RECIPES["tiny-vlm-flash"].settings | {"steps": arguments.steps} | changes
        folder = arguments.work / "flash-vision" / ("-".join(map(str, sum(changes.items(), ()))) or "default")
        train_heads(
            FlashObjective, engine, data, FlashConfig(**settings), folder, cache=arguments.work / "features-tiny-vlm"
        )
        methods[name] = szilard.Flash.from_pretrained(folder)
        if name == "16 latents, K = 4":
            methods["16 latents, K = 4, grown trees"] = szilard.Flash.from_pretrained(folder, tree="probable")
            methods["16 latents, K = 4, two rounds"] = szilard.Flash.from_pretrained(folder, rounds=2)
        if name == "K = 1":
            methods["K = 1, five rounds"] = szilard.Flash.from_pretrained(folder, rounds=5)
    samples = list(scenes.dataset("heldout", arguments.scenes, seed=7))
    questions, pictures = [s.question for s in samples], [[s.image] for s in samples]
    store = Store("flash-vision")
    for size in (1, 8):
        found: dict[str, dict[str, Any]] = {
            name: {"seconds": [], "counters": {}, "tokens": 0, "texts": []} for name in methods
        }
        for start in range(0, len(samples), size):
            for name, method in methods.items():  # in turn: a busy machine slows all of them
                begin = time.perf_counter()
                results = engine.generate(
                    questions[start : start + size],
                    method,
                    images=pictures[start : start + size],
                    max_new_tokens=TOKENS,
                    trace=False,
                )
                own = found[name]
                own["seconds"].append(time.perf_counter() - begin)
                own["texts"] += [result.text for result in results]
                own["tokens"] += sum(len(result.tokens) for result in results)
                for counter, amount in results[0].cost.counters.items():
                    own["counters"][counter] = own["counters"].get(counter, 0) + amount
        for name, own in found.items():
            paired = [base / mine for base, mine in zip(found["plain"]["seconds"], own["seconds"], strict=True)]
            key = {"method": name, "batch": size, "scenes": len(samples), "steps": arguments.steps}
            values = {
                "tokens": own["tokens"],
                "counters": own["counters"],
                "speed": statistics.median(paired),
                "same_text": sum(a == b for a, b in zip(own["texts"], found["plain"]["texts"], strict=True)),
            }
            if key not in store:
                store.add(key, values)
            print(size, name, {k: v for k, v in values.items() if k != "counters"}, own["counters"])


if __name__ == "__main__":
    main()
