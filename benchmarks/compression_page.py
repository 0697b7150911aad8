"""The reproduction page's sections on contexts in fewer tokens or positions, from `results/*.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import agentic_mi_page
import llmlingua2_training_page
from markdown_table import table
from results_store import Store

Record = dict[str, Any]
PEER = """## LLMLingua-2

### Beside the released package

The PyPI package `llmlingua` 0.2.2 on the same checkpoints (random weights in the shape of multilingual BERT and of
XLM-RoBERTa; MiniLM with a random head), on prompts of GSM8K, Spec-Bench, MBPP, TruthfulQA and WikiText-2. `compat=True`
does what the released code does, its slips included; the settings cover rates and numbers of tokens, first token or mean,
forced marks and words, digits, repeated marks, ends of chunks, the filter of whole contexts, labels and `recover`.

```
python benchmarks/llmlingua2_peer.py --data FOLDER     # needs pip install llmlingua==0.2.2 litellm
```
"""
SOFT = """## Soft compression

### Recall behind vectors

Four pairs of words stand in 64 tokens of running text (WikiText-2); behind the context, all four keys stand in another order,
each with its value. Named: the likeliest token is one of the context's eight words that was not yet said; a value is right
if it is the likeliest after its key, for which the two must have stayed bound. The decoder is `zoo/tiny-recall`, which finds all of them in the
text itself. Every compressor learns from the same 12,000 texts in as many steps (REFRAG: half of them frozen, half with its
decoder), and is asked on 512 texts of another part. Mean pooling reads the layer from which it learns most.

```
python benchmarks/soft_recall.py --data FOLDER
```
"""
REFRAG = """## REFRAG

**Claim** (Lin et al. 2025, arXiv 2509.01092). A context in one vector per 16 tokens keeps nearly the log-perplexity of the
whole one (Arxiv 1.076 against 1.069; none: 1.254), with the curriculum only: reconstruction without it ends above the
bound without context. The policy beats random and perplexity at every rate.

```
python benchmarks/refrag_training.py curriculum|policy|real -o build/refrag [--data FOLDER --encoder FOLDER]
```
"""
ARC = """## ARC-Encoder

**Claim** (Pilchen, Grave, Perez 2025, arXiv 2510.20535). A fifth of the batches repeating the context and the rest
continuing it is best (average of six tasks 41.6 of 41.7; continuing alone 39.8, repeating alone 37.5); seeing both ways is
a little better than looking back (41.7 against 41.3), means and last tokens are alike (41.7, 42.1).

```
python benchmarks/arc_encoder_training.py tiny|real -o build/arc-encoder [--data FOLDER]
```
"""
COMPREXIT = """## ComprExIT

**Claim** (Ye et al. 2026, arXiv 2602.03784). At 4 tokens per slot, Llama-3.2-1B answers 52.3 % of six question sets (prompt
tuning on the whole context 55.7, ICAE 44.2, no context 4.9); one layer as the source costs 3 to 22 points of F1, attention
in the place of transport 4.6.

```
python benchmarks/comprexit_training.py --data FOLDER -o build/comprexit
```
"""
LATENCY = """### The first token

