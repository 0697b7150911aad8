"""Spec-Bench: drafters against plain decoding and transformers' own, prompt by prompt in turn.

    python benchmarks/speculative_decoding.py smollm2 --data FOLDER
    python benchmarks/speculative_decoding.py qwen --data FOLDER --models FOLDER

Every contestant answers a prompt (or a batch of them) before the next prompt comes, so that a busy machine slows all of
them. A line per answer goes to results/speculative.jsonl; a killed run goes on where it was. Trained drafters are
those of the zoo.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from rich.progress import track

import szilard
import szilard_zoo
from szilard.engines.engine import Engine
from szilard.evaluation.spec_bench import CATEGORIES
from szilard.evaluation.tasks import make_task
from szilard.speculative.trigram_table import TrigramTable

LARGE, SMALL = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
DRAFT_LAYERS = 10  # of 30
SHALLOW = "draft-model of 10 layers"
TRAINED = {
    "medusa": szilard.Medusa,
    "chimera": szilard.Chimera,
    "hidden-transfer": szilard.HiddenTransfer,
    "flash": szilard.Flash,
}
Answer = dict[str, Any]
Contestant = Callable[[list[str]], Answer]


def batches(
    data: Path, per_category: int, size: int, categories: Sequence[str] = CATEGORIES
) -> Iterator[tuple[str, str, list[str]]]:
    """(category, name, prompts) of every batch: the first prompts of each category."""
    items = make_task("spec-bench").items(data / "spec_bench.jsonl")
    for category in categories:
        own = [item for item in items if item.id.startswith(f"{category}/")][:per_category]
        for start in range(0, len(own) - size + 1, size):
            some = own[start : start + size]
            yield category, some[0].id, [item.prompt for item in some]


def ours(engine: Engine, method: Any, tokens: int, sampled: bool) -> Contestant:
    """A szilard method as a contestant."""

    def answer(prompts: list[str]) -> Answer:
        settings: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "seed": 0} if sampled else {}
        start = time.perf_counter()
        results = engine.generate(prompts, method, max_new_tokens=tokens, trace=False, **settings)
        seconds = time.perf_counter() - start
        cost = results[0].cost
        return {
            "seconds": seconds,
            "tokens": sum(len(result.tokens) for result in results),
            "texts": [digest(result.text) for result in results],
            "counters": dict(cost.counters),
            "forwards": max(cost.forward_passes.values()),
        }

    return answer


def digest(text: str) -> str:
    """By which answers are compared with those of plain decoding."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


def shallow(model: Any, layers: int) -> Any:
    """The first layers of a model with its norm and output layer: the same draft model for us and for transformers."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    config.layer_types = None
    small = type(model)(config).to(model.dtype).eval()
    small.load_state_dict(model.state_dict(), strict=False)
    small.generation_config.num_assistant_tokens = 5
    small.generation_config.num_assistant_tokens_schedule = "constant"
    small.generation_config.assistant_confidence_threshold = 0.0
    return small


def theirs(engine: Any, tokens: int, sampled: bool, **options: Any) -> Contestant:
    """transformers' own generation as a contestant (one prompt at a time: it refuses batches)."""

    def answer(prompts: list[str]) -> Answer:
        inputs = engine.encode(prompts)
        torch.manual_seed(0)
        settings = {"do_sample": sampled, "temperature": 1.0 if sampled else None, "top_k": 0, "top_p": 1.0}
        start = time.perf_counter()
        out = engine.model.generate(**inputs, max_new_tokens=tokens, **settings, **options)
        seconds = time.perf_counter() - start
        new = out[0, inputs["input_ids"].shape[1] :]
        text = engine.tokenizer.decode(new, skip_special_tokens=True)
        return {"seconds": seconds, "tokens": len(new), "texts": [digest(text)], "counters": {}, "forwards": None}

    return answer


