"""The reproduction page's sections on drafting, from `results/*.jsonl` and the zoo.

Figures come from there; the claims and the readings are written by hand.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markdown_table import table
from results_store import Store

from szilard.evaluation.spec_bench import CATEGORIES
from szilard.training.loop import read_metrics

ZOO = Path(__file__).parent.parent / "zoo" / "szilard_zoo"
Record = dict[str, Any]

CLAIM = """## Drafting

**Claims.** Spec-Bench (Xia et al. 2024, arXiv 2401.07851; Vicuna-7B, greedy, one A100): prompt lookup 1.75 tokens per pass,
1.66 times as fast as plain decoding; Medusa (arXiv 2401.10774) 2.31 and 1.71. ADED (arXiv 2407.12021): 1.8 to 2.5 times as fast
with a table counted on a corpus. Chimera (arXiv 2402.15758): 2.7 times. Hidden Transfer (arXiv 2404.12022): above Medusa.
FLASH (arXiv 2505.12728): up to 2.68 times on vision-language models. LUD (arXiv 2405.15208): a third faster at no loss on text, 30 % faster at 3 % loss on code. All on GPUs,
where a forward over 25 tokens costs what a forward over one costs.
"""
READINGS: dict[str, str] = {
    "SmolLM2-135M-Instruct, 1, 0, 48": (
        "One core of two, while another measurement ran on the other. A forward of this model over 2, 4, 8 and 24 tokens takes 1.3, 1.5, 1.7 and 2.5 forwards over one there "
        "(`szilard doctor --profile`; on both cores 1.2, 1.3, 1.5 and 2.1), so a drafter that settles 1.5 tokens per pass with three nodes breaks even. The "
        "trained ones do not reach that on these prompts: with the budget they rest most of the time and lose "
        "7 to 14 % to their first tries, which 48 tokens do not make up for. With whole trees (fixed: 25 nodes or so in every pass, counts alone) the published order shows: Medusa settles 1.48 tokens per pass, Chimera 1.57, FLASH 1.59, "
        "Hidden Transfer 1.79 (claimed above Medusa: it is, on every kind), ADED with a counted table 1.57 without any training; on word problems 2.3 to 2.7. Only prompt lookup on translations, which repeat themselves, and the trained heads on word "
        "problems, which they were trained on, are worth their time. Every text is that of plain decoding. The papers' factors are of GPUs, where a forward over 24 tokens costs one."
    ),
    "SmolLM2-135M-Instruct, 1, 0, 64": (
        "Prompt lookup is as fast as transformers' own at equal drafts (0.97 and 0.97). ADED, with a table counted on the 249,000 tokens of the drafters' training texts, is the only one above plain "
        "decoding on average (1.02), and 1.05 times as fast as transformers' prompt lookup; 1.15 times, which we had set ourselves, it is not: per pass prompt lookup settles more (1.46 against 1.37), "
        "since the budget lets ADED verify three nodes where prompt lookup verifies six."
    ),
    "SmolLM2-135M-Instruct, 1, 0, 40": (
        "Assisted generation with the model's own first ten layers as the draft model, ours and transformers': layers that were never trained to end there guess one token in twenty, so both run at a third of plain "
        "decoding's speed, and alike (0.29 and 0.32). A draft model with a budget would have rested; fixed makes the two comparable."
    ),
    "SmolLM2-135M-Instruct, 8, 0, 48": (
        "That drafts make a batch of eight faster, which we had set ourselves, does not show on this core. A forward over eight rows of one token takes 1.7 forwards over one token, over eight rows of two 2.1; rows that "
        "accept at different lengths have their caches moved, and a batch is done when its slowest row is: with 1.89 tokens per pass on translations prompt lookup is still slower. The budget counts the rows, "
        "and lets the trained drafters rest nearly always. (Of Chimera and FLASH the counts alone.)"
    ),
    "SmolLM2-135M-Instruct, 8, 1, 48": (
        "As above, with fewer guesses right. The texts are draws from the same distribution, not the same draws: rows of a batch share one stream of random numbers, and a drafter that settles two tokens takes "
        "two numbers for one row."
    ),
    "SmolLM2-135M-Instruct, 1, 1, 48": (
        "Sampled, fewer guesses are right, so drafts pay even less. Every text is what plain sampling writes under the same seed, which transformers' prompt lookup does not try to be."
    ),
    "qwen2.5-coder-1.5b-instruct-q4_k_m, 1, 0, 48": (
        "With four-bit weights a forward waits for arithmetic, not for memory: over 2, 3, 4 and 8 tokens it takes 1.9, 2.7, 3.4 and 8.1 forwards over one on this core. No draft can pay there, the budget "
        "knows it from the profile, and drafting costs 1 to 2 %."
    ),
    "qwen2.5-coder-1.5b-instruct-q4_k_m, 1, 1, 48": ("Sampled, the same: nothing is drafted, since nothing could pay."),
    "qwen2.5-coder-1.5b-instruct-q4_k_m, 8, 0, 48": (
        "In a batch of eight, too, the budget drafts hardly anything (two batches, so the speeds say little more than that). Three texts of 16 part from plain decoding's where two tokens are all but equally likely: the low bits of four-bit products depend on how many tokens a forward reads."
    ),
    "qwen2.5-coder-1.5b-instruct-q4_k_m, 1, 0, 64": (
        "The draft model has a third of the target's weights; drafts could not pay even if all of them were right, so it does not read the prompt at all. (Before it knew that, it was at 0.67.)"
    ),
    "adaptation": (
        "That the table adapts shows; that it keeps what it learned does so only in part. An empty table that learns what it sees settles 2.0 tokens per pass on the first 25 answers and 2.4 "
        "on the fourth 25; a table that was counted on a hundred word problems and stays as it is settles 1.7 to 1.8 on others, "
        "and 1.07 to 1.10 on programs, of which it knows nothing. At the change to programs the learning tables fall to 1.7, pass 2.0 within 25 "
        "answers and reach 2.5 after 175; back at word problems they settle 2.1 to 2.2, a little more than the empty one at its beginning (2.0) and clearly "
        "less than before they left (2.4; these problems are other ones, on which the table that does not learn loses up to a tenth, too). "
        "The head start of a counted table is all but gone after 75 answers. Reading whole prompts (ours) adds 6 to 12 % on word problems and 2 to 3 % on programs. "
        "Prompt lookup with drafts of ten tokens settles 1.8 to 2.2 and 1.4 to 1.6. Of these, ADED verifies up to 64 nodes per pass and prompt "
        "lookup up to ten: the counts are those of a machine on which a forward over 64 tokens costs what a forward over one costs."
    ),
    "lud": (
        "The shape of the claim shows, its numbers do not: the lower the threshold, the more tokens per pass and the less likely the text. After 600 steps of four texts the tuned 135 M model is rarely sure of a second token (held-out: right in 35 %): at the "
        "paper's 0.9 two spans of a hundred are longer than one, at 0.5 17 %, at 0.3 a third, and there the text is spoilt (1.81 nats per token in the place of 0.65). Beta of 0.98 writes the tuned model's text, and so does "
        "any threshold with the check (verified). Every forward reads four slots in the place of one, which costs half as much again on this core, so nothing is won in time; seconds were taken beside the test suite."
    ),
    "training": (
        "On held-out answers, after seven passes (Hidden Transfer: five): Medusa 2.06 tokens per pass (the first guess is right in 40 %, the second and third in 26 and "
        "20 %), FLASH 2.21 (47, 31, 22), Hidden Transfer 2.26 (48, 28, 19), Chimera 2.57 (53, 45, 44). That Hidden Transfer is above Medusa shows: both have 1.0 M parameters. "
        "FLASH and Chimera have 9.5 M, so that is no fair race. That Chimera's lead grows with the depth says less than it seems: its "
        "later guesses are counted behind the text's own earlier tokens, Medusa's whatever came before, and branches beside the best path "
        "are overrated by that. Of Medusa and Chimera other stretches of the same texts were trained on, of the other two whole texts were held out. The columns are of training batches and flatter by up to 0.8; the held-out texts come from the same kinds of "
        "prompts, and on the other kinds of Spec-Bench all four do worse (above)."
    ),
    "flash": (
        "The answers of this model follow a few patterns, so its drafts are good after two minutes of training, and the text "
        "is that of plain decoding in every call. Half of the claim shows: several tokens per forward of the drafter are what "
        "pays. K = 4 settles 4.24 tokens per pass (of at most 5) with 791 forwards of the drafter; a drafter trained for K = 1, run in five "
        "rounds along its best path, settles 4.69 (of at most 6) with 3,570, and is slower than plain decoding. The other half does not: how "
        "the picture is given to the drafter makes no difference (latents, means, every slot, or no picture at all: 4.19 to 4.28). The drafter "
        "reads the model's last hidden states, which already hold what the picture says; the latents save three quarters of the "
        "drafter's image slots for nothing lost, and leaving the picture out saves them all. The released head (attention alone) is "
        "worse by a third of a token. Trees that are grown from the drafter's own probabilities settle 0.31 tokens more than the "
        "published one, with 26 nodes read in the place of 24, and were not faster by the clock. Wall time: up to a tenth faster than plain decoding one by one; "
        "in batches of eight slower, since a forward over 8 x 24 nodes is no longer cheap on one core, where these were taken."
    ),
}


def sections() -> Iterator[str]:
    """The markdown of what has results."""
    parts = [*_spec_bench(), *_flash(), *_lud(), *_training(), *_adaptation()]
    if parts:
        yield CLAIM
        yield from parts


def _spec_bench() -> Iterator[str]:
    groups: dict[tuple[str, int, int, int], list[Record]] = defaultdict(list)
    for record in Store("speculative"):
        key = record["key"]
        groups[key["model"], key["batch"], key["temperature"], key["tokens"]].append(record)
    if not groups:
        return
    yield (
        "### Spec-Bench\n\n```\npython benchmarks/speculative_decoding.py smollm2 --data DATA\n"
        "python benchmarks/speculative_decoding.py qwen --data DATA --models MODELS\n```\n\n"
        "`--per-category`, `--methods` and `--tokens` choose less; what was chosen stands in the tables.\n"
    )
    yield (
        "Tokens per pass: what a forward of the target settles per row. Read: nodes per row and forward, the root included. "
        "Speed: tokens/s over those of plain decoding on the same prompt (or batch), median over prompts; all contestants "
        "answer a prompt before the next one comes; where there is none, counts were taken in a run of their own. By kind: tokens per pass, and speed.\n"
    )
    for (model, batch, temperature, new), records in groups.items():
        prompts = len({record["key"]["item"] for record in records}) * batch
        yield f"#### {model}, batch {batch}, T = {temperature}: {prompts} prompts, {new} new tokens\n"
        yield _table(records)
        name = f"{model}, {batch}, {temperature}, {new}"
        if name in READINGS:
            yield f"**Reading.** {READINGS[name]}\n"


def _table(records: Sequence[Record]) -> str:
    batch = records[0]["key"]["batch"]
    kinds = [kind for kind in CATEGORIES if any(record["category"] == kind for record in records)]
    rows = []
    plain = {record["key"]["item"]: record for record in records if record["key"]["method"] == "plain"}
    for method in dict.fromkeys(record["key"]["method"] for record in records):
        own = [record for record in records if record["key"]["method"] == method and record["key"]["item"] in plain]
        if method == "plain" or not own:
            continue
        cells = [_per_pass(own), _read(own), _places(own), _same(own, plain), _speed(own, plain)]
        for kind in kinds:
            some = [record for record in own if record["category"] == kind]
            cells.append(", ".join(part for part in (_per_pass(some), _speed(some, plain)) if part))
        name = method if len(own) == len(plain) else f"{method} ({len(own) * batch} prompts)"
        rows.append([name, *cells])
    return table(["method", "tokens per pass", "read", "kept 1 or more, 2, 3", "same text", "speed", *kinds], rows)


def _total(records: Sequence[Record], name: str) -> float:
    return sum(record["counters"].get(name, 0) for record in records)


def _per_pass(records: Sequence[Record]) -> str:
    steps = _total(records, "row_steps")
    return f"{1 + _total(records, 'accepted') / steps:.2f}" if steps else ""


def _read(records: Sequence[Record]) -> str:
    steps = _total(records, "row_steps")
    return f"{_total(records, 'nodes_verified') / steps:.1f}" if steps else ""


def _places(records: Sequence[Record]) -> str:
    steps = _total(records, "row_steps")
    if not steps:
        return ""
    return ", ".join(f"{_total(records, f'accepted_{place}') / steps:.0%}" for place in (1, 2, 3))


def _same(records: Sequence[Record], plain: dict[str, Record]) -> str:
    pairs = [pair for r in records for pair in zip(r["texts"], plain[r["key"]["item"]]["texts"], strict=True)]
    return f"{sum(mine == base for mine, base in pairs)} of {len(pairs)}"


def _speed(records: Sequence[Record], plain: dict[str, Record]) -> str:
    ratios = []
    for record in records:
        base = plain[record["key"]["item"]]
        if record["seconds"] is None:
            continue
        ratios.append(record["tokens"] / record["seconds"] / (base["tokens"] / base["seconds"]))
    return f"{statistics.median(ratios):.2f}x" if ratios else ""


def _flash() -> Iterator[str]:
    """Flash on pictures."""
    records = list(Store("flash-vision"))
    if not records:
        return
    yield (
        "### FLASH on pictures: `zoo/tiny-vlm`\n\n```\npython benchmarks/flash_vision.py\n```\n\n"
        f"{records[0]['key']['scenes']} held-out scenes, a question each, answers with their chain of thought; every drafter is "
        f"trained for {records[0]['key']['steps']} steps on 2,000 answers of the model to training scenes (64 image slots per "
        "picture; trees of 25 nodes, cut to the depth). Speed: seconds of plain decoding over seconds, median over calls. Every "
        "text is compared with that of plain decoding.\n"
    )
    for size in dict.fromkeys(record["key"]["batch"] for record in records):
        rows = []
        for record in records:
            if record["key"]["batch"] != size:
                continue
            counts = record["counters"]
            cells = [_per_pass([record]), _read([record]), _places([record])]
            cells += [f"{counts.get('draft_forwards', 0):.0f}", f"{counts.get('draft_slots_saved', 0):.0f}"]
            cells += [f"{record['same_text']} of {record['key']['scenes']}", f"{record['speed']:.2f}x"]
            rows.append([record["key"]["method"], *cells])
        columns = ("tokens per pass", "read", "kept 1 or more, 2, 3", "forwards of the drafter", "image slots saved")
        yield table((f"batch {size}", *columns, "same text", "speed"), rows)
    if "flash" in READINGS:
        yield f"**Reading.** {READINGS['flash']}\n"


def _lud() -> Iterator[str]:
    """LUD's quality against its speed."""
    records = list(Store("lud-quality"))
    if not records:
        return
    key = records[0]["key"]
    yield (
        f"### Lexical units: quality against speed\n\n```\npython benchmarks/lud_quality.py --data DATA\n```\n\n"
        f"{key['prompts']} prompts of Spec-Bench in batches of {key['batch']}, up to {key['tokens']} new tokens, `zoo/{key['adapter']}`. "
        "Nats: what the model as it is gives the text, per token. Same: texts that are those of the tuned model one token at a "
        "time, and the share of its tokens up to the first other one. Read: slots per row and forward. Speed: its seconds "
        "over these, median over batches.\n"
    )
    rows = []
    for record in records:
        counts = record["counters"]
        steps = counts.get("row_steps", 0)
        spans = ", ".join(f"{counts.get(f'span_{length}', 0) / steps:.0%}" for length in (1, 2, 3, 4)) if steps else ""
        read = f"{counts['slots'] / steps:.1f}" if steps and "slots" in counts else ""
        same = f"{record['same']}, {record['shared']:.0%}"
        measured = (f"{record['nats']:.3f}", same, f"{record['speed']:.2f}x")
        rows.append((record["key"]["method"], _per_pass([record]), read, spans, *measured))
    yield table(("", "tokens per pass", "read", "spans of 1, 2, 3, 4", "nats", "same", "speed"), rows)
    if "lud" in READINGS:
        yield f"**Reading.** {READINGS['lud']}\n"