SmolLM2-135M-Instruct on {threads} of this machine's cores; the context as it is, and as vectors (one per {ratio} tokens). "Made" is
what making the vectors takes, once per document; "then" is a prompt about them. Add-ons have their shape and are not
trained, which time does not depend on. Layer-tokens: tokens through a layer of SmolLM2 (REFRAG's encoder is another model).

```
python benchmarks/soft_latency.py --data FOLDER
```
"""
READINGS: dict[str, str] = {}


def sections() -> Iterator[str]:
    """The markdown of what has results."""
    yield from peer(list(Store("llmlingua2-peer")))
    yield from llmlingua2_training_page.section()
    yield READINGS.get("llmlingua2", "")
    yield from recall(list(Store("soft_recall")))
    yield from latency(list(Store("soft-latency")))
    yield from refrag(list(Store("refrag")))
    yield from arc(list(Store("arc_encoder_training")))
    yield from comprexit(list(Store("comprexit")))
    yield from agentic_mi_page.sections()
    yield READINGS.get("agentic-mi", "")


def peer(records: list[Record]) -> Iterator[str]:
    """Agreement and speed."""
    agreement = [r for r in records if r["key"]["part"] == "agreement"]
    if not agreement:
        return
    yield PEER
    rows = []
    for name in dict.fromkeys(r["key"]["checkpoint"] for r in agreement):
        own = [r for r in agreement if r["key"]["checkpoint"] == name]
        runs = sum(r["key"]["inputs"] for r in own)
        same, words = sum(r["same result"] for r in own), sum(r.get("words", 0) for r in own)
        rows.append([name, str(len(own)), f"{runs:,}", f"{words:,}", f"{same:,} ({same / runs:.1%})"])
    yield table(["checkpoint", "settings", "prompts x settings", "words judged", "the same result"], rows)
    speed = [r for r in records if r["key"]["part"] == "speed"]
    if speed:
        yield "\nProcessor seconds of one thread, medians; in parentheses how many times as fast as the package:\n"
        names = list(speed[-1]["processor_seconds"])
        rows = [
            [r["key"]["checkpoint"], f"{r['key']['inputs']}, {r['key']['words']:,} words"]
            + [
                f"{r['processor_seconds'][n]:.2f} ({r['times_as_fast'][n]:.1f}x)" if n in r["processor_seconds"] else ""
                for n in names
            ]
            for r in speed
        ]
        yield table(["checkpoint", "input", *names], rows)
    yield READINGS.get("peer", "")


def recall(records: list[Record]) -> Iterator[str]:
    """Values found."""
    if not records:
        return
    yield SOFT
    rows = [
        [
            r["key"]["method"],
            str(r["key"]["steps"] or ""),
            f"{r['positions']:.1f}" if "positions" in r else "64",
            f"{r['named']:.1%}",
            f"{r['nats']:.2f}",
            f"{r['values_right']:.1%}",
            f"{r['nats_of_values']:.2f}",
        ]
        for r in sorted(records, key=lambda r: (r["key"]["ratio"], r["nats"]))
    ]
    yield table(
        ["context as", "steps", "positions", "words named", "nats of a word", "values right", "nats of a value"], rows
    )
    yield READINGS.get("recall", "")


def latency(records: list[Record]) -> Iterator[str]:
    """Time to the first token."""
    if not records:
        return
    key = records[0]["key"]
    yield LATENCY.format(threads=key["threads"], ratio=key["ratio"])
    rows = []
    for length in dict.fromkeys(r["key"]["context"] for r in records):
        own = [r for r in records if r["key"]["context"] == length]
        (whole,) = [r for r in own if r["key"]["method"] == "the context itself"]
        for r in own:
            name = r["key"]["method"]
            made, layers = r.get("compressing_seconds"), r.get("encoder_layer_tokens")
            times = (
                f"{whole['seconds'] / r['seconds']:.1f}x ({whole['layer_tokens'] / r['layer_tokens']:.1f}x)"
                if r is not whole
                else ""
            )
            rows.append(
                [
                    f"{r['tokens']:,}",
                    name,
                    f"{r['positions']:,}",
                    "" if made is None else f"{made:.1f} s",
                    "" if layers is None else f"{layers:,.0f}",
                    f"{r['seconds']:.2f} s",
                    f"{r['layer_tokens']:,}",
                    times,
                ]
            )
            if "stored_seconds" in r:
                times = (
                    f"{whole['seconds'] / r['stored_seconds']:.1f}x "
                    f"({whole['layer_tokens'] / r['stored_layer_tokens']:.1f}x)"
                )
                rows.append(
                    [
                        f"{r['tokens']:,}",
                        f"its keys and values from disk ({r['stored_bytes'] / 1e6:.0f} MB)",
                        f"{r['positions']:,}",
                        "",
                        "",
                        f"{r['stored_seconds']:.2f} s",
                        f"{r['stored_layer_tokens']:,}",
                        times,
                    ]
                )
    head = [
        "tokens",
        "context as",
        "positions",
        "made in",
        "layer-tokens",
        "then",
        "layer-tokens",
        "times as fast (layer-tokens)",
    ]
    yield table(head, rows)
    yield READINGS.get("latency", "")


def refrag(records: list[Record]) -> Iterator[str]:
    """Curriculum, policy, SmolLM2."""
    if not records:
        return
    yield REFRAG
    by = {part: [r for r in records if r["key"]["part"] == part] for part in ("curriculum", "policy", "real")}
    if by["curriculum"]:
        yield "A tiny frozen decoder writes contexts of 4 to 32 tokens again from vectors of 4 tokens each, with as many steps:\n"
        lengths = sorted({int(n.rpartition("_")[2]) for r in by["curriculum"] for n in r if n.startswith("right_")})
        rows = [
            ["with" if r["key"]["curriculum"] else "without", str(r["key"]["steps"])]
            + [f"{r[f'right_{n}']:.0%}" for n in lengths]
            + [f"{r['nll']:.2f}", f"{r['no_context']:.2f}"]
            for r in by["curriculum"]
        ]
        columns = [f"right, {n} chunk{'s' * (n > 1)}" for n in lengths]
        yield table(["curriculum", "steps", *columns, "nats per token", "without context"], rows)
    if by["policy"]:
        yield "\nOne of eight chunks carries a mark, and is asked for; one may stay tokens (500 new contexts, chance 12.5 %):\n"
        rows = [
            [name.replace("_", "-"), f"{r[f'picked_{name}']:.1%}", f"{r[f'nll_{name}']:.3f}"]
            for r in by["policy"]
            for name in ("learned", "perplexity", "perplexity_asc", "random")
        ]
        yield table(["policy", "marked chunk picked", "nats of the answer"], rows)
    if by["real"]:
        yield "\nSmolLM2-135M, frozen, writes WikiText-2 again from vectors of MiniLM (stage 1), nats per token of held-out text:\n"
        rows = [
            [
                str(r["key"]["chunk"]),
                str(r["key"]["steps"]),
                f"{r['nll']:.2f}",
                f"{r['no_context']:.2f}",
                f"{r['full_context']:.2f}",
            ]
            for r in by["real"]
        ]
        yield table(["tokens per vector", "steps", "behind vectors", "without context", "behind the text"], rows)
    yield READINGS.get("refrag", "")


def arc(records: list[Record]) -> Iterator[str]:
    """Arms of the tiny model, and SmolLM2."""
    if not records:
        return
    yield ARC
    columns = ["arm", "steps", "behind vectors", "behind nothing", "behind the text", "gap closed", "copied"]

    def row(r: Record, name: str) -> list[str]:
        figures = [f"{r[n]:.2f}" for n in ("nll", "nll_without", "nll_full")]
        return [name, str(r["key"]["steps"]), *figures, f"{r['closed']:.0%}", f"{r['copied']:.0%}"]

    tiny = [r for r in records if r["key"]["experiment"] == "tiny"]
    if tiny:
        yield "A language model of 4 layers, trained on dictionaries with look-ups, is encoder and frozen decoder; nats per token:\n"
        yield table(columns, [row(r, r["key"]["arm"]) for r in tiny])
    real = [r for r in records if r["key"]["experiment"] == "real"]
    if real:
        yield "\nSmolLM2-135M without its last two layers as encoder, SmolLM2-135M frozen as decoder, 64 + 64 tokens of WikiText-2:\n"
        yield table(columns, [row(r, f"x = {r['key']['factor']}") for r in real])
    yield READINGS.get("arc", "")


def comprexit(records: list[Record]) -> Iterator[str]:
    """Variants on SmolLM2."""
    if not records:
        return
    yield COMPREXIT
    yield "SmolLM2-135M, contexts of 64 tokens in 16 slots, the 16 tokens of WikiText-2 behind them; nats per token:\n"
    rows = [
        [name, str(r["key"]["steps"]), f"{v['nats']:.2f} ± {v['error']:.2f}"]
        for r in records
        for name, v in r["variants"].items()
    ]
    yield table(["behind", "steps", "nats"], rows)
    yield READINGS.get("comprexit", "")
