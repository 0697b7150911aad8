"""LLMLingua-2 from training to answers: how well a fitted classifier drops words, beside what asks a language model.

    python benchmarks/llmlingua2_training.py --data FOLDER --encoder all-MiniLM-L6-v2 [--part train,labels,masks,survival,answers]

`train` fits all-MiniLM-L6-v2 through `szilard train llmlingua2`'s pipeline. `labels`: token F1 of "keep" on held-out
contexts with facts (new names, things, statements and talk) and on running text that was not trained on. `masks`: one
small encoder, fitted on running text with and without sight of what follows. `survival`: how often the answer to a
question is still in the context, at equal tokens of the model that is to read it. `answers`: how often that model then
gives it. FOLDER holds wikitext2_valid.txt and wikitext2_test.txt. Records go to results/llmlingua2-training.jsonl; what
is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from results_store import Store
from rich.progress import track
from transformers import AutoConfig

import szilard
import szilard_zoo
from szilard.compression.dropping import ScoredText
from szilard.compression.llmlingua2.annotation import annotate_pairs
from szilard.compression.llmlingua2.rule_teacher import RuleTeacher
from szilard.compression.llmlingua2.training import Collate, Stretches, load_classifier, measure, train_classifier
from szilard.compression.llmlingua2.training_config import ClassifierConfig
from szilard.compression.selective_context import SelectiveContext, units
from szilard.compression.self_information import encoded, per_unit, self_information
from szilard_zoo import train_tiny_llmlingua2 as recipe
from szilard_zoo.fact_contexts import FactContext, dataset

PARTS = ("train", "labels", "masks", "survival", "answers")
RATES = (0.5, 0.33, 0.2)
TEXTS, CONTEXTS = 1000, 1000  # pairs to train all-MiniLM-L6-v2 on
FULL = ClassifierConfig(epochs=1.0, learning_rate=5e-5, held_out=0.1)
MASKS = ClassifierConfig(epochs=2, batch_size=16, learning_rate=1e-4, held_out=0.2)
ORDER = (1.0, 0.33, 0.2, 0.5)  # in which answers are asked for: a stopped run has whole comparisons
AT_ONCE = 8


@dataclass(frozen=True)
class ReadOnce(SelectiveContext):
    """Selective Context that asks the model once for all rates and units: what it says does not depend on them."""

    known: ClassVar[dict[Any, Any]] = {}

    def informed(self, contexts: Sequence[str], model: Any) -> list[ScoredText]:
        read = [encoded(model, text) for text in contexts]
        if tuple(contexts) not in self.known:
            self.known[tuple(contexts)] = self_information(model, [ids for ids, _ in read])[0]
        found = []
        for text, (_, places), nats in zip(contexts, read, self.known[tuple(contexts)], strict=True):
            spans, forced = self.segmented(text, units(text, places, self.unit))
            found.append(ScoredText(text, spans, per_unit(nats, spans, places, mean=True), forced))
        return found


def compressors(full: Path, tiny: str) -> dict[str, Any]:
    """Contestants by name."""
    found: dict[str, Any] = {}
    if (full / "model.safetensors").is_file():
        found["llmlingua2, all-MiniLM-L6-v2"] = szilard.LlmLingua2(checkpoint=str(full))
    if Path(tiny).is_dir() or tiny.removeprefix("zoo/") in szilard_zoo.names():
        found["llmlingua2, tiny"] = szilard.LlmLingua2(checkpoint=tiny)
    return found | {
        "selective-context, phrases": ReadOnce(),
        "selective-context, words": ReadOnce(unit="word"),
        "llmlingua": szilard.LlmLingua(segment=100),
        "random-dropping": szilard.RandomDropping(),
        "truncation": szilard.Truncation(),
    }


def survives(answer: str, text: str) -> bool:
    """Whether an answer is in a text, as words of its own."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def summary(scores: Sequence[float]) -> dict[str, Any]:
    """Mean, its 95 % interval (Wilson's, which has a width at 0 and 1 too), and how many were counted."""
    count, mean, z = len(scores), sum(scores) / len(scores), 1.96
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2)
    return {"mean": mean, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "count": count}


# --- training and labels --------------------------------------------------------------------------------------------


