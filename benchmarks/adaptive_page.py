"""The reproduction page's sections on adaptive decoding, from the Parquet stores `results/ead` and so on.

Figures come from the store; the claims and the readings are written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from markdown_table import table
from results_store import FOLDER

from szilard.evaluation.report import summarise
from szilard.evaluation.store import ResultStore

Record = dict[str, Any]

COMMANDS = {  # a part's runs: what stands below, and as much of it
    "ead": ("ead --tasks humaneval", "ead --tasks gsm8k --limit 200"),
    "adadec": ("adadec",),
    "caad": ("caad",),
    "latent": ("latent --limit 48",),
}
EAD_CLAIM = """## EAD

**Claim** (Simonds 2025, arXiv 2502.06833). Switching between a small and a large model by the rolling entropy keeps 93 to
97 % of the large model's accuracy on MATH while the large model writes 25 to 43 % of the tokens (Llama 3B/11B: 50.4 against
52.1 %; Qwen2.5 1.5B/14B: 74.3 against 80.0 %). There was no control; here three thresholds have one: switching at random
with the same rates.
"""
ADADEC_CLAIM = """## AdaDec

**Claim** (He et al. 2025, arXiv 2506.08980). Pausing at about 7 % of the steps, where the entropy reaches a learned threshold,
and re-ranking three candidates by a short lookahead gains up to 15.5 points of pass@1 over greedy decoding (models of 0.5 to
1.5 B: about 3.7 and 7.3), at or above beam search for less work.
"""
CAAD_CLAIM = """## CAAD

**Claim** (Nguyen, Gupta, Le 2025, arXiv 2508.02184). Adding the model's own logits from contexts of verified answers makes
open answers more truthful: +2.8 % on TruthfulQA on average, with Qwen2.5-Instruct 3B to 14B and a judge. No judge runs here:
the measures are the likelihoods of right and wrong answers (MC1, MC2, MC3, and the margin in nats between the best right and
the best wrong one) and the similarity of what is written to right and wrong answers. Ten questions (every 40th of the first
400) ground the method; asked is every sixth of the other 417. The control keeps the contexts and shuffles which logits belong to them.
"""
LATENT_CLAIM = """## Latent thinking on GSM8K

