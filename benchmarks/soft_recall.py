"""What soft compressors keep: pairs of words scattered over a text, asked for behind its vectors.

    python benchmarks/soft_recall.py --data FOLDER [--methods mean-pool,comprexit] [--ratios 4,8,16]

The decoder is zoo/tiny-recall, which finds every pair in the text itself. Each compressor is trained for the same steps
on the same texts (WikiText-2, validation part, with pairs set in, then all keys in another order, each with its value)
and asked on texts of the test part. Same budget: ceil(tokens / ratio) vectors per context.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import torch
from results_store import Store

import szilard
from szilard.compression.soft_prompt import SoftPrompt
from szilard.evaluation.long_context import PAIR, WORDS

CONTEXT, PAIRS = 64, 4
TRAINED, ASKED = 12_000, 512
TARGET = 3 * PAIRS  # " key", ":", " value"
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


def train(method: str, ratio: int, steps: int, corpus: Path, folder: Path) -> Path:
    """Train through the command line; a stopped run goes on."""
    out = folder
    for stage, flags in enumerate(TRAININGS[method]):
        before, out = out, folder / f"{method}-{ratio}-{stage}"
        given = flags.format(
            ratio=ratio, context=CONTEXT, target=TARGET, steps=steps, half=steps // 2, before=before
        ).split()
        command = [sys.executable, "-m", "szilard", "train", method, "--model", "zoo/tiny-recall"]
        subprocess.run([*command, "--data", str(corpus), "-o", str(out), *COMMON, *given], check=True)
    return out


@torch.no_grad()
def ask(engine, soft: list[SoftPrompt], targets: list[list[int]]) -> dict[str, float]:
    """What the decoder knows of the words behind the vectors.

    Returns:
        "values_right": share of the values that are the likeliest token after their key; "named": share of all words'
        places at which the likeliest token is one of the context's words that was not yet said; "nats" of a word, and
        "nats_of_values".
    """
    right = named = 0
    nats = of_values = 0.0
    embed = engine.model.get_input_embeddings()
    for one, target in zip(soft, targets, strict=True):
        wanted = torch.tensor(target)
        row = torch.cat([one.embeddings, embed(wanted[:-1])])
        logits = engine.model(inputs_embeds=row[None]).logits[0, one.positions - 1 :].float()
        best, each = logits.argmax(-1), torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        # keys and values, not the colons; not the first key, which stands behind a vector that ARC does not train to guess
        places = [place for place in range(1, TARGET) if place % 3 != 1]
        named += sum(int(best[place]) in [target[later] for later in places if later >= place] for place in places)
        right += int((best[2::3] == wanted[2::3]).sum())
        nats += float(each[places].sum())
        of_values += float(each[2::3].sum())
    count = PAIRS * len(soft)
    return {
        "values_right": right / count,
        "named": named / (len(soft) * (2 * PAIRS - 1)),
        "nats": nats / (len(soft) * (2 * PAIRS - 1)),
        "nats_of_values": of_values / count,
        "asked": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with wikitext2_valid.txt and wikitext2_test.txt"
    )
    parser.add_argument("--methods", default=",".join(TRAININGS))
    parser.add_argument("--ratios", default="4,8,16")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--folder", type=Path, default=Path("build/soft-recall"))
    parser.add_argument("--store", default="soft_recall")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    engine = szilard.load("zoo/tiny-recall", device="cpu")
    corpus = options.folder / "pairs.jsonl"
    if not corpus.exists():
        made = texts(engine.tokenizer, (options.data / "wikitext2_valid.txt").read_text(), TRAINED, "learned")
        scratch = corpus.with_suffix(".tmp")
        scratch.write_text("".join(json.dumps({"ids": c + t}) + "\n" for c, t in made))
        scratch.replace(corpus)
    asked = texts(engine.tokenizer, (options.data / "wikitext2_test.txt").read_text(), ASKED, "asked")
    contexts = [torch.tensor(context) for context, _ in asked]
    targets = [target for _, target in asked]
    store = Store(options.store)
    embed = engine.model.get_input_embeddings()
    whole = [SoftPrompt(embed(row).detach(), len(row), "whole", engine.fingerprint) for row in contexts]
    key = {"method": "whole context", "ratio": 1, "steps": 0}
    if key not in store:
        store.add(key, ask(engine, whole, targets))
    for method in options.methods.split(","):
        for ratio in map(int, options.ratios.split(",")):
            key = {"method": method, "ratio": ratio, "steps": options.steps}
            if key in store:
                continue
            started = time.perf_counter()
            folder = train(method, ratio, options.steps, corpus, options.folder)
            seconds = time.perf_counter() - started
            reader = szilard.load(folder / "decoder", device="cpu") if (folder / "decoder").is_dir() else engine
            compressor = szilard.methods()[method].cls.from_pretrained(folder, **OPTIONS.get(method, {}))
            soft = compressor.compress(contexts, engine=reader)
            positions = sum(s.positions for s in soft) / len(soft)
            found = ask(reader, soft, targets) | {"positions": positions, "training_seconds": round(seconds)}
            store.add(key, found)
            print(method, ratio, found, flush=True)


if __name__ == "__main__":
    main()
