"""The reproduction page's part on Entropy-Guided Attention, from results/entropy-guided-attention.jsonl."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch
from markdown_table import table
from results_store import Store
from transformers import GPT2Config

from szilard.training.entropy_guided_attention import ARCHITECTURES, simplified
from szilard.training.entropy_guided_attention.cost import private_inference_cost

Record = dict[str, Any]
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "entropy-guided-attention.svg"
PARTS = {
    "architectures": "Architectures, no penalty:",
    "guided": "SM(t)+ScFuFFN by its first temperature and lambda (8e-5 is the published 1e-5 for this batch):",
    "norms": "Norms of weights, and the norm behind the last block kept:",
    "penalty": "The penalty's options:",
}
BINS, WIDTH, HEIGHT, COLUMNS = 10, 310, 150, 3
HEAD = """## Entropy-Guided Attention

**Claim** (Jha and Reagen 2025, arXiv 2501.03489). GPT-2 small on CodeParrot, perplexity: 2.69; without norms and activation
training fails (NaN); with scaled and fused networks (ScFuFFN) 3.48, and 3.21 (-7.8 %) with softmax temperatures and the entropy
penalty, at 6.43 instead of 25.32 GB sent. Without the penalty 45 to 58 % of the heads of models without norms are in the top
quarter; weight norms on the feed-forward networks are best among norms (3.64), scales are better (3.48). The gain of the
penalty is not told apart from that of the temperatures.

Here: tinyshakespeare by characters, 6 layers of 4 heads, d = 96, T = 64, 500 steps of 16 texts, a learning rate of 2e-3, weights that stretch as GPT-2 small's do; nats per
character of the last tenth of the text. A head that looks everywhere alike has 3.206 nats; *near uniform* is the share of heads
above 95 % of that. What is sent in private inference is not measured here; the counts are exact (`szilard analyze private-inference`).

```
python benchmarks/entropy_guided_attention.py --data FOLDER --part architectures    # guided, norms, penalty, stability
```
"""
READING = """**Reading.** The order of the claim shows, not its failure: without norms and activation (SM) this six-layer model
does not diverge at the common rate (2.32 nats against 2.09 of the usual GPT-2, two seeds), and scales with fused networks bring it to 2.28.
Where it is fragile shows in the largest rate: after 200 steps the usual model trains at 1.6e-2, models without norms stop at 8e-3, and
without norms and activation (SM) already 8e-3 diverges. Scales, or weight or spectral norms on the feed-forward networks, win that rate back; the
penalty adds nothing to it (2.49 at 8e-3 where ScFuFFN has 2.56, both diverge at 1.6e-2).

What breaks is visible in the heads. *Overload*: without norms the first layer sits at 3.12 to 3.17 of 3.206 nats, that is, it looks
everywhere alike. *Collapse*: a sharp start (t = 0.01) leaves the deep layers at one token (entropies under 0.1, two thirds of all heads near
zero, 2.42 nats), which is the value that the paper starts from. The penalty mends both: from t = 1 with ten times the published weight no
head is near uniform any more (17 % before) and the loss falls a little, 2.273 to 2.258 (less than the spread of seeds); from t = 0.1 2.222
to 2.200; from t = 0.01 2.422 to 2.217. So its gain is a cure for a start that it need not have, and the temperatures alone (t = 1, 2.273
against 2.279 of ScFuFFN) give nothing. As a mean over rows instead of a sum it changes nothing (2.41, 67 % near zero): the published
lambdas mean the sum.

