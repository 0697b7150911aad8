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
    "parallelbench": "",
    "parallelbench, speed at accuracy": "",
    "parallelbench, tasks": "",
    "parallelbench, end of text": "",
    "parallelbench, names": "",
    "exact": (
        "With true conditionals the reconstructed ETE does what its abstract claims: at 100 % on all twelve tasks it takes 2.67 rounds on average, the entropy bound 3.33, the threshold 3.58, LocalLeap 3.58 (nothing lies between 0.75 and 0.9 here, as its control says). "
        "It commits 0.43 bits a round where the threshold commits 0.31, and 1.5 to 2.0 where information is concentrated (a key and its bits: two rounds for four; two keys: three for eight). It can do nothing for a shuffle, every place of which is as uncertain as the others, "
        "and two explored columns per round break what depends on itself (26 % of shuffles), and not what does not (two keys: 100 %, two rounds). Branches buy nothing on answers whose choices are all right; they save the round that replace-random waits for. "
        "The variant that earns the claim is the plain one: one column per round, always, by entropy. All rows keep the bound. Top-k follows the closed forms (100 samples: ten points either way)."
    ),
    "localleap": "",
    "localleap, diagnostic": "",
    "window": "",
    "speed": "",
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
