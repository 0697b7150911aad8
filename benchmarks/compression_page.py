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
pip install llmlingua==0.2.2 litellm    # litellm carries the tokens that the package counts by
TIKTOKEN_CACHE_DIR=.../site-packages/litellm/litellm_core_utils/tokenizers python benchmarks/llmlingua2_peer.py --data FOLDER
```
"""
TASKS = """### Problems and needles

SmolLM2-135M-Instruct reads what the compressors leave: 40 problems of GSM8K (test), where the reference solution is to stay likely, and
16 texts of 400 tokens (WikiText-2, test) with a seven-digit number in one sentence. The classifier is `zoo/tiny-llmlingua2`.

```
python benchmarks/compression_tasks.py gsm8k --data FOLDER
python benchmarks/compression_tasks.py needle --data FOLDER
```
"""
SOFT = """## Soft compression

### Recall behind vectors

Every compressor learns from the same 12,000 texts in as many steps (REFRAG: half of them with the decoder frozen, half with a
decoder of its own), for a small frozen decoder that finds everything in the text itself, and is asked on 512 new texts.
Mean pooling reads the layer from which it learns most. ARC's <Cont> is a position on top.

```
python benchmarks/arc_encoder_training.py tiny -o build/arc-encoder      # trains the decoder of the dictionaries
python benchmarks/soft_recall.py dictionaries --steps 600 --ratios 2,4,8
python benchmarks/soft_recall.py words --data FOLDER
```
"""
DICTIONARIES = """**Dictionaries**: eight random pairs in 16 tokens, then look-ups (chance of a value: 6 %):
"""
WORDS = """
**Words**: four pairs in 64 tokens of WikiText-2; all keys follow in another order, each with its value. Named: the likeliest token is
a word of the context that was not yet said.
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
READINGS: dict[str, str] = {
    "peer": """
**Reading.** Every result is the package's, field for field. Speed is another matter than hoped for: on one long text, whose chunks are
full anyway, nearly all the time is the encoder's, which both run over the same tokens; with float32 there is nothing to win but the
second tokenisation (1.05 to 1.3 times), and bfloat16 products give 1.6 times. Where texts are short or come as lists (contexts of a
retrieval), padding to 512, batches per text and a second pass over the kept contexts are what the package pays: 3 to 10 times. Memory is
flat: a text of 1.1 MB and one of 4.5 MB go through `compress_stream` with a peak of 3.6 MB of Python objects.
""",
    "llmlingua2": """
**Reading.** The claim's order shows: at a third of the tokens every answer is still there, against two thirds for the best self-information
and a third for chance, at a tenth of a language model's time. The small reader then gives 56 % right (the whole text: 67 %), chance 22 %, LLMLingua
31 %, Selective Context 44 to 53 %; the last is within the error at a third and behind at a fifth. An encoder that sees both sides of a word labels
better than the same one looking back only. The classifier was trained to keep exactly what is asked for here
(other names and values, other sentences), so the figures say what the pipeline can teach, not what it does to any text. A rule is the
teacher; GPT-4 or a 7 B model in its place is one argument (`--teacher MODEL`), and was not tried. The zoo's classifier (two layers, 5,600
pieces, 12 MB) loses 3 points at a fifth of the tokens.
""",
    "tasks": """
**Reading.** Neither task is what the classifier was trained on. The hidden number survives at every rate, and at a third of the tokens it is told
most often (56 %; truncation 38 %, chance 6 %, self-information 0 %); at 70 % self-information leaves a text that reads better, and all is told.
A number that survives is not always told: with the words around it gone, the small reader does not see that it is the secret one. Of a
problem's numbers most stay at half its tokens (self-information drops them), and `keep_digits` keeps all; but the solution's likelihood falls
under every compressor nearly alike: a grade-school problem holds few words that do not matter.
""",
    "recall": """
**Reading.** Without any context the decoder is right about 40 % of the values, since look-ups come again; what is above that was read from the
vectors. At two tokens per vector ARC-Encoder, REFRAG and ComprExIT hand on everything (99.9 to 100 %), mean pooling much (82 %). At four only
REFRAG, whose decoder learns to read, is above no context (69 %); the others have just begun to know the words, and at eight nobody has got
further in 600 steps.

ComprExIT needed two changes (ours, off by default): nearness in the cost of the plan (`--position 8`; the released code holds such a term, unused)
and a projector that begins larger (`--gain 1.5`). As published ("comprexit") it learns which words occur and stays there; its slots become one mean
of all. Either change alone does not help (600 steps: loss 2.29 and 2.22; together 1.42; mean pooling 1.77), nor do a smaller learning rate, one layer as the source,
or a plan five to ten times sharper. ARC's vectors had to begin as large as token embeddings (`--match-scale`, ours): as large as chance makes them, they
told the frozen decoder nothing for hundreds of steps. The authors train for tens of thousands.

On words in running text, after 1,000 steps, ARC is ahead of mean pooling in both columns, ComprExIT in nats (with nearness in neither), REFRAG in
words named only; no compressor keeps pairs bound yet.
""",
    "latency": """
**Reading.** Behind vectors the time falls as the layer-tokens do (at 8,000 tokens 7.7 times fewer layer-tokens), and by more, 16 to 17 times, where attention
over the context itself weighs in. Making the vectors costs up to a forward over the context: ARC and ComprExIT read it in pieces of 512, which
saves the attention (22 s of 52 at 8,000 tokens), mean pooling runs half of the layers over all of it; REFRAG's small encoder takes 3.5 s. So REFRAG wins
from the first question on, the others from the second or third. Keys and values from disk save nearly everything without any training,
at 46 kB per token.
""",
    "refrag": """
**Reading.** The policy learns salience: it expands the marked chunk every time. So does expanding the likeliest chunk, because the mark
is what the tiny decoder knows best; the paper's heuristic, the least likely chunk, never finds it. Behind MiniLM's vectors the frozen SmolLM2
is 0.6 nats below no context after 200 steps (the claim's direction; its 20 billion tokens are far away). Reconstruction on the
tiny decoder has hardly begun after 600 steps of the curriculum (12 % of one chunk, 8 % of eight), so whether the curriculum is what makes
it succeed cannot be told from this run.
""",
    "arc": """
**Reading.** The order of the claim shows on the dictionaries: no context, 8 tokens per vector, 4, the text itself; and the mix of repeating
and continuing closes more of the gap (27 %) than continuing alone (21 %) or repeating alone (15 %), which even copies less here. Two ablations do
not: an encoder that looks back only does as well as one that sees both ways (its model was trained that way, and 400 steps are few), and
last-token queries do worse than means. Half of the gap, as hoped for, is not closed in 400 steps.
""",
    "comprexit": """
**Reading.** Thirty steps, so this is where training begins and not what it reaches. What the slots give so far they would give for any text:
another context's slots do as well, which is prompt tuning and not compression. Without that control the row would read as 0.6
nats gained. Mean pooling of the middle layer learns faster. In `zoo/tiny-recall`, above, the same method is ahead of it.
""",
    "agentic-mi": """
**Reading.** On notes that differ in three facts the estimate tells what predictors will answer: over six compressors, accuracy and bits go together
at equal length (correlation +0.98 to +0.99), and which compressor wrote the text matters nearly three times as much for a right answer
as which predictor reads it: the claim's two halves, on models a tenth of the size. The larger Qwen is not the better compressor here: it writes
shorter and leaves facts out, and the bits say so before anybody answers. Bits *per token* order nothing in this set (R² 0.3): at three bits a
note, length decides the rate. When notes differed in most of their facts, every term was at the ceiling and the measure said nothing.
""",
}


def sections() -> Iterator[str]:
    """The markdown of what has results."""
    yield from peer(list(Store("llmlingua2-peer")))
    yield from llmlingua2_training_page.section()
    yield READINGS.get("llmlingua2", "")
    yield from tasks(list(Store("compression-tasks")))
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


def tasks(records: list[Record]) -> Iterator[str]:
    """Problems and needles."""
    if not records:
        return
    yield TASKS
    rows = []
    for method, rate in dict.fromkeys((r["key"]["method"], r["key"]["rate"]) for r in records):
        own = {r["key"]["task"]: r for r in records if (r["key"]["method"], r["key"]["rate"]) == (method, rate)}
        problem, hidden = own.get("gsm8k"), own.get("needle")
        rows.append(
            [method, f"{rate:.0%}"]
            + ([f"{problem['numbers_kept']:.0%}", f"{problem['nats']:.2f}"] if problem else ["", ""])
            + ([f"{hidden['survived']:.0%}", f"{hidden['answered']:.0%}"] if hidden else ["", ""])
        )
    head = [
        "method",
        "of the tokens",
        "GSM8K: numbers left",
        "nats per token of the solution",
        "needle left",
        "needle told",
    ]
    yield table(head, rows)
    yield READINGS["tasks"]


def recall(records: list[Record]) -> Iterator[str]:
    """Values found."""
    if not records:
        return
    yield SOFT
    for task, head in (("dictionaries", DICTIONARIES), ("words", WORDS)):
        own = [r for r in records if r["key"]["task"] == task]
        if not own:
            continue
        yield head
        rows = [
            [
                r["key"]["method"],
                str(r["key"]["ratio"] or ""),
                str(r["key"]["steps"] or ""),
                f"{r['positions']:.1f}",
                f"{r['values_right']:.1%}",
                f"{r['nats_of_values']:.2f}",
                f"{r['named']:.1%}",
                f"{r['nats']:.2f}",
            ]
            for r in sorted(own, key=lambda r: (r["key"]["ratio"], r["nats"]))
        ]
        columns = ["context as", "tokens per vector", "steps", "positions", "values right", "nats of a value"]
        yield table([*columns, "words named", "nats of a word"], rows)
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
