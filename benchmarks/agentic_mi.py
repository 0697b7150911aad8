"""Bits that compressors keep, on contexts with known information, on text, and against what predictors then answer.

known:    16 records that differ in 4 yes/no facts; texts keep each with probability 1 - delta: I = 4 (1 - delta) bits.
wikitext: 12 paragraphs of one article, compressed by models of three sizes and by dropping words at equal length.
records:  8 ward notes that differ in three facts; bits of these facts against what three predictors answer about them.

Everything that was generated and scored lies in the folder --work, results in results/agentic-mi.jsonl; a run that was
killed goes on where it was.

python benchmarks/agentic_mi.py known
python benchmarks/agentic_mi.py records  --small qwen2.5-coder-0.5b.gguf --large qwen2.5-coder-1.5b.gguf
python benchmarks/agentic_mi.py wikitext --small ... --large ... --data FOLDER
"""

from __future__ import annotations

import argparse
import random
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import agentic_records as notes
import torch
from results_store import Store

import szilard
from szilard.analysis.agentic_mi import InformationReport, agentic_mi, answer_questions, point
from szilard.analysis.agentic_mi.hard_negatives import bm25
from szilard.information import mutual_information_from_log_likelihood
from szilard.registry import methods

STORE = Store("agentic-mi")
DELTAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
ASKED = ("drug", "nurse", "day")  # facts in which the notes differ, and that are asked for
KEPT = (0.25, 0.6)  # of the controlled compressors beside the models
SMOL = "SmolLM2-135M"
WORDS = (55, 110)  # of a paragraph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("known", "wikitext", "records"))
    parser.add_argument("--work", type=Path, default=Path("runs/agentic-mi"), help="folder of texts and scores")
    parser.add_argument("--data", type=Path, help="folder with wikitext2_test.txt")
    parser.add_argument("--small", help="Qwen2.5-Coder-0.5B-Instruct, *.gguf")
    parser.add_argument("--large", help="Qwen2.5-Coder-1.5B-Instruct, *.gguf")
    parser.add_argument("--predictors", nargs="+", default=["Qwen 0.5B", SMOL, "Qwen 1.5B"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"known": known, "wikitext": wikitext, "records": records}[arguments.part](arguments)


# ---- known information -----------------------------------------------------------------------------------------------


def known(arguments: argparse.Namespace) -> None:
    """Texts that keep a known share of 4 bits, in the eyes of SmolLM2-135M."""
    models = Models(arguments)
    every = notes.every_combination(list(notes.SLOTS)[:4])
    contexts = [notes.text_of(record) for record in every]
    differ, alike = list(notes.SLOTS)[:4], list(notes.SLOTS)[4:6]
    settings: list[tuple[str, dict[str, Any]]] = [(f"keeps {1 - delta:.0%}", {"delta": delta}) for delta in DELTAS]
    settings.append(("keeps 50%, boilerplate", {"delta": 0.5, "boilerplate": 1}))
    settings.append(("keeps 50%, common facts", {"delta": 0.5, "always": alike}))
    for name, options in settings:
        key = {"part": "known", "compressor": name, "scorer": SMOL, "contexts": len(contexts)}
        kept = notes.keep_slots(every, differ, **options)
        report = measured(
            key, kept.texts, models, SMOL, contexts, arguments.work, extra={"kept_bits": kept.kept} | options
        )
        control = {**key, "compressor": f"{name}, shuffled"}
        if report is not None and options == {"delta": 0.0} and control not in STORE:
            own = [(number + 1) % len(contexts) for number in range(len(contexts))]  # each text with a wrong context
            found = mutual_information_from_log_likelihood(report.matrix, own=own)
            STORE.add(control, {"bits": found.bits, "raw_nats": found.raw, "saturation": found.saturation})


# ---- text ------------------------------------------------------------------------------------------------------------


def wikitext(arguments: argparse.Namespace) -> None:
    """Paragraphs of one article: models against word dropping at equal length."""
    if arguments.data is None:
        raise ValueError("--data is needed: a folder with wikitext2_test.txt.")
    models = Models(arguments)
    contexts = paragraphs((arguments.data / "wikitext2_test.txt").read_text(encoding="utf-8"), 12)
    lengths = []
    for writer in ("Qwen 0.5B", "Qwen 1.5B", SMOL):
        for scorer in (SMOL,) if writer != SMOL else ("Qwen 0.5B", SMOL):
            key = {"part": "wikitext", "compressor": writer, "scorer": scorer, "contexts": len(contexts)}
            report = measured(key, models.engine(writer), models, scorer, contexts, arguments.work)
            if report is not None and writer != SMOL:
                lengths.append(report.scorer_length)
    budget = round(sum(lengths) / len(lengths)) if lengths else 60
    chance = random.Random(0)
    tokens = models.engine(SMOL).tokenizer
    for name in ("first words", "random words"):
        texts = [shortened(text, budget, tokens, chance if name == "random words" else None) for text in contexts]
        key = {"part": "wikitext", "compressor": name, "scorer": SMOL, "contexts": len(contexts)}
        measured(key, texts, models, SMOL, contexts, arguments.work, extra={"budget": budget})
    for slug in ("llmlingua2", "selective-context"):
        if slug in methods():
            key = {"part": "wikitext", "compressor": slug, "scorer": SMOL, "contexts": len(contexts)}
            options = {"budget": budget, "counter": models.engine(SMOL)}
            measured(key, slug, models, SMOL, contexts, arguments.work, extra={"budget": budget}, **options)


def paragraphs(text: str, count: int) -> list[str]:
    """Paragraphs of the article with the most of a fit length; those that are most alike."""
    articles = re.split(r"^ = [^=].*[^=] = $", text, flags=re.MULTILINE)
    fit = [[line for line in article.split("\n") if WORDS[0] <= len(line.split()) <= WORDS[1]] for article in articles]
    chosen = [plain(line) for line in max(fit, key=len)]
    alike = bm25(chosen)
    nearest = sorted(range(len(chosen)), key=lambda row: -float(alike[row].sum() - alike[row, row]))
    return [chosen[row] for row in sorted(nearest[:count])]


def plain(line: str) -> str:
    """WikiText's spaced tokens as running text."""
    line = re.sub(r" @(.)@ ", r"\1", line.strip().replace("<unk>", "Unk"))
    return re.sub(r" ([,.;:!?)\]\'])|([(\[]) ", lambda match: match[1] or match[2], line)


def shortened(text: str, budget: int, tokenizer: Any, chance: random.Random | None) -> str:
    """Words in order within a budget of tokens: the first ones, or by chance."""
    words = text.split()
    order = list(range(len(words)))
    if chance is not None:
        chance.shuffle(order)
    kept: list[int] = []
    for word in order:
        trial = sorted([*kept, word])
        if len(tokenizer.encode(" ".join(words[at] for at in trial), add_special_tokens=False)) > budget:
            break
        kept = trial
    return " ".join(words[at] for at in kept)


# ---- records ---------------------------------------------------------------------------------------------------------


def records(arguments: argparse.Namespace) -> None:
    """Near-duplicate notes: bits per token against the answers of three predictors."""
    models = Models(arguments)
    every = notes.every_combination(ASKED)
    contexts = [notes.text_of(record) for record in every]
    asked = notes.questions(every, ASKED)
    sources: list[tuple[str, Any, dict[str, Any]]] = [(name, name, {}) for name in ("Qwen 0.5B", "Qwen 1.5B", SMOL)]
    for delta in KEPT:
        kept = notes.keep_slots(every, list(notes.SLOTS), delta)
        sources.append((f"keeps {1 - delta:.0%} of the facts", kept.texts, {"kept": kept.kept}))
    sources.append(("whole note", contexts, {}))
    reports = []
    for name, source, extra in sources:
        key = {"part": "records", "compressor": name, "scorer": SMOL, "contexts": len(contexts)}
        writer = models.engine(source) if isinstance(source, str) else source
        reports.append(measured(key, writer, models, SMOL, contexts, arguments.work, extra=extra))
    for predictor in arguments.predictors:
        for report in reports:
            answered(report, models.engine(predictor), predictor, asked, arguments.work)


def answered(report: InformationReport, engine: Any, predictor: str, asked: Any, work: Path) -> None:
    """What a predictor answers from a compressor's texts."""
    key = {"part": "answers", "compressor": report.compressor, "predictor": predictor, "contexts": len(asked)}
    if key in STORE:
        return
    started = time.perf_counter()
    folder = work / slug(f"answers {report.compressor} {predictor}")
    answers = answer_questions(engine, report.texts, asked, max_new_tokens=16, folder=folder, name=predictor)
    found = point(report, answers)
    values = {
        name: getattr(found, name) for name in ("bits", "length", "rate", "distortion", "error", "tokens", "flops")
    }
    right = [record["score"] for record in answers.records]
    values |= {"ceiling_bits": found.ceiling_bits, "saturation": report.saturation, "right": right}
    STORE.add(key, values | {"seconds": time.perf_counter() - started})
    print(f"{report.compressor} -> {predictor}: {sum(right):.0f} of {len(right)}", flush=True)


# ---- shared ----------------------------------------------------------------------------------------------------------


class Models:
    """The three models, each loaded when it is first needed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.files = {"Qwen 0.5B": arguments.small, "Qwen 1.5B": arguments.large}
        self.threads = arguments.threads
        self.engine = cache(self._load)

    def _load(self, name: str) -> Any:
        if name == SMOL:
            return szilard.load(engine="transformers")
        from szilard.engines.llama_cpp_engine import LlamaCppEngine

        if not self.files[name]:
            raise ValueError(f"{name} is needed: give its GGUF file as --{'small' if '0.5' in name else 'large'}.")
        return LlamaCppEngine(self.files[name], name=name, threads=self.threads)


def measured(
    key: dict[str, Any],
    source: Any,
    models: Models,
    scorer: str,
    contexts: list[str],
    work: Path,
    *,
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> InformationReport:
    """The report of one compressor, recorded; what lies in the work folder is not made again."""
    started = time.perf_counter()
    folder = work / slug(" ".join(str(key[name]) for name in ("part", "compressor", "scorer")))
    report = agentic_mi(
        source,
        models.engine(scorer),
        contexts,
        samples=1,
        max_new_tokens=96,
        folder=folder,
        name=key["compressor"],
        batch_size=4,
        **options,
    )
    if key not in STORE:
        values = report.to_dict() | {"seconds": time.perf_counter() - started} | (extra or {})
        STORE.add(key, values | {"texts": [row[0] for row in report.texts[:2]]})
    print(
        f"{key['part']}, {key['compressor']} ({scorer}): {report.bits:.2f} of {report.ceiling_bits:.2f} bits, saturated "
        f"{report.saturation:.0%}, {report.scorer_length:.0f} tokens {extra or ''}",
        flush=True,
    )
    return report


def slug(text: str) -> str:
    """A folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    main()
