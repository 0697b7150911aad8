"""Texts as methods see them, for the methods' pages: words kept and dropped, columns by the round that filled them.

python benchmarks/method_words.py [--only ete,localleap]    # writes docs/pictures/methods/*.svg; one minute

Everything runs on models that come with the project. Learn2PD's filter is that of build/learn2pd, by
`python benchmarks/learn2pd_filter.py -o build/learn2pd`; without it the picture is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import word_picture
from word_picture import SOFT, Section, Word, heat

import szilard
from szilard.compression.llmlingua2.annotation import annotate_pairs
from szilard_zoo import fact_contexts

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "pictures" / "methods"
FILTER = ROOT / "build" / "learn2pd"
MINUTES = (
    "The meeting began rather late, because of the rain. Nadia said that the signed contract is in room 214. Everybody "
    "was a little tired, and somebody opened a window. Tomas reported that the new server costs 1840 euros and comes "
    "on Friday. After a while they talked about the weather, as one does. The code of the side door is not 5973 any "
    "more but 6120."
)
STORY = "story - - Ada Keller ->"
RECORD = "record - - Kira Hansen miller Ghent 5 6 yellow map dog ->"
KEPT = "#cfe6d8"
DROPPED = Word("dropped", None, SOFT, struck=True)


# ---- prompt compression -------------------------------------------------------------------------------------------


def llmlingua2() -> str:
    compressor = szilard.LlmLingua2.from_pretrained("zoo/tiny-llmlingua2")
    (left,) = compressor.compress([MINUTES], 0.5, engine=_language_model())
    return word_picture.picture(
        [_compressed("zoo/tiny-llmlingua2", left, most=1.0)],
        [DROPPED],
        ramp=("kept, by its probability: 0", "1"),
    )


def selective_context() -> str:
    lefts = [
        szilard.compress(MINUTES, method=method, budget=0.5, engine=_language_model())
        for method in ("selective-context", "llmlingua")
    ]
    most = max(word.score for left in lefts for word in left.words)
    sections = [_compressed(f"{_language_model().name}, {left.method}", left, most=most) for left in lefts]
    return word_picture.picture(sections, [DROPPED], ramp=("kept, by its self-information: 0", f"{most:.1f} nats"))


def llmlingua2_training() -> str:
    context = min(fact_contexts.dataset("names", 8), key=lambda one: len(one.text))
    (found,) = annotate_pairs([(context.text, context.compressed)])
    labels = [
        Word(_with_space(found.original, start, end), KEPT if kept else None, struck=not kept, **_ink(kept))
        for (start, end), kept in zip(found.spans, found.labels, strict=True)
    ]
    compressor = szilard.LlmLingua2.from_pretrained("zoo/tiny-llmlingua2")
    spent = len(_language_model().tokenizer(context.compressed).input_ids)
    (left,) = compressor.compress([found.original], spent, engine=_language_model())
    return word_picture.picture(
        [
            Section("labels: words of the original that are found in the shortened text", labels),
            _compressed("what zoo/tiny-llmlingua2 has learned", left, most=1.0),
        ],
        [DROPPED],
        ramp=("kept, by its probability: 0", "1"),
    )


def _compressed(title: str, left: Any, most: float) -> Section:
    """Words that stayed by their score; the others struck through."""
    words = []
    for word in left.words:
        fill, ink = heat(word.score / most) if word.kept else (None, SOFT)
        words.append(Word(_with_space(left.original, word.start, word.end), fill, ink, struck=not word.kept))
    return Section(f"{title}: {left.compressed_tokens} of {left.original_tokens} tokens stay", words)


def _ink(kept: bool) -> dict[str, str]:
    return {} if kept else {"ink": SOFT}


def _with_space(text: str, start: int, end: int) -> str:
    return (" " if text[:start].endswith((" ", "\n")) else "") + text[start:end]


# ---- diffusion ----------------------------------------------------------------------------------------------------


def unmasking() -> str:
    return _canvases(
        {
            "TopKUnmask(k=1)": szilard.TopKUnmask(),
            "ThresholdUnmask(threshold=0.9)": szilard.ThresholdUnmask(),
            "EntropyBound(gamma=0.1)": szilard.EntropyBound(),
        }
    )


def ete() -> str:
    return _canvases(
        {
            "ThresholdUnmask(threshold=0.9)": szilard.ThresholdUnmask(block_length=16),
            "Ete(threshold=0.9)": szilard.Ete(block_length=16),
        }
    )


def localleap() -> str:
    return _canvases(
        {
            "ThresholdUnmask(threshold=0.9)": szilard.ThresholdUnmask(block_length=32),
            "LocalLeap(anchor=0.9, relaxed=0.75, radius=4)": szilard.LocalLeap(block_length=32),
        },
        RECORD,
        32,
    )


def learn2pd() -> str | None:
    if not (FILTER / "config.json").exists():
        return None
    return _canvases(
        {
            "TopKUnmask(k=1)": szilard.TopKUnmask(block_length=32),
            "ThresholdUnmask(threshold=0.9)": szilard.ThresholdUnmask(block_length=32),
            "Learn2PD(threshold=0.8)": szilard.Learn2PD(filter=str(FILTER), block_length=32, threshold=0.8),
        },
        STORY,
        32,
    )


def _canvases(rules: dict[str, Any], prompt: str = STORY, tokens: int = 64) -> str:
    """One canvas per rule, every column by its round, which stands above it."""
    engine = szilard.load("zoo/tiny-diffusion", dtype="float32")
    traces = {
        title: engine.generate(prompt, rule, max_new_tokens=tokens, raw=True, trace=True).trace
        for title, rule in rules.items()
    }
    most = max(int(trace["round"].max()) for trace in traces.values())
    sections = []
    for title, trace in traces.items():
        words = []
        for step in trace:
            fill, ink = heat((step.round - 1) / most)
            words.append(Word((step.text or "").replace("\n", " ") or "·", fill, ink, note=str(step.round)))
        sections.append(Section(f"{title}: {int(trace['round'].max())} rounds", words))
    return word_picture.picture(sections, [f"{engine.name}; above each column: its round"], ramp=("round 1", str(most)))


# -------------------------------------------------------------------------------------------------------------------


@cache
def _language_model() -> Any:
    return szilard.load(engine="transformers")


PICTURES: dict[str, Callable[[], str | None]] = {
    "llmlingua2": llmlingua2,
    "selective-context": selective_context,
    "llmlingua2-training": llmlingua2_training,
    "unmasking": unmasking,
    "ete": ete,
    "localleap": localleap,
    "learn2pd": learn2pd,
}


def write(pictures: dict[str, Callable[[], str | None]], only: Sequence[str]) -> None:
    """Draw the pictures of some methods; all, where none are named."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for slug, draw in pictures.items():
        if only and slug not in only:
            continue
        drawn = draw()
        if drawn is not None:
            (FOLDER / f"{slug}.svg").write_text(drawn, encoding="utf-8")
        print(slug, "left out" if drawn is None else f"{len(drawn):,} bytes", flush=True)


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="methods, separated by commas")
    write(PICTURES, [name for name in parser.parse_args().only.split(",") if name])


if __name__ == "__main__":
    main()
