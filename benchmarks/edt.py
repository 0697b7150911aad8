"""EDT beside fixed temperatures: several answers to every problem, how many are right and how many differ.

    python benchmarks/edt.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --data HumanEval.jsonl.gz [--problems 24]

Answers are drawn from the whole distribution, five to a problem. pass@1: share of answers that pass the problem's tests;
pass@5: share of problems with one that does; different: distinct answers of a problem's five, over five. A rule is better
where it has more of one at no less of the other. Records lie in results/edt.jsonl, one a problem and setting; a killed run
goes on. The answers are programs, and they are run.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from markdown_table import table
from results_store import Store

import szilard
from szilard.decoding.edt import Edt
from szilard.evaluation.code_tasks import HumanEval

ANSWERS, TOKENS = 5, 128
SETTINGS: dict[str, tuple[Any, float]] = {
    "temperature 0.2": ("sampling", 0.2),
    "temperature 0.6": ("sampling", 0.6),
    "temperature 1.0": ("sampling", 1.0),
    "EDT, T0 0.6, theta 0.5": (Edt(theta=0.5), 0.6),
    "EDT, T0 1.0, theta 1": (Edt(theta=1.0), 1.0),
}
HEAD = """## EDT

**Claim** (Zhang, Bao, Huang 2024, arXiv 2403.14541). A temperature that follows every step's entropy balances quality and
diversity better than any fixed temperature, on summaries, questions, translations (LLaMA-2-13B).

{problems} problems of HumanEval, five answers each, drawn from the whole distribution; Qwen2.5-Coder-0.5B-Instruct, Q4_K_M.
pass@1 is the quality, the share of distinct answers the diversity, pass@5 what both together are good for.

```
python benchmarks/edt.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --data HumanEval.jsonl.gz
```
"""
READING = ""


def main() -> None:
    """Draw, run, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--problems", type=int, default=24, help="every so many-th of the 164")
    arguments = parser.parse_args()
    task = HumanEval(allow_code_execution=True)
    items = task.items(arguments.data)
    chosen = items[:: max(1, len(items) // arguments.problems)][: arguments.problems]
    engine = szilard.load(arguments.model, engine="llama.cpp")
    store = Store("edt")
    for number, item in enumerate(chosen):
        for name, (method, temperature) in SETTINGS.items():
            key = {"model": engine.name, "task": task.slug, "item": item.id, "setting": name, "answers": ANSWERS}
            if key in store:
                continue
            drawn = engine.generate(
                [item.prompt] * ANSWERS, method, max_new_tokens=TOKENS, raw=True, stop=list(item.stop), trace=False,
                do_sample=True, temperature=temperature, top_k=0, top_p=1.0, seed=number,
            )  # fmt: skip
            texts = [result.text for result in drawn]
            values = {
                "passed": [task.score(item, text)["score"] for text in texts],
                "different": len({task.program(item, text) for text in texts}),
                "tokens": sum(len(result.tokens) for result in drawn),
            }
            store.add(key, values)
            print(item.id, name, values["passed"], values["different"], flush=True)


def page() -> Iterator[str]:
    """Lines of the reproduction page; none where nothing was measured."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in Store("edt"):
        groups[record["key"]["setting"]].append(record)
    if not groups:
        return
    problems = min(len(own) for own in groups.values())
    yield HEAD.format(problems=problems)
    rows = []
    for name, own in groups.items():
        right = [statistics.mean(record["passed"]) for record in own]
        once = [float(max(record["passed"])) for record in own]
        different = [record["different"] / ANSWERS for record in own]
        tokens = statistics.mean(record["tokens"] / ANSWERS for record in own)
        rows.append(
            [name, *(f"{100 * statistics.mean(one):.1f} %" for one in (right, once, different)), f"{tokens:.0f}"]
        )
    yield table(["setting", "pass@1", "pass@5", "different answers", "tokens"], rows)
    if READING:
        yield READING


if __name__ == "__main__":
    main()
