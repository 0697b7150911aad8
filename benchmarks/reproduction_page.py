"""Write docs/reproduction.md from the results store: every measured figure in its tables and lists comes from there.

The paragraphs that state a paper's claim and that read the tables are written by hand, here.

python benchmarks/reproduction_page.py
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import adaptive_page as adaptive
import attention_page as attention
import codecs_page as codecs
import compression_page as compression
import diffusion_page as diffusion
import edt
import entropy_guided_attention_page as entropy_guided_attention
import feds_page as feds
import hyperfitting_page as hyperfitting
import koopman_page as koopman
import ladir_page as ladir
import latent_sft_page as latent_sft
import lv_rae_page as lv_rae
import markov_lm_page as markov_lm
import outcomes
import qlae_page as qlae
import sae_page as sae
import serve_page as serve
import speculative_page as speculative
import training_page as training
import vl_jepa_page as vl_jepa
from markdown_table import table
from results_store import Store

Record = dict[str, Any]
Group = list[Record]  # a method's, one per seed
PAGE = Path(__file__).parent.parent / "docs" / "reproduction.md"
HEAD = """# Reproduction

What each paper claims, what was measured here, and the command that measures it again. The page is written by
`make reproduction` from what lies under `results/`; a result that went against a method stays in.
Counts (tokens, latent steps, forward passes, FLOPs) are deterministic; seconds depend on the machine and its load.
"""
OUTCOMES_HEAD = """*Reproduced*: the effect shows here, at this size. *Partly*: some of it shows, or it shows but does not stand up to
every control. *Not*: it was tried and does not show. Most papers' models have 7 billion parameters and more and run on
GPUs; those here have up to 1.5 billion and run on CPUs, so no row says what a method does there. Names lead to the
section with the tables, the settings and the reading. The rows are written by hand (`benchmarks/outcomes.py`).
"""
CLAIM = """
## LEAD