**Claim.** LEAD, Soft Thinking (arXiv 2505.15778) and SwiReasoning are made for reasoning models of 7 B and more, and gain one
to three points there. The model here is a 1.5 B coder that never learned to think in marked stretches, so no marker ends the
latent phase: what is tried is whether mixtures help or hurt a small model that was not made for them.
"""
READINGS: dict[str, str] = {
    "ead": (
        "On HumanEval the curve of the paper shows: the more the large model writes, the higher the score; with 42 % of "
        "the tokens EAD reaches 97 % of the large model's score, with 55 % it lies above it (within the noise of 164 "
        "problems). Two things do not show. (1) That *entropy* is what matters: random switching at the same rates, and "
        "so at the same shares, is beaten by 3.0 and 3.7 points at thresholds 0.2 and 1.0 and wins by 1.8 at 0.5: 1.6 on "
        "average, and no difference is certain with 164 problems. Here it helps *that* the large model writes; that it "
        "helps more *where* the entropy is high is likely at best. (2) That it "
        "is cheap: the prompts are longer than the answers, both models read them, and a model that takes over reads "
        "what the other wrote. Above a fifth of the tokens EAD computes more than the large model alone, although the "
        "paper's cost measure says 40 to 60 % of it; what EAD can save is sequential steps of the large model on long "
        "answers. "
        "On word problems (GSM8K, the first 200) the curve fails. The large model solves 34.5 points more than the small one, "
        "and EAD stays far below it at every threshold: 15 points with 57 % of the tokens, 23.5 with 46 %, 27 with 29 % "
        "(p < 0.001 each). Random switching at the same rates does better at all three thresholds that have it (by 2.0, 5.5 "
        "and 5.5 points; none of them is certain alone): the entropy chooses at best no better places than chance. "
        "A look at where the small model is uncertain says why: over twelve of its answers the entropy is 0.73 bits "
        "at the first token of a sentence or line, 0.43 at words, and 0.14 at digits; at the threshold of 0.5 bits it hands over half of the sentences' beginnings and one digit in eleven. It is unsure how "
        "to go on, and sure of its wrong numbers, so the large model gets to phrase what the small one then miscalculates. "
        "tokens/s were taken on a machine that was busy, in batches of eight, half of GSM8K's in batches of up to twenty "
        "(the low bits of quantised models depend on that): compare counts, not these. (In the rows of EAD and "
        "of the large model alone the option that names the large model was completed with its fingerprint after the run, "
        "when results began to keep it; nothing else in them was touched.)"
    ),
    "adadec": (
        "On HumanEval the claim shows. The large model gains 11.0 points over greedy decoding on all 164 problems (20 won, 2 "
        "lost, p < 0.001; the paper's models of this size gain 7.3), pausing at 5.3 % of the steps, for a fifth more computing. "
        "Pausing at random a little more often (5.9 %) gains 1.8, so it matters where it pauses. "
        "What is won is worth a look: 24 of greedy decoding's answers are the stub `# Your code here` and `pass`, into which "
        "a chat model falls when it only continues a file; seven of AdaDec's are. 13 of the 20 are these, the other seven "
        "against two are changed programs. The small model, which rarely writes the stub, gains 4.9 points (14 "
        "won, 6 lost, p = 0.12; the paper's smallest 3.7). What does not show is that it is at or above beam search: beams of "
        "three solve 3.7 points more than AdaDec with the large model and 8.5 with the small one, beams of five 5.5 and "
        "10.4 (with the small one p < 0.01). They do compute more: half as much again with three beams, twice as much with five. On MBPP, whose prompts hold the "
        "tests, nothing is gained: the small model solves 38.5 % of 200 problems with AdaDec as without (13 won, 13 lost), the large one "
        "54.5 % in the place of 53.5 (11 won, 9 lost), and random pauses change nothing. Beams of three gain 2.0 and 3.0 points there, "
        "beams of five lose 1.0 and gain 4.5, none of it certain. The premise "
        "holds: above the threshold the true token is first in three places of ten and second or third in another three, "
        "below it first in more than eight of ten. A first run had AdaDec six points below greedy decoding on MBPP with the large model. It "
        "was a fault of ours: a quarter of the answers went on behind the end that the model had written (`<|endoftext|>`), and a "
        "method that pauses wherever the model is unsure is hurt most by that. The engine ends there now, and the answers "
        "in question (112 of AdaDec's table, twelve of EAD's: code tasks whose text holds fewer tokens than were written) were asked again, "
        "in batches of their own; the low bits of quantised models depend on the batch, so this is not quite one uninterrupted run."
    ),
    "latent": (
        "Mixtures neither help nor hurt: the seven methods lie between 50.0 and 56.2 % of 48 problems, no two of them apart by "
        "more than three problems, and no difference is certain. Soft Thinking, which stays in mixtures for the whole answer "
        "here (no marker ends its thinking), is the best of them by one to three problems and the shortest by 2 %; LEAD "
        "and SwiReasoning write almost what greedy decoding writes. The gain of the papers (one to three points, on "
        "reasoning models five times as large) would not be seen with so few problems, and the harm that mixtures do to "
        "SmolLM2 (above) does not show at 1.5 B. A first try with 320 new tokens was useless: nearly every answer was cut "
        "off; with 512 one in a hundred is."
    ),
    "caad": (
        "Here the claim does not show, and the first column says why. At the paper's similarity threshold of 0.7 no "
        "position of a given answer, and 8 % of the positions of a written one (mostly the words of the chat template at "
        "its beginning), comes near a context of the ten grounding questions: likelihoods are those of greedy decoding, "
        "and of the ten scores that change five are won and five lost. At 0.5 it is the same with 2 and 19 %. At 0.3 about "
        "half of the positions have neighbours; then the method acts, but not towards the truth: 3.2 points of MC2 and 8.6 "
        "points of the ROUGE-L score are lost, and the control with shuffled logits does better than the method (both "
        "within the noise of 70 questions). What is added there is what often stands in such places, whatever was asked. "
        "The model is a coder of 1.5 B; the paper's smallest is a general one of 3 B, with up to a hundred questions."
    ),
}


def sections() -> Iterator[str]:
    """The markdown of every part that has results."""
    yield from _part("ead", EAD_CLAIM, _EAD_COLUMNS, after=_controls())
    yield from _part("adadec", ADADEC_CLAIM, _ADADEC_COLUMNS, after=_thresholds())
    yield from _part("caad", CAAD_CLAIM, _CAAD_COLUMNS)
    yield from _part("latent", LATENT_CLAIM, _COMMON_COLUMNS)


def _part(name: str, claim: str, columns: dict[str, Callable[[Record], str]], *, after: str = "") -> Iterator[str]:
    own = summarise(ResultStore(FOLDER / name).table())
    if not own:
        return
    yield claim
    runs = [f"python benchmarks/adaptive_decoding.py {run} --models MODELS --data DATA" for run in COMMANDS[name]]
    yield "\n".join(["```", *runs, "make reproduction", "```\n"])
    for task, model in dict.fromkeys((record["task"], record["model"]) for record in own):
        group = [record for record in own if (record["task"], record["model"]) == (task, model)]
        group.sort(key=lambda record: (record["method"] != "greedy", record["tflops"]))
        yield f"### {task}, {model}, {max(record['items'] for record in group)} items\n"
        most = group[0]["items"]
        names = [r["method"] + ("" if r["items"] == most else f" ({r['items']} items)") for r in group]
        yield table(
            ["method", *columns],
            ([name, *(cell(r) for cell in columns.values())] for name, r in zip(names, group, strict=True)),
        )
    if after:
        yield after
    if name in READINGS:
        yield f"**Reading.** {READINGS[name]}\n"


def _controls() -> str:
    """Each threshold against random switching with its rates, and against the large model, on the same items."""
    results = ResultStore(FOLDER / "ead").table()
    rows = []
    for reference in ("random", "large-alone"):
        for threshold in ("0.05", "0.2", "0.5", "1.0", "1.5"):
            baseline = f"random-{threshold}" if reference == "random" else reference
            for r in summarise(results, baseline=baseline):
                if r["method"] == f"ead-{threshold}" and r["difference"] == r["difference"]:
                    counts = (str(r["compared"]), f"{100 * r['difference']:+.1f}", str(r["wins"]), str(r["losses"]))
                    rows.append((r["task"], r["method"], baseline, *counts, f"{r['p_value']:.2f}"))
    if not rows:
        return ""
    return (
        "The same items, answer by answer: entropy against chance at the same switching rates, and against the large "
        "model alone (points; items won and lost; sign test).\n\n"
        + table(("task", "method", "against", "items", "difference", "won", "lost", "p"), rows)
    )


def _thresholds() -> str:
    """What `szilard train adadec` learned: the premise of the method."""
    fits = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(FOLDER).glob("adadec-*.json"))]
    if not fits:
        return ""
    columns: dict[str, Callable[[Record], str]] = {
        "model": lambda fit: fit["model"],
        "threshold, nats": lambda fit: f"{fit['threshold']:.3f}",
        "positions": lambda fit: str(fit["positions"]),
        "above it": lambda fit: f"{fit['above']['share']:.1%}",
        "rank 1 below": lambda fit: f"{fit['above']['first_below']:.1%}",
        "rank 1 above": lambda fit: f"{fit['above']['first_above']:.1%}",
        "rank 2 or 3 above": lambda fit: f"{fit['above']['first_three_above'] - fit['above']['first_above']:.1%}",
        "Spearman(H, rank)": lambda fit: f"{fit['spearman']:.2f}",
    }
    return (
        "The premise, on the training split of MBPP (reference solutions, teacher-forced): how often the true token is the "
        "model's first choice (rank 1) or among its first three, below and above the learned threshold.\n\n"
        + table(columns, ([cell(fit) for cell in columns.values()] for fit in fits))
    )


def _score(record: Record) -> str:
    return f"{record['score']:.1%} ({record['low']:.1%} to {record['high']:.1%})"


def _against(record: Record) -> str:
    if record["method"] == "greedy" or record["difference"] != record["difference"]:
        return ""
    return f"{100 * record['difference']:+.1f} ({record['wins']} won, {record['losses']} lost, p = {record['p_value']:.2f})"


def _counter(name: str, form: str = ".1%") -> Callable[[Record], str]:
    return lambda record: format(record["counters"][name], form) if name in record["counters"] else ""


def _metric(name: str, form: str = ".3f") -> Callable[[Record], str]:
    return lambda record: format(record["metrics"][name], form) if name in record["metrics"] else ""


def _share(record: Record) -> float:
    """Of all written tokens, those by the large model."""
    return record["counters"]["large_tokens_written"] / record["tokens"]


def _written(record: Record) -> str:
    return f"{_share(record):.1%}" if "large_tokens_written" in record["counters"] else ""


def _paper_cost(record: Record) -> str:
    """P / P_large of the paper: s + (1 - s) small / large."""
    if "large_tokens_written" not in record["counters"]:
        return ""
    share, cost = (record["counters"][name] for name in ("large_share", "relative_cost"))
    ratio = (cost - share) / (1 - share) if share < 1 else 0.0
    return f"{_share(record) + (1 - _share(record)) * ratio:.3f}"


def _large(record: Record) -> str:
    read = [count for name, count in record["model_tokens"].items() if name.endswith("(large)")]
    return f"{sum(read):.0f}" if read else ""


def _ratio(counters: dict[str, float], part: str, whole: str) -> str:
    return f"{counters.get(part, 0) / counters[whole]:.1%}" if counters.get(whole) else ""


def _paused(record: Record) -> str:
    return _ratio(record["counters"], "pauses", "steps")


_COMMON_COLUMNS: dict[str, Callable[[Record], str]] = {
    "score (95 %)": _score,
    "against greedy, points": _against,
    "tokens": lambda r: f"{r['tokens']:.0f}",
    "TFLOP": lambda r: f"{r['tflops']:.3f}",
    "tokens/s": lambda r: f"{r['tokens_per_second']:.1f}",
}
_EAD_COLUMNS = _COMMON_COLUMNS | {
    "written by the large model": _written,
    "cost as in the paper": _paper_cost,
    "read by the large model": _large,
    "catch-up tokens": _counter("catch_up_tokens", ".1f"),
    "switches": _counter("switches", ".2f"),
}
_ADADEC_COLUMNS = _COMMON_COLUMNS | {"paused steps": _paused, "changed tokens": _counter("changed", ".2f")}
_CAAD_COLUMNS = {
    "positions with neighbours": lambda r: _ratio(r["counters"], "with_neighbours", "positions"),
    "score (95 %)": _score,
    "against greedy, points": _against,
    "MC1": _metric("mc1", ".1%"),
    "MC2": _metric("mc2", ".1%"),
    "MC3": _metric("mc3", ".1%"),
    "margin, nats": _metric("margin"),
    "BLEU diff.": _metric("bleu_diff"),
    "ROUGE-1 diff.": _metric("rouge1_diff"),
    "ROUGE-L diff.": _metric("rougeL_diff"),
    "tokens": lambda r: f"{r['tokens']:.0f}",
    "seconds": lambda r: f"{r['seconds']:.1f}",
}
