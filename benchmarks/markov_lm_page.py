"""The reproduction page's part on Markov diagnostics, from results/markov-lm.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markdown_table import table
from results_store import Store

HEAD = """## Markov diagnostics

**Claim** (Zhang 2025, arXiv 2507.19247; a paper without experiments). As the loss falls to the source's entropy so does the mean
entropy of the head; a hidden state tells about tokens beyond the next one what a source of higher order leaves to tell; training
arranges hidden states by the similarity of their predictions; small steps cost half the pullback metric.

```
python benchmarks/markov_lm.py --part source
python benchmarks/markov_lm.py --part smollm2 --data FOLDER      # sensitivity, heads, answers
```
"""
READING = """**Reading.** *Known chains.* At order 2 the loss falls to 1.158 nats (the source has 1.146), the head's entropy with it (1.160), and the
calibration gap closes from -0.10 to 0.00. States come to lie by the chain's true predictions: rho rises from 0.29 untrained to 0.62, 0.96, 0.98 and 0.97 while the loss
falls (permuted: 0). Two warnings show, too. At order 1 rho is 1 before any training, since an untrained state already holds the last token
linearly and the truth is linear in it; and with the model's own predictions rho is 1 at the beginning and *falls* to 0.94, so "self" says little.
The surplus by probes is 0.563 of 0.634 nats at order 2 (11 % low; probes of 1,200 steps on 33,000 positions that start as the model on the short window), and
where it should be 0 it is within 0.003.

