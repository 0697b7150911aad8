"""The reproduction page's part on training LLMLingua-2, from results/llmlingua2-training.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmlingua2_training import CONTEXTS, RATES, TEXTS, report
from markdown_table import table
from results_store import Store

HEAD = """### From training to answers

**Claim** (Pan et al. 2024, table 1). On MeetingBank questions at about 3x, LLMLingua-2 keeps 86.9 (small: 85.8) of the 87.8 points
of the whole transcript, where Selective Context keeps 66.3 and LLMLingua 67.5; the compressor itself takes 0.4 s, theirs 15.6
and 2.1 s.

Here the teacher is no GPT-4 but open rules on WikiText-2, and on contexts of two to four facts in small talk what is known to
matter ({pairs} pairs). The tables are of held-out contexts, which share no name, thing, statement or sentence of talk with the training ones. The
reader is SmolLM2-135M-Instruct, whose tokens the budget counts; it scores for Selective Context and LLMLingua, too.

```
python benchmarks/llmlingua2_training.py --data FOLDER --encoder sentence-transformers/all-MiniLM-L6-v2
```
"""


def section() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    found = report(Store("llmlingua2-training"))
    if not any(found.values()):
        return
    yield HEAD.format(pairs=f"{TEXTS:,} + {CONTEXTS:,}")
    yield table(
        ["labels of", "accuracy", "precision of keep", "recall", "F1"],
        [[name, *figures(tokens)] for name, tokens in found["labels"].items()],
    )
    if found["masks"]:
        yield "\nThe zoo's small encoder, fitted on running text alone, on running text of another part:\n"
        yield table(
            ["sees", "accuracy", "precision of keep", "recall", "F1"],
            [[name, *figures(tokens)] for name, tokens in found["masks"].items()],
        )
    yield "\nShare of the questions whose answer is still in the context (95 % interval):\n"
    names = list(dict.fromkeys(name.rpartition(" @ ")[0] for name in found["survival"]))
    rows = []
    for name in names:
        own = [found["survival"].get(f"{name} @ {rate:g}") for rate in RATES]
        if all(own):
            shared = name == "selective-context, words"  # reads what the phrases' model read
            seconds = "the same" if shared else f"{own[0]['seconds']:.2f}"
            rows.append([name, *map(interval, own), f"{own[1]['tokens']:.0f}", seconds])
    rates = [f"{rate:.0%} of the tokens" for rate in RATES]
    yield table(["method", *rates, f"tokens at {RATES[1]:.0%}", "compressor seconds per context"], rows)
    yield "\nShare of the questions that the reader answers rightly:\n"
    whole = found["answers"].get("uncompressed @ 1")
    rows = [["uncompressed", interval(whole), "", ""]] if whole else []
    for name in names:
        own = [found["answers"].get(f"{name} @ {rate:g}") for rate in RATES]
        if any(own):
            rows.append([name, *(f"{interval(one)}, {one['count']} asked" if one else "" for one in own)])
    yield table(["method", *rates], rows)


def figures(tokens: dict[str, float]) -> list[str]:
    """Of token labels."""
    return [f"{tokens[name]:.3f}" for name in ("accuracy", "precision", "recall", "f1")]


def interval(share: dict[str, Any]) -> str:
    """A share with its interval."""
    return f"{share['mean']:.1%} ({share['low']:.0%} to {share['high']:.0%})"


if __name__ == "__main__":
    print("\n".join(section()))
