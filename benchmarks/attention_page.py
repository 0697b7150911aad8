"""The reproduction page's sections on cache and attention methods, from `results/*.jsonl`.

Figures come from there; the claims and the readings are written by hand. The picture goes to docs/pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attention_picture import picture
from markdown_table import table
from record_tables import tables
from results_store import Store

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
Record = dict[str, Any]

CLAIM = """## Cache and attention

**Claims.** TidalDecode (Yang et al., ICLR 2025, arXiv 2410.05076): the needle is found at 10K tokens in 92 to 99 % with 64 to 128
tokens read (LongChat-7B; Quest 99, StreamingLLM, H2O and TOVA 1 to 8), 2.1 times as fast as full attention at 100K on an A100.
UNComp (Xiong et al., EMNLP 2025, arXiv 2410.03090): 4.7 % of the cache for 1.4 points of LongBench; heads of high matrix entropy need
more of it. Of the methods they are compared with: SnapKV (arXiv 2404.14469), PyramidKV (2406.02069), H2O (2306.14048), TOVA (2401.06104),
StreamingLLM (2309.17453), Quest (2406.10774), KeyDiff (2504.15364), expected attention (2510.00636).
"""
READINGS: dict[str, str] = {  # by store, or by store and model
    "attention-quality, tiny-recall": (
        "The model finds every needle and pair with its full cache, so all that is lost is lost to the method. What is read sparsely but kept whole loses nearly nothing: Quest is right from 16 "
        "tokens on, TidalDecode finds every pair with 16 and every needle with 64 to 128 (the paper: 92 to 99 % with 64 to 128). Such methods read much here because the model has four layers, of which one or two are dense. One "
        "selection for all heads (the paper's) keeps the needle's digits, a set per layer does not: it follows the pairs. "
        "Of the methods that evict, StreamingLLM, H2O and chance are alike at 16 to 64, as the paper says of the first two; SnapKV, TOVA and PyramidKV keep what the prompt's last tokens asked for, and so find what is asked inside the prompt (51 to 93 % "
        "of digits) and not what is asked after it (15 to 36 %). KeyDiff, which looks at keys alone, is the best of them on both sides (100 % at 64), expected attention comes next, Knorm does not find pairs. "
        "The text itself goes on as well as before under all of them (3.75 to 3.83 nats), which is why perplexity says little about a cache."
    ),
    "tidal-latency": (
        "The time of full attention grows with the context (from 4,096 to 32,768 tokens: transformers' loop 5.0 times, ours, whose cache grows in place, 2.8 times), TidalDecode's by 1.4 times. At 16,384 tokens it is 3.0 times as "
        "fast as transformers' own loop with full attention, and 1.8 times as fast as ours (2.3 times at 32,768); a run on both cores gave the same (206, 118 and 68 ms). What keeps it from more is the rest of the model: without any attention a token takes 65 ms here, "
        "and the two dense layers and the one that selects read all keys. Quest reads bounds of every page in every layer, which costs more here than it saves."
    ),
    "uncomp-quality": (
        "The order of the claim shows on the needle at both budgets: heads of high entropy keep more (125 and 144 of 192 digits), then every head the same (125, 134), then by chance (120, 132), and the other way round is worst (111, 127); in nats the same order without a tie. On running text the differences are small and the order "
        "is that of the claim at 64 slots; at 128 even budgets are better by 0.01 nats, within the spread of 12 texts. What is lost to the full cache (192 digits, 2.52 nats) is more than what the budgets by head win back."
    ),
    "entropy-prune": (
        "At the layer that the profile of queries chooses by itself (1, where the entropy falls), tokens of high entropy carry the answers: 72 % right with 21 of 64 tokens, chance 64 %, evenly spaced ones 65 %, and tokens of low entropy 37 %, as bad as the answers are without any look at the picture; attention to the last token, the usual rule, gives 71 %. "
        "The formula of the released code (rows that are not normalised) does what low entropy does. At layer 2 the order is turned round, and at layer 3, where the picture has been read, half of the tokens cost nothing (82 %, as with all of them) but save little. "
        "So the score depends on the layer, as the paper says. Of the full model's 82 % it keeps 88 % at 52 % fewer visual FLOPs; the paper's 96 % at 68 % fewer are of models with 32 layers and 576 tokens. "
        "Prefill in those proportions is 2.4 to 2.7 times as fast at 68 % fewer, a little less than with tokens that cost nothing to choose (2.5 to 2.9)."
    ),
    "first": (
        "Time follows the layers: with half of them skipped a token takes 0.61 of the time. The layers hold 79 % of the weights that a token passes (the rest is the output layer), so 0.60 is what they promise; at every share the two agree within 2 %. "
        "Of the two tasks the model learned one (reversing, 0.0006 nats); running sums it had not learned after 3,000 steps, so nothing can be lost there. On reversing, FiRST finds the harmless layer when one of eight is skipped (0.0007 nats, as the best set of all; unified 0.012, chance 0.69), "
        "is better than unified and chance but not than the best set when two are (0.23; best 0.009, unified 0.89, chance 1.47), and loses to unified when three are (0.62; 0.19; chance 2.16). Block influence, which looks at the model and not at the prompt, is the best set each time. That routing by the prompt pays does not show here: "
        "with one task learned there is nothing for it to tell apart. On word problems (SmolLM2, routers of 120 steps, three of 30 layers skipped) it is the same order: without skipping 1.85 nats per token, block influence 2.30, FiRST 2.47, unified 3.00, three random sets 2.29 to 6.38."
    ),
    "matrix-entropy": (
        "Keys use more directions than queries in every layer. Both rise over the first layers and fall slowly in the middle, as UNComp's paper has it for its larger models; that the entropy falls all the way to the last layer does not show: it rises again from layer 24 on. "
        "Hidden states lose a tenth of it at once, at layer 11 (0.69 to 0.60), and gain it again. Between the heads of a layer there is often more difference than between layers (queries: 0.64 to 0.88 in layer 16), which is what UNComp's budgets per head build on."
    ),
    "uncomp-speed": (
        "Reading 8,000 tokens takes as long as without it (the budgets are worked out from attention that was computed anyway) and, with stages, an eighth of that: deeper layers read 1,536 tokens. A token then takes 140 ms in the place of 190 while the cache is held "
        "at its budgets, and 87 ms when it is compressed once, since holding it costs an attention per head group and a choice per token. The process holds 19 MB in the place of 369: 384 slots per head on average are 4.8 % of 8,000, and memory is really given back."
    ),
}
QUALITY = (
    ("needle", "inside", "needle, inside"),
    ("needle", "after", "needle, after"),
    ("pairs", "inside", "pairs, inside"),
    ("pairs", "after", "pairs, after"),
    ("continuation", "", "nats"),
)
OTHERS = {  # further stores: heading, commands, and what in their keys numbers repetitions
    "tidal-latency": ("TidalDecode: time per token", "python benchmarks/tidal_latency.py --save", ()),
    "uncomp-speed": ("UNComp: time and memory", "python benchmarks/uncomp_speed.py --data FILE", ()),
    "uncomp-quality": ("UNComp: budgets by head", "python benchmarks/uncomp_quality.py --data DATA", ("number",)),
    "entropy-prune": ("EntropyPrune: pictures in fewer tokens", "python benchmarks/entropy_prune_vision.py", ("seed",)),
    "first": (
        "FiRST: layers that are skipped",
        "python benchmarks/first_layers.py tasks\npython benchmarks/first_layers.py text --data FILE\n"
        "python benchmarks/first_layers.py speed",
        (),
    ),
}


def sections() -> Iterator[str]:
    """The markdown of what has results."""
    parts = [*_quality(), *_curves(), *(part for store in OTHERS for part in _other(store))]
    if parts:
        yield CLAIM
        yield from parts


def _quality() -> Iterator[str]:
    records = list(Store("attention-quality"))
    if not records:
        return
    yield (
        "### Quality at equal budgets\n\n```\npython benchmarks/attention_quality.py --data DATA\n"
        "python benchmarks/attention_quality.py --data DATA --model smollm2\n```\n\n"
        "Contexts of running text (WikiText-2, test part). Needle: a number of seven digits stands in the text, at depths from its "
        "beginning to its end. Pairs: `key: word` pairs stand all over it, one is asked for. The question is "
        "read before the compression (inside the prompt) or after it, token by token. % of the answers' tokens that "
        "are the likeliest ones, each given the right ones before it; then the answers that are right as a whole. Nats: per token of "
        "the text as it goes on, decoded under the method. Held: keys in the cache at the end; read: keys read per "
        "decoded token; both of a full cache, mean over tasks. `random` keeps slots by chance.\n"
    )
    for model in dict.fromkeys(record["key"]["model"] for record in records):
        own = [record for record in records if record["key"]["model"] == model]
        yield f"#### {model}: {_size(own)}\n"
        if model == "tiny-recall":
            PICTURES.mkdir(parents=True, exist_ok=True)
            (PICTURES / "attention-quality.svg").write_text(picture(own), encoding="utf-8")
            yield "![Quality against the share of keys read](pictures/attention-quality.svg)\n"
        yield _table(own)
        reading = READINGS.get(f"attention-quality, {model}")
        if reading:
            yield f"**Reading.** {reading}\n"


def _size(records: Sequence[Record]) -> str:
    """Tokens, items, and what chance does to an answer that is right in half of them."""
    key = records[0]["key"]
    return f"{key['length']} tokens, {key['items']} items a column (standard error: at most {50 / key['items'] ** 0.5:.0f} points)"


def _table(records: Sequence[Record]) -> str:
    rows = []
    found = {(r["key"]["budget"], r["key"]["method"], r["key"]["task"], r["key"]["question"]): r for r in records}
    for budget, method in dict.fromkeys((r["key"]["budget"], r["key"]["method"]) for r in records):
        cells = ["full" if method == "plain" else str(budget), method]
        for task, question, _ in QUALITY:
            record = found.get((budget, method, task, question))
            cells.append("" if record is None else _cell(record))
        own = [r for (at, who, _, _), r in found.items() if (at, who) == (budget, method)]
        for name in ("kv_held_share", "kv_read_share"):
            cells.append(f"{100 * sum(record[name] for record in own) / len(own):.1f} %")
        rows.append(cells)
    rows.sort(key=lambda cells: -1 if cells[0] == "full" else int(cells[0]))
    return table(["budget", "method", *(title for _, _, title in QUALITY), "held", "read"], rows)


def _cell(record: Record) -> str:
    if record["key"]["task"] == "continuation":
        return f"{record['nats']:.3f}"
    share = f"{100 * record['right'] / record['tokens']:.0f} %"
    return (
        share if record["tokens"] == record["key"]["items"] else f"{share}, {record['exact']}"
    )  # answers of one token: the same


def _curves() -> Iterator[str]:
    """The matrix entropy of layers."""
    records = list(Store("matrix-entropy"))
    if not records:
        return
    key = records[0]["key"]
    yield (
        "### Matrix entropy over layers\n\n```\nszilard analyze matrix-entropy --data wikitext2_valid.txt --what query --limit 8 --html FILE\n```\n\n"
        f"{key['model']}, {key['texts']} pieces of {key['length']} tokens, as shares of log(dimensions), all heads of a layer together. The curves of all layers and heads: "
        "[queries](pictures/matrix-entropy-query.html), [keys](pictures/matrix-entropy-key.html), [hidden states](pictures/matrix-entropy-hidden.html).\n"
    )
    chosen = range(0, len(records[0]["layers"]), 3)
    rows = [[r["key"]["what"], *(f"{r['layers'][layer]:.2f}" for layer in chosen)] for r in records]
    yield table(["of", *(f"layer {layer}" for layer in chosen)], rows)
    if "matrix-entropy" in READINGS:
        yield f"**Reading.** {READINGS['matrix-entropy']}\n"


def _other(name: str) -> Iterator[str]:
    """A store whose records are shown as they are."""
    records = list(Store(name))
    if not records:
        return
    heading, commands, over = OTHERS[name]
    yield f"### {heading}\n\n```\n{commands}\n```\n"
    yield from tables(records, over=over)
    if name in READINGS:
        yield f"**Reading.** {READINGS[name]}\n"
