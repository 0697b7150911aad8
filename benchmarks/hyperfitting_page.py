"""The reproduction page's section on hyperfitting, and its picture, from results/hyperfitting.jsonl.

python benchmarks/hyperfitting_page.py    # writes docs/pictures/hyperfitting.svg and prints the section
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curve_picture import Panel, picture, ticks_around
from markdown_table import table
from results_store import Store

Record = dict[str, Any]
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "hyperfitting.svg"
CLAIM = """## Hyperfitting

**Claim** (Carlsson et al., ICLR 2025, arXiv 2412.04318). Tuned on 2000 sequences until the training loss is near zero, models write
greedy text that people prefer: Llama-3.1-8B 24.2 to 42.9 % at 256 tokens, above nucleus sampling of the original (38.5 %). Type-token
ratios of 17 to 57 % rise above 60, held-out entropy falls from 2.84-3.48 to 1.32-1.46 nats, held-out perplexity rises some tenfold, the
longest overlap with the training set is 5.8 tokens in the mean (4.0 for the original). A follow-up (arXiv 2605.22579) finds the same on
TinyLlama (TTR .400 to .684, repeated bigrams .592 to .140), nothing of it at the temperature of equal entropy, and less by LoRA.

SmolLM2-135M-Instruct, all weights in float32, 32 paragraphs of WikiText-2 (64 tokens each, of many articles), AdamW at a constant 1e-4, batch 8,
20 epochs of 4 updates. Losses, entropies and 24 contexts of 32 tokens are from the test part; exactly 96 greedy tokens each.
"""
COMMANDS = """```bash
python benchmarks/hyperfitting.py main --data FOLDER              # and --seed 1
python benchmarks/hyperfitting.py baselines --data FOLDER
python benchmarks/hyperfitting.py part-of-model --data FOLDER --variant last5   # lora, late-lora
python benchmarks/hyperfitting.py order --data FOLDER
```
"""
READING = """**Reading.** The phenomenon shows, at this size and with these few texts. The losses part after three epochs: the held-out one is best there
(3.60) and ends at 5.13, 0.7 nats above the untrained model's. A checkpoint stopped at its best is hardly more varied than the original (TTR
.293 against .243), and the first two epochs are worse than it. After the fourth, when the learned texts cost less than 1.5 nats, greedy text
gets better until the tenth: TTR .48, repeated bigrams .67 to .29, texts that end in a loop 46 % to 4 %; from then on nothing more is gained, and
little lost. The entropy goes on falling, 3.63 to 1.54 nats. Two things go the other way. Copies: 4 to 7 % of the 5-grams stand in the learned
texts (1.5 % of the original's), and single texts cite up to 28 tokens. And self-BLEU rises, .14 to .23: each text is more varied
in itself, the texts together are more alike, in WikiText's manner. The texts do not loop; they still build sentence after sentence on one frame, and what they say is not true.
With 24 contexts, differences of .03 between neighbouring epochs are noise. A second order of the data ends where the first does (TTR .503, repeated
bigrams .245, loss 5.13, entropy 1.51 nats), and the two models choose the same next token for 82 % of the held-out ones: hyperfitted models differ, though their texts are alike in kind.

Beside the other ways to stop loops hyperfitting is not the most varied one. Drawn from the original at top-p 0.9, texts have a TTR of .70,
under a repetition penalty .86 (and lose their thread: TTR counts garbage, too); forbidding repeated 3-grams gives .46, as much as
hyperfitting, but the loop goes on in other words. It is a re-ranking and no temperature: at the temperature of equal entropy (.62) the
original's greedy text is what it was, of course, and drawn text has .44. What hyperfitting alone gives is varied *greedy* text, with nothing to set when it runs.
Blocking citations costs nothing: with it the copied 5-grams fall from 6.9 to 2.4 % and the longest citation from 21 to 6 tokens, at the
same variety (TTR .487).

Which weights learn matters more than how far the loss falls. Low rank in every layer (LoRA, merged) hyperfits as well as all weights do
(TTR .50, repeated bigrams .24, no loops), which is not what the follow-up saw; its texts are more alike (self-BLEU .28). The last five
layers alone come to a smaller loss (.06) and stay near the original (TTR .29), and low rank in them ends between (.36, loops 25 %): they
learn the texts by heart without becoming varied.
"""
# heading: what of a record, format
COLUMNS = {
    "loss of learned texts": ("loss of learned texts", ".2f"),
    "held-out loss": ("val loss", ".2f"),
    "entropy": ("entropy", ".2f"),
    "top-1 prob.": ("top-1", ".2f"),
    "TTR": ("ttr", ".3f"),
    "repeated bigrams": ("repeated_bigrams", ".3f"),
    "end in a loop": ("loops", ".0%"),
    "self-BLEU": ("self_bleu", ".3f"),
    "copied 5-grams": ("copy_rate", ".1%"),
    "mean overlap": ("overlap_mean", ".1f"),
    "longest": ("overlap_max", ".0f"),
}


def page() -> Iterator[str]:
    """Claim, curves, tables, texts and commands; nothing where nothing was measured. Writes the picture."""
    records = list(Store("hyperfitting"))
    main = {seed: _epochs(records, seed) for seed in (0, 1)}
    if len(main[0]) < 2:
        return
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(_picture(main), encoding="utf-8")
    yield CLAIM
    yield "![Loss, entropy and variety over the epochs](pictures/hyperfitting.svg)\n"
    for seed, epochs in main.items():
        if epochs:
            yield f"Order {seed} of the data:\n" if main[1] else ""
            yield _table("epoch", [(str(epoch), record) for epoch, record in epochs.items()])
    yield _outcome(main[0])
    baselines = [record for record in records if record["key"]["part"] == "baselines"]
    if baselines:
        yield "The original's other ways, and the last checkpoint's (drawn texts: mean of three seeds):\n"
        yield _table("model, decoding", list(_averaged(baselines)))
    parts = [record for record in records if record["key"]["part"] == "part of model"]
    if parts:
        yield "Only a part of the model learns (rank 32 where low-rank; merged at the end):\n"
        yield _table("what, rate, epoch", [(_part(record["key"]), record) for record in parts])
    for record in records:
        if record["key"]["part"] in ("re-ranking", "order"):
            values = {name: value for name, value in record.items() if name not in ("key", "environment")}
            yield "- " + ", ".join(f"{name}: {value:.3f}" for name, value in values.items()) + "\n"
    yield from _texts(main[0], baselines)
    yield COMMANDS
    if READING:
        yield READING


def _epochs(records: list[Record], seed: int) -> dict[int, Record]:
    own = [r for r in records if r["key"]["part"] == "main" and r["key"]["order"] == seed]
    return {record["key"]["epoch"]: record for record in sorted(own, key=lambda record: record["key"]["epoch"])}


def _table(head: str, rows: list[tuple[str, Record]]) -> str:
    columns = {name: of for name, of in COLUMNS.items() if any(of[0] in record for _, record in rows)}
    lines = [
        [name, *(format(record[key], form) if key in record else "" for key, form in columns.values())]
        for name, record in rows
    ]
    return table([head, *columns], lines)


def _outcome(epochs: dict[int, Record]) -> str:
    """The original, the checkpoint of the best validation loss, and the last one."""
    early = min(epochs, key=lambda epoch: epochs[epoch]["val loss"])
    first, best, last = epochs[min(epochs)], epochs[early], epochs[max(epochs)]
    return (
        f"Early stopping would take epoch {early}. From there to epoch {max(epochs)} the type-token ratio goes from "
        f"{best['ttr']:.3f} to {last['ttr']:.3f} (original {first['ttr']:.3f}), the held-out loss from {best['val loss']:.2f} "
        f"to {last['val loss']:.2f}, the entropy from {best['entropy']:.2f} to {last['entropy']:.2f} nats (original "
        f"{first['entropy']:.2f}).\n"
    )


def _averaged(records: list[Record]) -> Iterator[tuple[str, Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        name = f"{record['key']['model']}, {record['key']['decoding'].partition(', seed')[0]}"
        groups.setdefault(name, []).append(record)
    for name, own in groups.items():
        numbers = [key for key, value in own[0].items() if isinstance(value, float)]
        yield name, {key: sum(record[key] for record in own) / len(own) for key in numbers}


def _part(key: dict[str, Any]) -> str:
    return f"{key['variant']}, {key['learning_rate']:g}, {key['epoch']}"


def _texts(epochs: dict[int, Record], baselines: list[Record]) -> Iterator[str]:
    early = min(epochs, key=lambda epoch: epochs[epoch]["val loss"])
    yield "Greedy texts of the same beginnings:\n"
    for place, shown in enumerate(epochs[0]["texts"][:2]):
        yield f"> {_line(shown['context'])} ...\n"
        for epoch in dict.fromkeys((0, early, max(epochs))):
            yield f"- epoch {epoch}: {_line(epochs[epoch]['texts'][place]['text'])}"
        nucleus = [r for r in baselines if r["key"]["decoding"] == "top-p 0.9, seed 0"]
        for record in nucleus[:1]:
            yield f"- original, top-p 0.9: {_line(record['texts'][place]['text'])}"
        yield ""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "&#124;")


def _picture(main: dict[int, dict[int, Record]]) -> str:
    across = [(1.0, "0"), (2.0, "1"), (5.0, "4"), (11.0, "10"), (21.0, "20")]  # epoch + 1, so that 0 has a logarithm
    panels = []
    for title, names in (
        ("loss, nats", {"learned": "loss of learned texts", "held out": "val loss"}),
        ("entropy on held-out text, nats", {"held out": "entropy"}),
        ("type-token ratio, repeated bigrams", {"type-token ratio": "ttr", "repeated bigrams": "repeated_bigrams"}),
        ("self-BLEU, copied 5-grams", {"self-BLEU": "self_bleu", "copied 5-grams": "copy_rate"}),
    ):
        curves = {
            f"{name}{', other order' if seed else ''}": [(epoch + 1, record[key]) for epoch, record in epochs.items()]
            for seed, epochs in main.items()
            for name, key in names.items()
            if epochs
        }
        values = [value for points in curves.values() for _, value in points]
        panels.append(Panel(title, curves, "epoch", ticks_around([0.0, *values]), unit=""))
    return picture(panels, across)


if __name__ == "__main__":
    print("\n".join(page()))