*SmolLM2.* On this text the model is too sure by 0.22 nats. States arrange by their predictions: rho 0.53 at the last layer, 0.43 at layer 10, 0 for permuted contexts
and for untrained weights. What a state tells about the token after the next grows with the layer (0.11, 0.21, 0.22 nats, errors of 0.02 to 0.03); with these probes (90 steps, 4,000 positions: all that a few minutes of
one core give) it is a tenth of what the past tells, so the shares are floors; two and three tokens ahead only the last layer is above the blind probe, by one to three standard errors. The zoo's Medusa heads, trained a little longer on other text, agree with the model's next-but-one token in 11 % of these places, then in 5 %.
*Acceptance.* On the model's own answers the zoo's Medusa heads are right in 36, 20 and 15 % of the places one, two and three ahead, and accepted as a chain in 36, 13 and 3 %. The information that
the last state has for a drafter which sees nothing falls in the same order (0.19, -0.06 and -0.29 nats), but of a thousand positions only the first is told from 0: the probes that estimate it learn from a
hundredth of what the heads learned from, and are right less often (24, 15, 13 %). That is a check of the order alone.
The metric predicts what small steps cost (0.97 to 1.00 of it at a step of 0.1); along the leading direction a unit step is half of the quadratic form already, and
costs a hundred times a step along chance: the predictions hang on about 15 directions of 576 (participation ratio). Proposition 7.4, that
contexts which predict alike lie near along the leading directions, does not show: their Dirichlet energy is above chance (0.90 and 0.83).
"""


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    records = list(Store("markov-lm"))
    if not records:
        return
    yield HEAD
    source = [record for record in records if record["key"]["part"] == "source"]
    if source:
        yield "Two-layer transformers on chains over eight symbols; nats; rho on held-out contexts:\n"
        yield _source(source)
    for record in records:
        part = record["key"]["part"]
        if part == "smollm2":
            yield from _smollm2(record)
        elif part == "sensitivity":
            yield "Steps of SmolLM2's last hidden states (of unit vectors times the step), divergence in nats:\n"
            yield table(
                ["direction, step", "mean divergence", "measured over predicted by the metric, median"],
                [
                    [name, f"{own['divergence']:.2g}", f"{own['measured over predicted']:.3f}"]
                    for name, own in record.items()
                    if isinstance(own, dict) and "divergence" in own
                ],
            )
        elif part == "heads":
            told = ", ".join(
                f"{name}: {100 * value:.0f} %" for name, value in record.items() if name.startswith("offset")
            )
            yield f"The zoo's Medusa heads on the same text, likeliest token equal to the model's own: {told}.\n"
        elif part == "answers":
            yield from _answers(record)
    yield READING


def _answers(record: dict[str, Any]) -> Iterator[str]:
    """Per offset: what a state tells, and what the heads get right."""
    yield (
        f"SmolLM2's own greedy answers to {record['texts']} word problems: surplus of its last states for drafters that see "
        "the tokens between, or nothing (as Medusa), and the zoo's Medusa heads, which were trained on such answers:\n"
    )
    rows = []
    for seeing, blind in zip(record["all"], record["nothing"], strict=True):
        cells = [str(seeing["offset"])]
        for row in (seeing, blind):
            share = "" if row["recovered"] is None else f"{row['recovered']:.2f}"
            cells += [f"{row['surplus']:.3f} ± {row['error']:.3f}", share, f"{100 * row['top-1']:.0f} %"]
        offset = str(seeing["offset"])
        cells += [f"{100 * record['right'][offset]:.0f} %", f"{100 * record['accepted'][offset]:.0f} %"]
        rows.append([*cells, f"{record['entropy']['head ' + offset]:.2f}"])
    columns = ["ahead", "surplus, tokens seen", "recovered", "top-1", "information, nothing seen", "recovered", "top-1"]
    yield table([*columns, "Medusa: right", "accepted as a chain", "entropy"], rows)
    yield f"Entropy of the model's own head there: {record['entropy']['model']:.2f} nats.\n"


def _source(records: list[dict[str, Any]]) -> str:
    columns = ["order", "step", "loss", "entropy", "gap", "source's entropy", "rho, truth", "permuted", "rho, own"]
    columns += ["surplus by probes, 1 and 2 ahead", "exact"]
    rows = []
    for record in records:
        key, known = record["key"], record["known"]
        surplus, exact = "", ""
        if "surplus" in record:
            pairs = zip(record["surplus"], record["surplus error"], strict=True)
            surplus = ", ".join(f"{value:.3f} ± {error:.3f}" for value, error in pairs)
            exact = f"{known['surplus 2']:.3f}, {known['surplus 3'] - known['surplus 2']:.3f}"
        numbers = [record["loss"], record["entropy"], record["gap"], known["H"]]
        rhos = [record["rho with truth"], record["rho permuted"], record["rho with own"]]
        rows.append([str(key["order"]), str(key["step"]), *(f"{v:.3f}" for v in (*numbers, *rhos)), surplus, exact])
    return table(columns, rows)


def _smollm2(record: dict[str, Any]) -> Iterator[str]:
    def mean(one: dict[str, float]) -> str:
        return f"{one['mean']:.3f} ± {one['error']:.3f}"

    yield (
        f"SmolLM2-135M-Instruct on {record['texts']} beginnings of WikiText-2 articles ({record['tokens']:,} tokens): loss "
        f"{mean(record['loss'])}, entropy {mean(record['entropy']['kl'])}, loss minus entropy "
        f"{mean(record['calibration_gap'])} nats (± over texts). A page: pictures/markov-smollm2.html.\n"
    )
    yield table(
        ["layer", "tokens ahead", "A (by)", "B", "C", "A - B", "recovered", "top-1 agreement", "without the state"],
        [
            [
                str(row["layer"]),
                str(row["offset"]),
                f"{mean(row['without'])} ({row['baseline']})",
                mean(row["with_state"]),
                mean(row["model"]),
                mean(row["surplus"]),
                f"{row['recovered']:.2f}",
                mean(row["top1_agreement"]),
                mean(row["top1_without"]),
            ]
            for row in record["surplus"]
        ],
    )
    yield table(
        ["layer", "rho (own predictions)", "permuted", "untrained weights", "CKA"],
        [
            [
                str(row["layer"]),
                f"{row['rho']:.3f}",
                f"{row['null'][0]:.3f}",
                f"{row['untrained']:.3f}",
                f"{row['cka']:.3f}",
            ]
            for row in record["alignment"]
        ],
    )
    geometry = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in record["geometry"].items())
    energy = ", ".join(f"{name} {value:.3f}" for name, value in record["dirichlet"].items())
    yield f"Mean pullback metric: {geometry}. Dirichlet energy of projections on its directions: {energy}.\n"