Of its options (one seed): three times the weight is better still (2.234); no margin (gamma 0 or 0.1) costs 0.05 to 0.06; the two-sided
penalty is needed, since the one-sided one leaves the collapse as it was (2.535); fixed thresholds are worse from t = 1 (2.303) and *best* from
t = 0.01 (2.187, no head near zero), because learned ones follow the collapsed heads down (0.19). Treating early rows apart changes little. On
the usual GPT-2 the penalty costs and gains nothing (2.080 for 2.085). Among norms weights on the feed-forward networks are best (2.299), as in
the paper; spectral norms on queries and keys make all heads uniform (62 to 71 %) and are worst. With the last norm kept the penalty costs
0.08 nats (2.262 to 2.345).
"""


def page() -> Iterator[str]:
    """Lines of the page; none where nothing was measured."""
    records = list(Store("entropy-guided-attention"))
    if not records:
        return
    yield HEAD
    for part, title in PARTS.items():
        own = [record for record in records if record["key"]["part"] == part]
        if own:
            yield f"{title}\n"
            yield _table(own)
    stability = [record for record in records if record["key"]["part"] == "stability"]
    if stability:
        yield "Nats per character after 200 steps by the largest learning rate:\n"
        yield _stability(stability)
    yield "GPT-2 small in private inference, 128 tokens: counts, and gigabytes by the fit to the published values:\n"
    yield _private_inference()
    if any(record["key"]["part"] == "guided" for record in records):
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(_picture(records), encoding="utf-8")
        yield f"![heads by their entropy](pictures/{PICTURE.name})\n"
    if READING:
        yield READING


def _private_inference() -> str:
    """Counts of three architectures and the published gigabytes beside the fitted ones."""
    columns = ["model", "softmax", "layer norm", "activation", "networks, GFLOP", "attention, GFLOP", "GB", "published"]
    rows = []
    for name, published in (("SM+LN+G", "25.32"), ("SM+LN+R", "9.44"), ("ScFuFFN", "6.43")):
        with torch.device("meta"):
            model = simplified(GPT2Config(bos_token_id=0, eos_token_id=0), ARCHITECTURES[name])
        found = private_inference_cost(model, 128)
        kinds = [("softmax",), ("layernorm",), ("gelu", "relu")]
        shapes = [[shape for kind in kind_names for shape in found.operations.get(kind, ())] for kind_names in kinds]
        counts = [f"{len(own)} x {own[0][0]} x {own[0][1]}" if own else "0" for own in shapes]
        flops = [f"{found.ffn_flops / 1e9:.1f}", f"{found.attention_flops / 1e9:.1f}"]
        rows.append([name, *counts, *flops, f"{(found.gigabytes or (0.0,))[0]:.2f}", published])
    return table(columns, rows)


def _name(key: Record) -> str:
    """What a run is, without its seed."""
    words = {
        "temperature_init": "t = {:g} at first",
        "lambda": "lambda {:g}",
        "ffn_norm": "{} norm",
        "norm_of": "of {}",
        "attn_temperature": "t per {}",
        "gamma": "gamma {:g}",
        "threshold_rate": "theta's rate {:g}",
        "per_row_reference": "early rows: {}",
        "reduction": "{}",
    }
    switches = {"final_layernorm": "last norm kept", "learn_theta": "theta fixed", "one_sided": "one-sided"}
    found = [key["architecture"]]
    for entry, value in key.items():
        if entry == "lambda" and not value:
            found.append("no penalty")
        elif entry in words:
            found.append(words[entry].format(value))
        elif entry in switches:
            found.append(switches[entry])
    return ", ".join(found)


def _grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[_name(record["key"])].append(record)
    return groups


def _table(records: Sequence[Record]) -> str:
    """A line per run; the mean over seeds, and the spread of nats."""
    columns = ["model", "seeds", "nats", "perplexity", "entropies of the layers", "quarters of the largest, %"]
    columns += ["near uniform", "near zero", "thresholds"]
    rows = []
    for name, own in _grouped(records).items():
        alive = [record for record in own if "nats" in record]
        if not alive:
            rows.append([name, str(len(own)), "diverged", *[""] * 6])
            continue
        spread = f" ± {statistics.stdev(record['nats'] for record in alive):.3f}" if len(alive) > 1 else ""
        rows.append(
            [
                name,
                str(len(own)),
                f"{_mean(alive, 'nats'):.3f}{spread}",
                f"{_mean(alive, 'perplexity'):.2f}",
                " ".join(f"{value:.2f}" for value in _means(alive, "layer_means")),
                " / ".join(f"{100 * value:.0f}" for value in _means(alive, "quarters")),
                f"{_mean(alive, 'near_uniform'):.2f}",
                f"{_mean(alive, 'near_zero'):.2f}",
                " ".join(f"{value:.2f}" for value in _means(alive, "thresholds")) if "thresholds" in alive[0] else "",
            ]
        )
    return table(columns, rows)


def _stability(records: Sequence[Record]) -> str:
    rates = sorted({record["key"]["rate"] for record in records})
    groups: dict[str, dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[_name(record["key"])][record["key"]["rate"]].append(record)
    rows = []
    for name, by_rate in groups.items():
        cells = []
        for rate in rates:
            alive = [record for record in by_rate.get(rate, []) if "nats" in record]
            cells.append(f"{_mean(alive, 'nats'):.3f}" if alive else "diverged" if rate in by_rate else "")
        rows.append([name, *cells])
    return table(["model", *(f"{rate:g}" for rate in rates)], rows)


def _mean(records: Sequence[Record], name: str) -> float:
    return statistics.fmean(record[name] for record in records)


def _means(records: Sequence[Record], name: str) -> list[float]:
    return [statistics.fmean(values) for values in zip(*(record[name] for record in records), strict=True)]


def _picture(records: Sequence[Record]) -> str:
    """Histograms of heads by their share of the uniform head's entropy, a panel per run of two parts."""
    shown = [record for record in records if record["key"]["part"] in ("architectures", "guided") and "heads" in record]
    groups = _grouped(shown)
    parts = []
    for number, (name, own) in enumerate(groups.items()):
        counts = [0] * BINS
        for record in own:
            for value in (value for heads in record["heads"] for value in heads):
                counts[max(0, min(BINS - 1, int(BINS * value / record["uniform"])))] += 1
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{_panel(name, counts)}</g>')
    rows = -(-len(groups) // COLUMNS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} {rows * HEIGHT}" '
        f'font-family="sans-serif" font-size="10" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(name: str, counts: Sequence[int]) -> str:
    left, top, floor, width = 12, 26, HEIGHT - 26, (WIDTH - 24) / BINS
    tall = [count / sum(counts) * (floor - top) for count in counts]
    shapes = [f'<text x="{left}" y="16" font-size="9" font-weight="bold">{escape(name)}</text>']
    for place, height in enumerate(tall):
        fill = "#d1495b" if place in (0, BINS - 1) else "#4269d0"
        shapes.append(
            f'<rect x="{left + place * width + 1:.1f}" y="{floor - height:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}" fill="{fill}"/>'
        )
    shapes.append(f'<path d="M{left} {floor}h{BINS * width:.0f}" stroke="#333"/>')
    for at, label in ((0, "one token"), (1, "everywhere alike")):
        anchor = "start" if at == 0 else "end"
        shapes.append(
            f'<text x="{left + at * BINS * width:.0f}" y="{floor + 14}" text-anchor="{anchor}">{label}</text>'
        )
    return "".join(shapes)


if __name__ == "__main__":
    print("\n".join(page()))