**Claim** (Xu et al., CVPR 2026, arXiv 2603.13366). On five 7B multimodal reasoning models LEAD gains about 1 to 5 points
over plain chain of thought (R1-Onevision-7B: VStar 66.5 to 71.2, POPE adversarial 82.5 to 83.9, MMHalu 3.52 to 3.80),
with shorter chains (487 to 412 tokens on MathVision); the anchor at lambda = 0.4 accounts for most of it (VStar without
anchor 67.5), and the dynamic threshold beats every constant one. An independent re-run of the released code found
VStar 71.7 to 72.8 with 0.7 % of the steps latent, and always-latent decoding clearly worse than plain.
"""

READING = """**Reading.** The claim does not show on this model, and the rows say where it fails. (1) Feeding mixtures at all costs a
few points here, in whatever order the modes come: always latent, soft thinking and LEAD without anchor lie together
below greedy. The model was never trained on mixed inputs and has 1.2 M parameters, where the paper's have 7 billion; the
authors of Soft Thinking warn of the same below about 14 billion. (2) The share of texts with a hallucinated object does fall
slightly under latent steps without an anchor, at the price of accuracy; the difference is within the spread over seeds.
(3) The anchor's harm has one cause: the row of `<image>`. In a LLaVA model image features replace that placeholder, so its
embedding is never trained, and the anchor (the mean of `<vision_start>`, `<image>`, `<vision_end>`) is mostly noise. An
anchor of the two trained markers alone does as well as no anchor. The paper's models (Qwen2.5-VL) replace the placeholder
in the same way, but start from a large pretrained table. (4) That anchor explains the rows with a constant threshold, too:
they enter latent thinking often and are anchored every time. Without it, a constant threshold of 1 nat is on a par with
greedy and better than the dynamic one, which does not agree with the paper. (5) With the published windows (128 to 512)
chains of 23 tokens never return to latent thinking, so `lead` and `lead, no anchor` are equal there by construction. Not measured here: 7B models, and a model trained on mixtures.
"""


def main() -> None:
    sections = [CLAIM, *vision(list(Store("lead-vision"))), *text(list(Store("lead-text")))]
    sections += [
        *adaptive.sections(),
        *edt.page(),
        *speculative.sections(),
        *attention.sections(),
        *diffusion.sections(),
    ]
    sections += [*compression.sections()]
    sections += [*latent_sft.page(), *ladir.page(), *hyperfitting.page(), *entropy_guided_attention.page()]
    sections += [
        *qlae.page(),
        *koopman.page(),
        *sae.page(),
        *vl_jepa.page(),
        *markov_lm.page(),
        *codecs.page(),
        *feds.page(),
    ]
    sections += [*lv_rae.page()]
    sections += [*training.page()]
    sections += [*serve.page()]
    sections += speed()
    sections = [HEAD, *overview([line for part in sections for line in part.splitlines()]), *sections]
    PAGE.write_text("\n".join(part.strip("\n") + "\n" for part in sections), encoding="utf-8")
    print(f"wrote {PAGE}")


def overview(lines: Iterable[str]) -> Iterable[str]:
    """What came of every claim, beside links into the page whose lines are given.

    Raises:
        ValueError: a row's section is not in the page, or is there twice.
    """
    headings = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    counts = [(sum(row.outcome == one for row in outcomes.ROWS), one) for one in outcomes.OUTCOMES]
    told = ", ".join(f"{count} {one}" for count, one in counts if count)
    yield f"## Outcomes\n\n{len(outcomes.ROWS)} claims: {told}.\n\n{OUTCOMES_HEAD}"
    yield table(
        ["method", "the paper's claim", "measured here", "outcome"],
        ([linked(row, headings), row.claim, row.measured, row.outcome] for row in outcomes.ROWS),
    )
    yield (
        "Baselines, controls and tools, for which no claim is tried: "
        f"{', '.join(f'`{name}`' for name in outcomes.WITHOUT_CLAIM)}.\n"
    )


def linked(row: outcomes.Row, headings: list[str]) -> str:
    """A method's name with a link to its section, or to its own page where nothing is on record."""
    if row.section is None:
        return f"[{row.name}](methods/{row.covers[0]}.md)"
    if headings.count(row.section) != 1:
        raise ValueError(
            f"{row.name}'s section {row.section!r} is in the page {headings.count(row.section)} times; it must be once."
        )
    return f"[{row.name}](#{anchor(row.section)})"


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub and MkDocs make it: they agree where no two signs or spaces meet."""
    return re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-")


def vision(records: list[dict[str, Any]]) -> Iterable[str]:
    """The table of the vision-language model: mean and spread over seeds."""
    if not records:
        return
    questions = records[0]["key"]["questions"]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_method.setdefault(record["key"]["method"], []).append(record)
    seeds = max(len(rows) for rows in by_method.values())
    yield (
        f"### On pictures: `zoo/tiny-vlm`, {questions} held-out questions x {seeds} seeds\n\n"
        "Every seed is a fresh set of held-out questions (existence, count, colour, position in equal parts; the colour "
        "prior of the training scenes is broken) and, where a method draws, other draws. Greedy choice elsewhere. "
        "CHAIR: share of object mentions (per mention) and of texts (per text) that name an object that is not there. "
        "POPE: existence questions with adversarial negatives. Mean ± standard deviation over seeds.\n\n"
        "```\nmake zoo-vlm   # only to train the model again\npython benchmarks/reproduce_lead.py vision\n```\n"
    )
    columns: dict[str, Callable[[Group], str]] = {
        "accuracy": lambda g: f"{spread(r['accuracy'] * 100 for r in g)} %",
        "CHAIR per mention": lambda g: f"{spread(r['chair_mention'] * 100 for r in g)} %",
        "CHAIR per text": lambda g: f"{spread(r['chair_text'] * 100 for r in g)} %",
        "POPE adv. accuracy": lambda g: f"{spread(r['pope']['adversarial']['accuracy'] * 100 for r in g)} %",
        "tokens": lambda g: f"{mean(r['tokens'] for r in g):.1f}",
        "latent steps": lambda g: f"{mean(r['latent_share'] for r in g) * 100:.1f} %",
        "switches": lambda g: f"{mean(r['switches'] for r in g):.2f}",
        "anchored": lambda g: f"{mean(r['anchored'] for r in g):.2f}",
        "ended by itself": lambda g: f"{mean(r['finished'] for r in g) * 100:.1f} %",
        "GFLOPs": lambda g: f"{mean(r['gflops'] for r in g):.2f}",
        "seconds": lambda g: f"{mean(r['seconds'] for r in g):.0f}",
    }
    yield table(
        ["method", *columns],
        ([name, *(cell(group) for cell in columns.values())] for name, group in by_method.items()),
    )
    kinds = list(records[0]["accuracy_by_kind"])
    yield table(
        ["accuracy by kind", *kinds],
        (
            [name, *(f"{mean(r['accuracy_by_kind'][kind] for r in group) * 100:.1f} %" for kind in kinds)]
            for name, group in by_method.items()
        ),
    )
    yield verdict(by_method)
    yield READING


def verdict(by_method: dict[str, list[dict[str, Any]]]) -> str:
    """What the numbers say, from the numbers."""
    plain = by_method.get("greedy", [])

    def gain(name: str, field: str) -> list[float]:
        base = {r["key"]["seed"]: r[field] for r in plain}
        return [(r[field] - base[r["key"]["seed"]]) * 100 for r in by_method.get(name, []) if r["key"]["seed"] in base]

    lines = [
        "Differences to greedy on the same questions, in points (accuracy: more is better; CHAIR: less is better):\n"
    ]
    for name in by_method:
        if name == "greedy" or not gain(name, "accuracy"):
            continue
        lines.append(
            f"- {name}: accuracy {signed(gain(name, 'accuracy'))}, CHAIR {signed(gain(name, 'chair_mention'))}"
        )
    return "\n".join(lines) + "\n"


def text(records: list[dict[str, Any]]) -> Iterable[str]:
    """The table of the text model."""
    if not records:
        return
    key = records[0]["key"]
    yield (
        f"### On text: {key['model']}, {key['questions']} GSM8K test questions, at most {key['tokens']} new tokens\n\n"
        "A text model has no visual tokens, so nothing is anchored. Greedy choice except for sampling.\n\n"
        "```\npython benchmarks/reproduce_lead.py text --data gsm8k_test.jsonl\n```\n"
    )
    columns: dict[str, Callable[[Record], str]] = {
        "method": lambda r: r["key"]["method"],
        "accuracy": lambda r: f"{r['accuracy'] * 100:.1f} %",
        "tokens": lambda r: f"{r['tokens']:.0f}",
        "mean entropy": lambda r: f"{r['mean_entropy']:.2f}",
        "latent steps": lambda r: f"{r['latent_share'] * 100:.1f} %",
        "switches": lambda r: f"{r['switches']:.2f}",
        "distinct tokens": lambda r: f"{r['distinct_share'] * 100:.0f} %",
        "ended by itself": lambda r: f"{r['finished'] * 100:.0f} %",
        "GFLOPs": lambda r: f"{r['gflops']:.0f}",
        "seconds": lambda r: f"{r['seconds']:.0f}",
    }
    yield table(columns, ([cell(record) for cell in columns.values()] for record in records))
    for r in records:
        if "transition_entropy" in r:
            yield (
                "The paper's observation, on the greedy chains: the mean next-token entropy is "
                f"{r['transition_entropy']:.2f} nats where a transition word was chosen ({r['transition_words']} places) "
                f"and {r['other_entropy']:.2f} nats elsewhere.\n"
            )


def speed() -> Iterable[str]:
    """The speed table, as `make bench` measured it."""
    records = list(Store("speed"))
    if not records:
        return
    yield (
        "## Speed\n\nTokens/s relative to the peer in the same process, the two in turn; median of the paired ratios.\n\n"
        "```\nmake bench\n```\n"
    )
    latest = {(r["key"]["peer"], r["key"]["batch"], r["key"]["method"]): r for r in records}
    yield table(
        ("peer", "model", "batch", "method", "ratio"),
        (
            (peer, r["key"]["model"], str(batch), method, f"{r['ratio']:.2f}")
            for (peer, batch, method), r in latest.items()
        ),
    )


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def spread(values: Iterable[float]) -> str:
    numbers = list(values)
    if len(numbers) == 1:
        return f"{numbers[0]:.1f}"
    return f"{statistics.fmean(numbers):.1f} ± {statistics.stdev(numbers):.1f}"


def signed(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.1f}"
    return f"{statistics.fmean(values):+.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