def contestants(engine: Engine, arguments: argparse.Namespace, size: int, sampled: bool) -> dict[str, Contestant]:
    """Who competes on this engine, batch size and temperature. ADED learns from its own answers as it goes."""
    methods: dict[str, Any] = {
        "plain": None,
        "prompt-lookup": szilard.PromptLookup(),
        "prompt-lookup, fixed": szilard.PromptLookup(budget="fixed"),
        "aded": szilard.Aded(TrigramTable.empty(engine.vocab_size), search="best_first"),
        "aded, whole prompt": szilard.Aded(
            TrigramTable.empty(engine.vocab_size), search="best_first", observe_prompt=True
        ),
        "aded, mcts, fixed": szilard.Aded(TrigramTable.empty(engine.vocab_size), budget="fixed"),
    }
    if arguments.answers is not None:
        lines = arguments.answers.read_text(encoding="utf-8").splitlines()
        texts = [row["prompt_ids"] + row["ids"] for row in map(json.loads, lines)]
        table = TrigramTable.from_ids(texts, engine.vocab_size)
        counted = szilard.Aded(table, search="best_first", observe_prompt=True)
        methods |= {"aded, counted on answers": counted, "aded, counted, fixed": replace(counted, budget="fixed")}
    if engine.kind == "llama.cpp":
        small = szilard.load(SMALL, engine="llama.cpp")
        methods["draft-model"] = szilard.DraftModel(draft=small)
        methods["draft-model, fixed"] = szilard.DraftModel(draft=small, budget="fixed")
    else:
        for slug, cls in TRAINED.items():
            if f"smollm2-{slug}" in szilard_zoo.names():
                methods[slug] = cls.from_pretrained(f"zoo/smollm2-{slug}", tree="measured")
                methods[f"{slug}, fixed"] = replace(methods[slug], budget="fixed")
        if "smollm2-lud" in szilard_zoo.names():
            methods["lud"] = szilard.Lud(adapter="zoo/smollm2-lud")
            methods["lud, verified"] = szilard.Lud(adapter="zoo/smollm2-lud", verify=True)
        draft = shallow(engine.model, DRAFT_LAYERS)  # type: ignore[attr-defined]
        methods[SHALLOW] = szilard.DraftModel(draft=draft, budget="fixed")
    if arguments.methods:
        methods = {name: method for name, method in methods.items() if name in ("plain", *arguments.methods)}
    found = {name: ours(engine, method, arguments.tokens, sampled) for name, method in methods.items()}
    if engine.kind == "transformers" and size == 1:
        found["transformers plain"] = theirs(engine, arguments.tokens, sampled)
        lookup = {"prompt_lookup_num_tokens": 10, "max_matching_ngram_size": 3}
        found["transformers prompt lookup"] = theirs(engine, arguments.tokens, sampled, **lookup)
        if SHALLOW in methods:
            found["transformers assisted, same 10 layers"] = theirs(
                engine, arguments.tokens, sampled, assistant_model=draft
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("smollm2", "qwen"))
    parser.add_argument("--data", type=Path, required=True, help="folder with spec_bench.jsonl")
    parser.add_argument("--models", type=Path, help=f"folder with {LARGE} and {SMALL}")
    parser.add_argument("--answers", type=Path, help="build/drafters/answers.jsonl: a table for ADED is counted on it")
    parser.add_argument("--methods", nargs="+", help="only these, and plain decoding")
    parser.add_argument("--per-category", type=int, default=10)
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=list(CATEGORIES))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--counts", action="store_true", help="keep no seconds: another run had its turn with plain")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--temperatures", nargs="+", choices=("0", "1"), default=["0", "1"])
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    arguments.answers = arguments.answers and arguments.answers.resolve()
    if arguments.model == "qwen":
        if arguments.models is None:
            parser.error("qwen needs --models")
        os.chdir(arguments.models)
        engine = szilard.load(LARGE, engine="llama.cpp")
    else:
        engine = szilard.load()
    store = Store("speculative")
    for size in arguments.batches:
        for temperature in arguments.temperatures:
            rivals = contestants(engine, arguments, size, sampled=temperature == "1")
            work = list(batches(arguments.data, arguments.per_category, size, arguments.categories))
            next(iter(rivals.values()))(work[0][2])  # warms up
            for category, name, prompts in track(work, description=f"batch {size}, T={temperature}"):
                for label, rival in rivals.items():
                    key = {
                        "model": engine.name,
                        "batch": size,
                        "temperature": int(temperature),
                        "method": label,
                        "item": name,
                        "tokens": arguments.tokens,
                    }
                    if key not in store:
                        answer = rival(prompts) | ({"seconds": None} if arguments.counts else {})
                        store.add(key, {"category": category, **answer})


if __name__ == "__main__":
    main()