def train_full(arguments: argparse.Namespace, full: Path) -> None:
    """All-MiniLM-L6-v2, whole, on both kinds of pairs."""
    pairs = recipe.training_pairs(arguments.data / "wikitext2_valid.txt", TEXTS, CONTEXTS)
    print(train_classifier(pairs, arguments.encoder, FULL, full, device="cpu"))


def label_pairs(data: Path) -> dict[str, list[recipe.Pair]]:
    """What labels are measured on; the rule teacher counts words in the training text, as it did for training."""
    teacher = RuleTeacher(recipe.running_text(data / "wikitext2_valid.txt"))
    text = recipe.text_pairs(recipe.running_text(data / "wikitext2_test.txt"), 100, 0, teacher)
    found: dict[str, list[recipe.Pair]] = {"running text": text}
    for split, name in (("names", "facts, new names"), ("heldout", "facts, all new")):
        found[name] = [(one.text, one.compressed) for one in dataset(split, 150, 5)]
    return found


def labels(arguments: argparse.Namespace, store: Store, checkpoints: dict[str, str]) -> None:
    """Token F1 of each checkpoint."""
    for kind, pairs in label_pairs(arguments.data).items():
        for name, where in checkpoints.items():
            key = {"part": "labels", "on": kind, "checkpoint": name}
            if key not in store:
                store.add(key, {"tokens": measured(where, pairs), "pairs": len(pairs)})


def measured(where: str, pairs: Sequence[recipe.Pair]) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of a classifier's tokens."""
    if where.startswith("zoo/"):
        from szilard.engines.loading import zoo_folder

        where = str(zoo_folder(where.removeprefix("zoo/")))
    classifier, tokenizer = load_classifier(where, 0)
    data = Stretches(annotate_pairs(pairs), tokenizer, 512)
    return measure(classifier, data, Collate(int(tokenizer.pad_token_id)))


def masks(arguments: argparse.Namespace, store: Store, work: Path) -> None:
    """The small encoder on running text alone: both sides in view, or only what is before."""
    pairs = recipe.text_pairs(recipe.running_text(arguments.data / "wikitext2_valid.txt"), 1000, 0)
    asked = label_pairs(arguments.data)["running text"]
    for causal in (False, True):
        key = {"part": "masks", "causal": causal}
        if key in store:
            continue
        folder = work / ("causal" if causal else "both-sides")
        encoder = folder / "encoder"
        if not (encoder / "tokenizer.json").is_file():
            recipe.cut_encoder(arguments.encoder, [original for original, _ in pairs], encoder)
        if causal:
            config = AutoConfig.from_pretrained(encoder)
            config.is_decoder = True  # BERT with a causal mask
            config.save_pretrained(encoder)
        train_classifier(pairs, str(encoder), MASKS, folder / "trained", device="cpu")
        store.add(
            key, {"tokens": measured(str(folder / "trained"), asked), "pairs": len(asked), "layers": recipe.LAYERS}
        )


# --- questions ------------------------------------------------------------------------------------------------------


def blocks(contexts: int) -> list[list[FactContext]]:
    """Held-out contexts that are shortened together."""
    found = list(dataset("heldout", contexts, 1))
    return [found[start : start + AT_ONCE] for start in range(0, contexts, AT_ONCE)]


def survival(store: Store, methods: dict[str, Any], engine: Any, contexts: int) -> None:
    """What each contestant leaves of held-out contexts, block by block."""
    for number, block in enumerate(track(blocks(contexts), description="contexts")):
        for name, method in methods.items():
            for rate in RATES:
                key = {"part": "survival", "method": name, "rate": rate, "block": number}
                if key in store:
                    continue
                started = time.perf_counter()
                left = method.compress([one.text for one in block], rate, engine=engine)
                store.add(
                    key,
                    {
                        "seconds": time.perf_counter() - started,
                        "texts": [one.text for one in left],
                        "tokens": [one.compressed_tokens for one in left],
                        "original_tokens": [one.original_tokens for one in left],
                        "survives": [
                            [survives(asked.answer, shorter.text) for asked in one.questions]
                            for one, shorter in zip(block, left, strict=True)
                        ],
                    },
                )


