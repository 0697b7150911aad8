"""Compressed by dropping words: grade-school problems and a number hidden in a text, read by the embedded model.

    python benchmarks/compression_tasks.py gsm8k  --data FOLDER [--items 40]
    python benchmarks/compression_tasks.py needle --data FOLDER [--items 16]

gsm8k: the problem is compressed; measured are the numbers that are left and the nats of the reference solution behind it.
needle: a seven-digit number stands in 400 tokens of WikiText-2; the text is compressed, and the number asked for.
The classifier is zoo/tiny-llmlingua2, trained on neither. FOLDER holds gsm8k_test.jsonl and wikitext2_test.txt.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from results_store import Store

import szilard
from szilard.compression.teacher_forcing import teacher_forced
from szilard.engines.context import read_contexts
from szilard.evaluation.long_context import needles

RATES = (0.7, 0.5, 0.33)
METHODS: dict[str, Any] = {
    "llmlingua2": szilard.LlmLingua2(),
    "llmlingua2, digits kept": szilard.LlmLingua2(keep_digits=True),
    "selective-context": szilard.SelectiveContext(unit="word"),
    "random-dropping": szilard.RandomDropping(),
    "truncation": szilard.Truncation(),
}
SOLVE = "Solve this problem step by step."
FIND = "What is the secret number?"


def shortened(engine: Any, texts: list[str], method: str, rate: float) -> list[str]:
    if method == "uncompressed":
        return texts
    return [found.text for found in szilard.compress(texts, METHODS[method], rate, engine=engine)]


@torch.no_grad()
def gsm8k(engine: Any, data: Path, items: int, store: Store) -> None:
    records = [json.loads(line) for line in (data / "gsm8k_test.jsonl").read_text().splitlines()[:items]]
    problems = [record["question"] for record in records]
    solutions = [re.sub(r"<<.*?>>", "", record["answer"].split("####")[0]).strip() for record in records]
    embed = engine.model.get_input_embeddings()
    for method, rate in arms():
        key = {"task": "gsm8k", "method": method, "rate": rate, "items": items}
        if key in store:
            continue
        left = shortened(engine, problems, method, rate)
        nats, tokens, kept, numbers = 0.0, 0, 0, 0
        for problem, text, solution in zip(problems, left, solutions, strict=True):
            own = re.findall(r"\d[\d,.]*\d|\d", problem)
            rest = re.findall(r"\d[\d,.]*\d|\d", text)
            kept += sum(number in rest for number in own)
            numbers += len(own)
            contexts = [[text]] if text.strip() else [[]]
            read = read_contexts(engine, [SOLVE], contexts, raw=False, use_stored=False)
            target = torch.tensor(engine.tokenizer.encode(solution, add_special_tokens=False))
            forced = teacher_forced(engine.model, [embed(read.inputs["input_ids"][0])], [target])
            nats, tokens = nats + float(forced.nats), tokens + len(target)
        store.add(key, {"nats": nats / tokens, "numbers_kept": kept / numbers})
        print(key, round(nats / tokens, 3), round(kept / numbers, 3), flush=True)


def needle(engine: Any, data: Path, items: int, store: Store) -> None:
    text = (data / "wikitext2_test.txt").read_text()
    asked = needles(engine.tokenizer, text, length=400, count=items, seed=5)
    contexts = [engine.tokenizer.decode(item.context) for item in asked]
    answers = [engine.tokenizer.decode(item.answer).strip() for item in asked]
    for method, rate in arms():
        key = {"task": "needle", "method": method, "rate": rate, "items": items}
        if key in store:
            continue
        left = shortened(engine, contexts, method, rate)
        results = engine.generate([FIND] * items, context=left, max_new_tokens=16)
        survived = sum(answer in text for answer, text in zip(answers, left, strict=True))
        right = sum(answer in result.text for answer, result in zip(answers, results, strict=True))
        store.add(key, {"survived": survived / items, "answered": right / items})
        print(key, survived, right, flush=True)


def arms() -> list[tuple[str, float]]:
    return [("uncompressed", 1.0), *((method, rate) for rate in RATES for method in METHODS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("gsm8k", "needle"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engine = szilard.load(device="cpu")
    run, items = {"gsm8k": (gsm8k, 40), "needle": (needle, 16)}[arguments.task]
    run(engine, arguments.data, arguments.items or items, Store("compression-tasks"))


if __name__ == "__main__":
    main()
