"""Does it matter which heads keep more? UnComp's budgets by entropy against the same budgets reversed, by chance and even.

Per window of WikiText-2: 512 tokens are read and compressed once, then the negative log-likelihood (nats per token) of the
next 95 is taken. Per needle:
a number of 7 digits in 480 tokens of text, asked for at the end of the compressed prompt; its digits count when they are
the likeliest ones, given those before. Every head group has the budgets B/2, B, 3B/2 (one key-value head each on
SmolLM2-135M). Results go to results/uncomp-quality.jsonl; a run that was killed goes on where it was.

python benchmarks/uncomp_quality.py --data wikitext2_valid.txt --plan plan.json --windows 8 --needles 8
"""

from __future__ import annotations

import argparse
import contextlib
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from markdown_table import table
from results_store import Store

import szilard
from szilard.attention.uncomp.plan import UnCompPlan, calibrate_uncomp

PROMPT, TARGETS, FILLER = 512, 95, 480
BUDGETS = (64, 128)
GROUPS = ("high-more", "uniform", "random", "reversed")
CALIBRATION = 16  # pieces of 512 tokens at the beginning of the text, which no window touches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="WikiText-2, plain text")
    parser.add_argument("--plan", type=Path, help="kept calibration; made when the file is not there")
    parser.add_argument("--model", default=None, help="default: the embedded SmolLM2-135M")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--needles", type=int, default=8)
    arguments = parser.parse_args()
    engine = szilard.load(arguments.model, engine="transformers", dtype="float32")
    ids = engine.tokenizer.encode(arguments.data.read_text(encoding="utf-8")[:2_000_000])
    plan = kept_plan(engine, ids, arguments.plan)
    store = Store("uncomp-quality")
    rest = ids[CALIBRATION * PROMPT :]
    for number in range(arguments.windows):
        window = rest[number * (PROMPT + TARGETS) :][: PROMPT + TARGETS]
        measure(engine, store, plan, "nll", number, window[:PROMPT], window[PROMPT:])
    behind = rest[arguments.windows * (PROMPT + TARGETS) :]
    for number in range(arguments.needles):
        prompt, digits = needle(engine.tokenizer, behind[number * FILLER :][:FILLER], number)
        measure(engine, store, plan, "needle", number, prompt, digits)
    print(summary(store))


def kept_plan(engine: Any, ids: list[int], path: Path | None) -> UnCompPlan:
    """The calibration of the model, from its file if it is there."""
    if path is not None and path.exists():
        return UnCompPlan.load(path)
    pieces = [ids[start : start + PROMPT] for start in range(0, CALIBRATION * PROMPT, PROMPT)]
    plan = calibrate_uncomp(engine.model, pieces, name=engine.name)
    if path is not None:
        plan.save(path)
    return plan


def needle(tokenizer: Any, filler: list[int], number: int) -> tuple[list[int], list[int]]:
    """A prompt with a number in it and a question for it, and the number's tokens."""
    chance = random.Random(number)
    code = "".join(chance.choice("0123456789") for _ in range(7))
    at = chance.randrange(FILLER // 8, FILLER * 7 // 8)
    said = tokenizer.encode(f"\n\nThe access code of the harbour is {code}.\n\n", add_special_tokens=False)
    asked = tokenizer.encode(
        "\n\nQuestion: What is the access code of the harbour?\nAnswer: The access code of the harbour is",
        add_special_tokens=False,
    )
    return filler[:at] + said + filler[at:] + asked, tokenizer.encode(f" {code}", add_special_tokens=False)


@torch.no_grad()
def measure(
    engine: Any, store: Store, plan: UnCompPlan, part: str, number: int, prompt: list[int], targets: list[int]
) -> None:
    """One text under the full cache and under every budget and grouping."""
    settings: list[tuple[str, int | None]] = [("full", None)]
    settings += [(groups, budget) for budget in BUDGETS for groups in GROUPS]
    for groups, budget in settings:
        key = {"part": part, "model": Path(engine.name).name, "number": number, "groups": groups, "budget": budget}
        if key in store:
            continue
        under: Any = contextlib.nullcontext()
        if budget is not None:
            method = szilard.UnComp(
                plan=plan, budgets=(budget // 2, budget, budget * 3 // 2), groups=groups, phase="prefill", seed=number
            )
            under = method(engine.model)
        with under as run:
            first = engine.model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
            held = run.summary()["kv_held_share"] if run is not None else 1.0
            logits = first.logits
            if len(targets) > 1:
                later = engine.model(torch.tensor([targets[:-1]]), past_key_values=first.past_key_values).logits
                logits = torch.cat([logits, later], dim=1)
        wanted = torch.tensor(targets)
        log_probabilities = logits[0].float().log_softmax(-1)
        store.add(
            key,
            {
                "tokens": len(targets),
                "nll": -float(log_probabilities.gather(1, wanted[:, None]).mean()),
                "correct": int((log_probabilities.argmax(-1) == wanted).sum()),
                "kv_held_share": held,
            },
        )


def summary(store: Store) -> str:
    """Means over the texts that every setting has."""
    found: dict[tuple[str, Any, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in store:
        key = record["key"]
        found[key["part"], key["budget"], key["groups"]][key["number"]] = record
    rows = []
    for (part, budget, groups), texts in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        shared = set.intersection(*(set(other) for name, other in found.items() if name[0] == part))
        records = [texts[number] for number in sorted(shared)]
        if records:
            rows.append(
                [
                    part,
                    "all" if budget is None else str(budget),
                    groups,
                    f"{sum(record['nll'] for record in records) / len(records):.3f}",
                    f"{sum(record['correct'] for record in records)}/{sum(record['tokens'] for record in records)}",
                    f"{records[0]['kv_held_share']:.3f}",
                    str(len(records)),
                ]
            )
    return table(["part", "average budget", "groups", "NLL", "first choices", "KV held", "texts"], rows)


if __name__ == "__main__":
    main()