def answers(store: Store, engine: Any, contexts: int) -> None:
    """The model's answers from what is left: of each context, to its first, second, ... question in turn.

    Facts stand in the order of the questions, so that first questions alone would favour whoever keeps beginnings.
    """
    left = {
        (record["key"]["method"], record["key"]["rate"], record["key"]["block"]): record["texts"]
        for record in store
        if record["key"]["part"] == "survival"
    }
    for number, block in enumerate(blocks(contexts)):
        left["uncompressed", 1.0, number] = [one.text for one in block]
    asked = sorted(
        (key for key in left if key[2] < -(-contexts // AT_ONCE)), key=lambda key: (ORDER.index(key[1]), key[2], key[0])
    )
    by_block = blocks(contexts)
    for name, rate, number in track(asked, description="answers"):
        key = {"part": "answers", "method": name, "rate": rate, "block": number, "questions": "in turn"}
        if key in store:
            continue
        questions = [one.questions[place % len(one.questions)] for place, one in enumerate(by_block[number])]
        prompts = [
            f"{text}\n\nQuestion: {one.text}\nAnswer:{one.text.removeprefix('What is').rstrip('?').replace(' the', ' The', 1)} is"
            for text, one in zip(left[name, rate, number], questions, strict=True)
        ]
        results = engine.generate(prompts, max_new_tokens=8, raw=True, trace=False)
        said = [result.text for result in results]
        right = [survives(one.answer, text.split("\n")[0]) for one, text in zip(questions, said, strict=True)]
        store.add(key, {"said": said, "right": right})


# --- the end --------------------------------------------------------------------------------------------------------


def report(store: Store) -> dict[str, Any]:
    """What was found, by part."""
    found: dict[str, Any] = {"labels": {}, "masks": {}, "survival": {}, "answers": {}}
    rows: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for record in store:
        key = record["key"]
        if key["part"] == "labels":
            found["labels"][f"{key['checkpoint']} on {key['on']}"] = record["tokens"]
        elif key["part"] == "masks":
            found["masks"]["causal" if key["causal"] else "both sides"] = record["tokens"]
        elif key["part"] in ("survival", "answers"):
            rows.setdefault((key["part"], key["method"], key["rate"]), []).append(record)
    for (part, name, rate), records in sorted(rows.items(), key=lambda row: (row[0][0], -row[0][2], row[0][1])):
        if part == "survival":
            scores = [float(one) for record in records for context in record["survives"] for one in context]
            tokens = [count for record in records for count in record["tokens"]]
            original = [count for record in records for count in record["original_tokens"]]
            seconds = sum(record["seconds"] for record in records) / len(tokens)
            extra = {"tokens": sum(tokens) / len(tokens), "rate": sum(tokens) / sum(original), "seconds": seconds}
        else:
            scores, extra = [float(one) for record in records for one in record["right"]], {}
        found[part][f"{name} @ {rate:g}"] = summary(scores) | extra
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with wikitext2_valid.txt and wikitext2_test.txt"
    )
    parser.add_argument("--encoder", required=True, help="all-MiniLM-L6-v2: folder or hub id")
    parser.add_argument("--part", default=",".join(PARTS), help="what to do (default: everything)")
    parser.add_argument("--work", type=Path, default=Path("build/llmlingua2"), help="trainings, resumable")
    parser.add_argument("--tiny", default="zoo/tiny-llmlingua2", help="the zoo's checkpoint")
    parser.add_argument("--contexts", type=int, default=104, help="held-out contexts, of about three questions each")
    parser.add_argument("--answered", type=int, default=64, help="of which so many are answered, one question each")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = arguments.part.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--part takes {', '.join(PARTS)}, not {', '.join(unknown)}")
    store, full = Store("llmlingua2-training"), arguments.work / "minilm"
    if "train" in parts:
        train_full(arguments, full)
    if "labels" in parts:
        labels(arguments, store, {"all-MiniLM-L6-v2": str(full), "tiny": arguments.tiny})
    if "masks" in parts:
        masks(arguments, store, arguments.work)
    if {"survival", "answers"} & set(parts):
        engine = szilard.load()
        if "survival" in parts:
            survival(store, compressors(full, arguments.tiny), engine, arguments.contexts)
        if "answers" in parts:
            answers(store, engine, arguments.answered)
    print(json.dumps(report(store), indent=1))


if __name__ == "__main__":
    main()
