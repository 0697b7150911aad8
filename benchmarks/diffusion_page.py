"""The reproduction page's sections on masked diffusion models, from `results/*.jsonl`.

Figures come from there; the claims and the readings are written by hand. The picture goes to docs/pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusion_parallelbench_page as parallelbench
import diffusion_text_page as texts
from markdown_table import table
from record_tables import tables
from results_store import Store

Record = dict[str, Any]
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "parallelbench.svg"

CLAIM = """## Masked diffusion

**Claims.** ParallelBench (Kang et al., ICLR 2026, arXiv 2510.04767): what is easy one token at a time is lost when tokens that must
agree are committed together; with LLaDA-1.5 the average over 17 tasks falls from 86.4 at one token per step to 74.4 at two and 41.1 at
eight (most confident first), by threshold to 83.8 at 3.4 tokens per step, 68.3 at 5.6, 47.2 at 8.3; PB@80/75/70 of thresholds 4.09, 4.82,
5.42, of the factor rule 4.05, 4.97, 5.66; random top-k beats confident top-k where the answer is free and loses where it is not; small
blocks help lists; every threshold is far below the best one per sample. (Figures of its project page.)
Fast-dLLM (Wu et al., arXiv 2505.22618): threshold 0.9 leaves GSM8K at 79.2 for 79.3; with caches 54.4 tokens/s for 6.7 (A100).
EB-Sampler (Ben-Hamu et al., arXiv 2505.24857): two to three times fewer evaluations at equal quality.
LocalLeap (Kong et al., arXiv 2510.07081): 14.2 % of the steps of one token each, 6.94 times the throughput, quality unchanged; near a
confident token, moderate confidence suffices, less so with distance.
ETE (Fu et al., ICML 2026, arXiv 2511.21103): rounds grow with the bits of a text over the bits of a round, so uncertain tokens are to be
committed on purpose; fewer rounds than rules of confidence at their quality. The rule here is reconstructed from the abstract.
Learn2PD (Bao et al., ICLR 2026, arXiv 2509.25188): a filter of 2,112 parameters, 4.13 times faster on GSM8K at 78.6 for 78.7 (256 tokens), with
its end-of-text rule 22.58 times at 1,024 tokens; a median block of 32 could be decoded in two steps.
Window-Diffusion (Zuo et al., arXiv 2601.20332): a window of 16 computed and 64 read masks keeps most of the quality; up to 99 times faster,
about 15 of it from the stop at the end of the text. All on models of 7 to 8 billion parameters.
"""
READINGS: dict[str, str] = {  # by section; an empty one is left out
    "parallelbench": (
        "One per round is right in 99.6 %, so what is lost below is the rule's. The benchmark's shape shows: two per round, most confident first, fall to 75 %, and to 8 % on shuffles, below the closed form (31 %; the likeliest item is the same in both places); two at random keep 93 %; copying is right at any speed. A threshold is far better than any fixed number: 0.9 keeps 99.1 % in 2.89 rounds of 32. LocalLeap: at 98.9 % 2.69 to 2.78 rounds (relaxed to 0.85), where the threshold's own curve is at about 2.8: a tenth of a round; relaxed to 0.75 it is on that curve (96.8 % in 2.43; threshold 0.8: 98.0 % in 2.50), and where exactly one item must change it loses more (replace-random 90 %), as its control says. Learn2PD: 98.3 % in 2.73 rounds and 99.2 % in 4.72, where the threshold needs 2.6 and 3.1: the trained filter does not cut rounds further than the best threshold here, it needs 0.1 to 1.6 more. Its 0.96 is too strict for this model, and in a block of 32 with an end after five tokens the position tells little. ETE: 90.7 % in 2.08 rounds, which is the threshold's curve (2.10); stalled 97.8 % in 2.81, which is behind it. It commits twice the bits per round, but a greedy token at a place that is not a free choice (insert and replace by index) is a guess: what the exact model above gives it, a trained one takes away. The entropy bound is between (97.7 % in 2.70). The oracle of final answers needs 1.61 rounds."
    ),
    "parallelbench, speed at accuracy": (
        "Tokens per round count the padding behind answers of five tokens, as the paper does, so they are high. The continuous rules lie within a tenth of each other; fixed numbers of tokens are far behind, and blocks of eight cost more than any rule saves. The best threshold of every sample would keep 99.7 % at 24 tokens per round: as in the paper, every rule is far from it."
    ),
    "parallelbench, tasks": (
        "Tasks with one answer are easy to parallelise (centre around 10), those with many are not (shuffle 1.4, insert-random 3.0), and taking random places helps just these. Small blocks hurt a little here, where the paper finds that they help lists: these answers are shorter than most blocks."
    ),
    "parallelbench, end of text": (
        "Cutting behind a committed end costs nothing and saves nine tenths of the columns of one per round, and two fifths of the threshold's. With one block the rule of the released code finds nothing more."
    ),
    "parallelbench, names": "",
    "exact": (
        "With true conditionals the reconstructed ETE does what its abstract claims: at 100 % on all twelve tasks it takes 2.67 rounds on average, the entropy bound 3.33, the threshold 3.58, LocalLeap 3.58 (nothing lies between 0.75 and 0.9 here, as its control says). "
        "It commits 0.43 bits a round where the threshold commits 0.31, and 1.5 to 2.0 where information is concentrated (a key and its bits: two rounds for four; two keys: three for eight). It can do nothing for a shuffle, every place of which is as uncertain as the others, "
        "and two explored columns per round break what depends on itself (26 % of shuffles), and not what does not (two keys: 100 %, two rounds). Branches buy nothing on answers whose choices are all right; they save the round that replace-random waits for. "
        "The variant that earns the claim is the plain one: one column per round, always, by entropy. All rows keep the bound. Top-k follows the closed forms (100 samples: ten points either way)."
    ),
    "localleap": (
        "Against thresholds at as many rounds, which is the claim to test, LocalLeap is even: with a radius of 2, 97.2 % of the columns agree with one per round where a threshold would have 96.0, and 92.9 for 91.7; with a radius of 1 it is 96.9 for 96.8 and 93.4 for 94.0; relaxed further, or over the whole block, it is clearly behind (82.0 for 86.0). So a small radius and a little slack buy about a point of agreement here, and no more; the claim of seven times fewer steps is of models that know most of their text beforehand (this one's stories have 33 bits to choose). The model is small and its texts are not right by the templates' measure, so only agreement counts."
    ),
    "localleap, diagnostic": (
        "The first principle shows faintly: predictions of moderate confidence (0.75 to 0.9) are final in 91 % beside an anchor, and in 86 to 89 % further away. That agreement falls with distance does not show below that, and predictions without any anchor in the block are final more often than those with one (at the beginning, when all is open, what is guessed first is what is written first)."
    ),
    "window": (
        "On stories, where a first word is a free choice, other columns in view soon make another text, so agreement is a strict measure: a window of 16 and 32 computes 2.9 times fewer columns and keeps half of the columns, one of 32 and 64 two thirds with two times fewer; prefix and dual cache keep half, too. More computed masks help, more read ones hardly, "
        "and how often the store is renewed matters less than either. Computing committed columns once instead of for the whole phase costs nothing and saves a quarter. The paper's claim, a small loss at several times less, is of models whose keys and values are steadier than those of three layers."
    ),
    "speed": (
        "The loop costs 1 to 8 % beside the model's forwards in batches, and 14 % (0.4 ms a round) for one row of 80 columns through three layers of width 128, where a forward takes 3 ms. A window of 16 computed and 64 read masks on a canvas of 1,024 computes 16 times fewer columns and is 9.7 times as fast at the same number of tokens and forwards; a dual cache over blocks of 32 does as much and is about as fast, a prefix cache half of it."
    ),
    "filter": (
        "The filter learns: its loss on prompts held out is 0.27 nats where a constant reaches 0.64; of what it accepts at 0.96 hardly anything is wrong, and it accepts seven tenths of what is final."
    ),
    "adaptation": (
        "In 160 steps of 512 tokens (a third of an hour on one core) the plain loss of masked tokens falls from 7.1 to 1.7 nats on the texts that it sees, with a bump while the attention opens up; on texts held out it is 2.41 nats (36 % right) and the bound 1.75 nats per token. "
        "The model fills canvases with English, mostly what it has read in these steps: enough to see that the recipe works, not a model."
    ),
}


def sections() -> Iterator[str]:
    """The markdown of what has results."""
    bench = list(Store("diffusion-parallelbench"))
    tiny, exact = (_longest([r for r in bench if (r["key"]["model"] == "exact") is wanted]) for wanted in (False, True))
    text, windows = _longest(list(Store("localleap-text"))), _longest(list(Store("window-text")))
    parts = {
        "parallelbench": parallelbench.curves(tiny, "words"),
        "parallelbench, speed at accuracy": parallelbench.speed_at_accuracy(tiny),
        "parallelbench, tasks": parallelbench.tasks(tiny),
        "parallelbench, end of text": parallelbench.ends(tiny),
        "parallelbench, names": parallelbench.curves(tiny, "names"),
        "exact": parallelbench.exact(exact),
        "localleap": texts.rules(text),
        "localleap, diagnostic": texts.diagnostic(text),
        "window": texts.window(windows),
        "speed": texts.speed(list(Store("diffusion-speed"))),
        "filter": _filter(),
        "adaptation": _adaptation(),
    }
    picture = parallelbench.picture(tiny)
    if picture:
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_text(picture, encoding="utf-8")
    if any(parts.values()):
        yield CLAIM
    for name, part in parts.items():
        if part:
            yield part
            if name == "parallelbench" and picture:
                yield "![Accuracy against tokens per round](pictures/parallelbench.svg)\n"
                yield "[One canvas as three rules fill it](pictures/canvas.html), an animation (`python benchmarks/canvas_animation.py`).\n"
            if READINGS[name]:
                yield f"**Reading.** {READINGS[name]}\n"


def _filter() -> str:
    """Learn2PD's filter, on prompts that it was not trained on."""
    records = list(Store("learn2pd"))
    if not records:
        return ""
    heading = (
        "### Learn2PD's filter\n\n```\npython benchmarks/learn2pd_filter.py -o build/learn2pd\n```\n\n"
        "Rows of the oracle's rounds on zoo/tiny-diffusion; figures on prompts held out. Label entropy: the loss (nats) that a "
        "constant reaches. Precision and recall at 0.96: of the predictions that it accepts, and of those that are final.\n\n"
    )
    return heading + "\n".join(tables(records))


def _adaptation() -> str:
    """The loss while an autoregressive model becomes one of masked diffusion."""
    records = list(Store("diffusion-adaptation"))
    if not records:
        return ""
    key = records[0]["key"]
    rows = [
        [str(r["key"]["step"]), f"{r['loss']:.2f}", f"{r['nats']:.2f}", f"{100 * r['right']:.0f} %"] for r in records
    ]
    return (
        "### From an autoregressive model to masked diffusion\n\n```\nszilard train masked-diffusion --data wikitext2_valid.txt -o DIR --steps 160 "
        "--batch-size 4 --window 128 --max-length 128 --anneal 0.3\n```\n\n"
        f"{key['model']}, all weights, shifted targets, attention growing from causal to full over the first three tenths; means over "
        "20 steps. Loss: weighted by 1/p, nats per token; nats and right: of the masked tokens, plain.\n\n"
        + table(["step", "loss", "nats", "right"], rows)
    )


def _longest(records: Sequence[Record]) -> list[Record]:
    """Of a store, the run with the most questions: a trial run with fewer is no part of it."""
    most = max((record["key"]["samples"] for record in records), default=0)
    return [record for record in records if record["key"]["samples"] == most]