def _training() -> Iterator[str]:
    """Acceptance while the zoo's drafters learned."""
    runs = {file.parent.name: read_metrics(file) for file in sorted(ZOO.glob("*/metrics.jsonl"))}
    runs = {name: rows for name, rows in runs.items() if rows and "tokens_per_pass" in rows[-1]}
    if not runs:
        return
    yield (
        "### What training buys\n\n```\nmake zoo-drafters DATA=folder\n```\n\nDrafters of the zoo, trained on "
        "one CPU core on a thousand answers of SmolLM2-135M-Instruct itself, or two thousand of the tiny vision-language model: "
        "tokens per target pass of the published tree on the training batches (teacher-forced, 50 steps averaged), by optimiser steps.\n"
    )
    steps = (10, 50, 100, 200, 400, 600, 800, 1000, 1200, 1500)
    rows = []
    for name, metrics in runs.items():
        cells = [name]
        for step in steps:
            near = [row["tokens_per_pass"] for row in metrics if step - 50 < row["step"] <= step]
            cells.append(f"{statistics.fmean(near):.2f}" if near and metrics[-1]["step"] >= step else "")
        rows.append(cells)
    yield table(["drafter", *map(str, steps)], rows)
    if "training" in READINGS:
        yield f"**Reading.** {READINGS['training']}\n"


def _adaptation() -> Iterator[str]:
    """ADED's table as it learns."""
    records = list(Store("aded-adaptation"))
    if not records:
        return
    yield (
        "### ADED's table as it learns\n\n```\npython benchmarks/aded_adaptation.py --answers build/drafters/answers.jsonl "
        "--data DATA\n```\n\nTokens per target pass, 25 answers of SmolLM2-135M-Instruct a column, replayed in turn: word problems, "
        "programs, word problems again (best-first trees of at most 64 nodes).\n"
    )
    tables = list(dict.fromkeys(record["key"]["table"] for record in records))
    columns = [r for r in records if r["key"]["table"] == tables[0]]
    names = [f"{record['key']['kind']} {record['key']['first'] + 1}" for record in columns]
    rows = []
    for kind in tables:
        own = [r for r in records if r["key"]["table"] == kind]
        rows.append([kind, *(f"{r['tokens'] / r['passes']:.2f}" for r in own)])
    yield table(["table", *names], rows)
    if "adaptation" in READINGS:
        yield f"**Reading.** {READINGS['adaptation']}\n"
