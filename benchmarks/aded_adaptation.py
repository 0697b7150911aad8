"""ADED's table as it learns: tokens per target pass, block by block, while the kind of text changes twice.

    python benchmarks/aded_adaptation.py --answers build/drafters/answers.jsonl --data DATA

Greedy drafting changes no text, so what is accepted follows from the text alone: the answers of SmolLM2-135M-Instruct
(`python -m szilard_zoo.train_drafters` writes them) are replayed, and no model runs. Word problems, then programs, then
word problems again. Lines go to results/aded-adaptation.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_store import Store

from szilard import Aded
from szilard.speculative.prompt_lookup import NgramIndex
from szilard.speculative.tree_search import best_first
from szilard.speculative.trigram_table import TrigramTable
from szilard_zoo.train_drafters import kinds

BLOCK = 25  # answers per line
VOCABULARY = 49_152
Answer = dict[str, Any]


def replay(answer: Answer, table: TrigramTable | None, method: Aded, *, learns: bool) -> tuple[int, int]:
    """Tokens and target passes of one answer; `table` None: prompt lookup, for comparison."""
    prompt, ids = answer["prompt_ids"], answer["ids"]
    if table is not None and learns and method.observe_prompt:
        table.update([*prompt, ids[0]], increment=method.update_increment, cap=method.update_cap)
    index = NgramIndex(3)
    index.extend(prompt)
    done, passes = 1, 0  # the first token comes with the prompt
    while done < len(ids):
        text = [*prompt, *ids[:done]]
        if table is None:
            index.extend(text[len(index) :])
            draft = index.continuation(10)
            paths = [tuple(draft[: end + 1]) for end in range(len(draft))]
        else:
            if learns:
                window = text[-method.update_window :]
                table.update(window, increment=method.update_increment, cap=method.update_cap)
            paths = best_first(table.row, text[-2], text[-1], max_nodes=method.max_nodes, depth=method.depth)
        kept = max((len(path) for path in paths if list(path) == ids[done : done + len(path)]), default=0)
        done += kept + 1
        passes += 1
    return len(ids) - 1, passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.answers.read_text(encoding="utf-8").splitlines()]
    by_prompt = {row["prompt"]: row for row in rows if len(row["ids"]) > 1}
    own = {kind: [by_prompt[p] for p in some if p in by_prompt] for kind, some in kinds(arguments.data).items()}
    problems = own["word problems"]
    stages = [("word problems", problems[100:200]), ("programs", own["programs"]), ("word problems", problems[200:300])]
    corpus = [[*row["prompt_ids"], *row["ids"]] for row in problems[:100]]

    def counted() -> TrigramTable:
        return TrigramTable.from_ids(corpus, VOCABULARY)

    contestants: dict[str, tuple[TrigramTable | None, Aded, bool]] = {
        "empty, learns": (TrigramTable.empty(VOCABULARY), Aded(search="best_first"), True),
        "empty, learns whole prompts, too": (
            TrigramTable.empty(VOCABULARY),
            Aded(search="best_first", observe_prompt=True),
            True,
        ),
        "100 word problems, as it is": (counted(), Aded(search="best_first"), False),
        "100 word problems, learns": (counted(), Aded(search="best_first"), True),
        "prompt lookup": (None, Aded(), False),
    }
    store = Store("aded-adaptation")
    for name, (table, method, learns) in contestants.items():
        for stage, (kind, answers) in enumerate(stages):
            for start in range(0, len(answers), BLOCK):
                block = answers[start : start + BLOCK]
                counts = [replay(answer, table, method, learns=learns) for answer in block]
                tokens, passes = (sum(column) for column in zip(*counts, strict=True))
                key = {"table": name, "stage": stage, "kind": kind, "first": start}
                if key not in store:
                    found = {"answers": len(block), "tokens": tokens, "passes": passes}
                    store.add(key, found | {"bigrams": len(table) if table is not None else 0})
                print(f"{name:35} {kind:15} {start:4} {tokens / passes:.3f}")


if __name__ == "__main__":
    main()
