"""What soft compressors keep: pairs of words scattered over a text, asked for behind its vectors.

    python benchmarks/soft_recall.py words --data FOLDER [--methods 'mean-pool;comprexit'] [--ratios 4,8,16]
    python benchmarks/soft_recall.py dictionaries

words: the decoder is zoo/tiny-recall, which finds every pair in the text itself; texts are of WikiText-2, validation
part (learned) and test part (asked), with pairs of words set in, then all keys in another order, each with its value.
dictionaries: the decoder is the language model of benchmarks/arc_encoder_training.py, trained there on "key value key
value ..." with look-ups behind it; eight pairs in 16 tokens, eight look-ups.

Every compressor is trained for the same steps on the same texts and has ceil(tokens / ratio) vectors per context.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import arc_encoder_training as arc
import torch
from results_store import Store

import szilard
from szilard.engines.prepared_context import SoftPrompt
from szilard.evaluation.long_context import PAIR, WORDS

CONTEXT, PAIRS = 64, 4  # of words
TARGET = 3 * PAIRS  # " key", ":", " value"
TRAINED, ASKED = 12_000, 512


@dataclass(frozen=True)
class Task:
    """What is learned and asked.

    Attributes:
        model: the decoder, as `szilard.load` takes it.
        learned, asked: (context, target) ids.
        unit: tokens of a key with its value, the value last.
    """

    model: str
    learned: list[tuple[list[int], list[int]]]
    asked: list[tuple[list[int], list[int]]]
    unit: int

    @property
    def context(self) -> int:
        return len(self.asked[0][0])

    @property
    def target(self) -> int:
        return len(self.asked[0][1])


def words(data: Path) -> Task:
    tokenizer = szilard.load("zoo/tiny-recall", device="cpu").tokenizer
    learned, asked = ((data / f"wikitext2_{part}.txt").read_text() for part in ("valid", "test"))
    made = texts(tokenizer, learned, TRAINED, "learned"), texts(tokenizer, asked, ASKED, "asked")
    return Task("zoo/tiny-recall", *made, unit=3)


def dictionaries(decoder: Path) -> Task:
    engine = arc.tiny_decoder(decoder, 400)
    engine.tokenizer.save_pretrained(decoder)
    learned = arc.dictionaries(TRAINED, 0, arc.PAIRS, 4 * arc.PAIRS).tolist()
    asked = arc.dictionaries(ASKED, 1_000_003, arc.PAIRS, 4 * arc.PAIRS).tolist()
    middle = 2 * arc.PAIRS
    rows = [[(row[:middle], row[middle:]) for row in part] for part in (learned, asked)]
    return Task(str(decoder), *rows, unit=2)


COMMON = ["--batch-size", "32", "--log-every", "50", "--held-out", "0.02", "--seed", "0", "--warmup", "0.05"]


def texts(tokenizer, text: str, count: int, seed: str) -> list[tuple[list[int], list[int]]]:
    """(context, target) ids."""
    filler = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        words = rng.sample(WORDS, 2 * PAIRS)
        pairs = list(zip(words[::2], words[1::2], strict=True))
        stated = [
            tokenizer.encode(PAIR.format(key=key, value=f" {value}"), add_special_tokens=False) for key, value in pairs
        ]
        size = CONTEXT - sum(map(len, stated))
        start = rng.randrange(len(filler) - size)
        body = filler[start : start + size]
        context, done = [], 0
        for statement, place in zip(stated, sorted(rng.randint(0, size) for _ in stated), strict=True):
            context += body[done:place] + statement
            done = place
        context += body[done:]
        rng.shuffle(pairs)
        target = [
            token for key, value in pairs for token in tokenizer.encode(f" {key}: {value}", add_special_tokens=False)
        ]
        assert len(context) == CONTEXT and len(target) == TARGET
        made.append((context, target))
    return made


# Flags of the trainings, a line per stage; {before}: the folder of the stage before.
TRAININGS = {
    # of the layer whose states know the key of a value, from which it learns most
    "mean-pool": [
        "--ratio {ratio} --layer 1 --context {context} --target {target} --steps {steps} --learning-rate 3e-3"
    ],
    "comprexit": [
        "--ratio {ratio} --window {context} --context {context} --target {target} --no-packed --unit-states "
        "--gradient-accumulation 1 --steps {steps} --learning-rate 3e-3"
    ],
    # slots that begin larger, in a plan that keeps them to their places (ours)
    "comprexit, near": [
        "--ratio {ratio} --window {context} --context {context} --target {target} --no-packed --unit-states "
        "--gradient-accumulation 1 --steps {steps} --learning-rate 3e-3 --position 8 --gain 1.5"
    ],
    "arc-encoder": [
        "--pooling-factor {ratio} --truncate-layers 3 --bottleneck 128 --match-scale --reconstruction 0 "
        "--window {context} --target {target} --before 0 --steps {steps} --weight-decay 0 "
        "--learning-rate 1e-3 --projector-learning-rate 3e-3 --special-learning-rate 3e-3"
    ],
    "refrag": [
        "--stage reconstruction --chunk {ratio} --encoder small --context {context} --target {target} --steps {half} "
        "--learning-rate 1e-3",
        "--stage cpt --start {before} --context {context} --target {target} --steps {half} --learning-rate 1e-3 "
        "--no-curriculum",
    ],
}
OPTIONS = {"refrag": {"policy": "none"}}


def _slug(method: str) -> str:
    """Of the method, without what else stands behind a comma."""
    return method.partition(",")[0]


def train(task: Task, method: str, ratio: int, steps: int, corpus: Path, folder: Path) -> Path:
    """Train through the command line; a stopped run goes on."""
    out = folder
    for stage, flags in enumerate(TRAININGS[method]):
        before, out = out, folder / f"{method.replace(', ', '-')}-{ratio}-{stage}"
        given = flags.format(
            ratio=ratio, context=task.context, target=task.target, steps=steps, half=steps // 2, before=before
        ).split()
        command = [sys.executable, "-m", "szilard", "train", _slug(method), "--model", task.model]
        subprocess.run([*command, "--data", str(corpus), "-o", str(out), *COMMON, *given], check=True)
    return out


@torch.no_grad()
def ask(engine, soft: list[SoftPrompt], task: Task) -> dict[str, float]:
    """What the decoder knows of the words behind the vectors.

    Returns:
        "values_right": share of the values that are the likeliest token after their key; "named": share of all words'
        places at which the likeliest token is one of the context's words that was not yet said; "nats" of a word, and
        "nats_of_values".
    """
    right = named = 0
    nats = of_values = 0.0
    embed = engine.model.get_input_embeddings()
    unit = task.unit
    for one, (_, target) in zip(soft, task.asked, strict=True):
        wanted = torch.tensor(target)
        row = torch.cat([one.embeddings, embed(wanted[:-1])])
        logits = engine.model(inputs_embeds=row[None]).logits[0, one.positions - 1 :].float()
        best, each = logits.argmax(-1), torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        # keys and values, not the colons; not the first key, which stands behind a vector that ARC does not train to guess
        places = [place for place in range(1, task.target) if place % unit in (0, unit - 1)]
        named += sum(int(best[place]) in [target[later] for later in places if later >= place] for place in places)
        right += int((best == wanted)[unit - 1 :: unit].sum())
        nats += float(each[places].sum())
        of_values += float(each[unit - 1 :: unit].sum())
    count = task.target // unit * len(soft)
    named_of = len(soft) * len(places)
    return {
        "values_right": right / count,
        "named": named / named_of,
        "nats": nats / named_of,
        "nats_of_values": of_values / count,
        "asked": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("words", "dictionaries"))
    parser.add_argument("--data", type=Path, help="words: folder with wikitext2_valid.txt and wikitext2_test.txt")
    parser.add_argument("--decoder", type=Path, default=Path("build/arc-encoder/tiny/decoder"), help="dictionaries")
    parser.add_argument("--methods", default=";".join(TRAININGS), help="separated by semicolons")
    parser.add_argument("--ratios", default="4")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("build/soft-recall"))
    options = parser.parse_args()
    task = words(options.data) if options.task == "words" else dictionaries(options.decoder)
    folder = options.folder / f"{options.task}-{options.steps}"
    folder.mkdir(parents=True, exist_ok=True)
    engine = szilard.load(task.model, device="cpu")
    corpus = folder / "texts.jsonl"
    scratch = corpus.with_suffix(".tmp")
    scratch.write_text("".join(json.dumps({"ids": c + t}) + "\n" for c, t in task.learned))
    scratch.replace(corpus)
    contexts = [torch.tensor(context) for context, _ in task.asked]
    store = Store("soft_recall")
    embed = engine.model.get_input_embeddings()
    whole = [SoftPrompt(embed(row).detach(), len(row), "whole", engine.fingerprint) for row in contexts]
    for name, given in (
        ("whole context", whole),
        ("last token of the context", [dataclasses.replace(one, embeddings=one.embeddings[-1:]) for one in whole]),
    ):
        key = {"task": options.task, "method": name, "ratio": 0, "steps": 0}
        if key not in store:
            store.add(key, ask(engine, given, task) | {"positions": given[0].positions})
    for method in options.methods.split(";"):
        for ratio in map(int, options.ratios.split(",")):
            key = {"task": options.task, "method": method, "ratio": ratio, "steps": options.steps}
            if key in store:
                continue
            started = time.perf_counter()
            made = train(task, method, ratio, options.steps, corpus, folder)
            seconds = time.perf_counter() - started
            reader = szilard.load(made / "decoder", device="cpu") if (made / "decoder").is_dir() else engine
            compressor = szilard.methods()[_slug(method)].cls.from_pretrained(made, **OPTIONS.get(method, {}))
            soft = compressor.compress(contexts, engine=reader)
            positions = sum(one.positions for one in soft) / len(soft)
            found = ask(reader, soft, task) | {"positions": positions, "training_seconds": round(seconds)}
            store.add(key, found)
            print(method, ratio, found, flush=True)


if __name__ == "__main__":
    main()
