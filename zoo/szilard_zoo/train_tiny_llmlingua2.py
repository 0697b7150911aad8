"""The recipe of `tiny-llmlingua2`: a small encoder that says which words of a text to keep.

    python -m szilard_zoo.train_tiny_llmlingua2 --encoder all-MiniLM-L6-v2 --data wikitext2_valid.txt \\
        -o zoo/szilard_zoo/tiny-llmlingua2

It begins as all-MiniLM-L6-v2 cut to its first layers and to the pieces of its vocabulary that the training texts use
most, with the numbers that it has there, and learns from two teachers: `szilard`'s rule teacher on running text, and
on contexts with facts (`szilard_zoo.fact_contexts`) what is known to matter. It is kept in float16.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer

from szilard.compression.llmlingua2.distillation import chunks
from szilard.compression.llmlingua2.rule_teacher import RuleTeacher
from szilard.compression.llmlingua2.training import train_classifier
from szilard.compression.llmlingua2.training_config import ClassifierConfig
from szilard_zoo.fact_contexts import dataset

Pair = tuple[str, str]
CHUNK = 120  # words of a chunk of running text, at most; fact contexts are as long
LAYERS, PIECES = 2, 5600
_LEAST = 30  # words
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONFIG = ClassifierConfig(epochs=3, batch_size=16, learning_rate=1e-4, schedule="linear", warmup=0.05, held_out=0.1)


# --- texts ----------------------------------------------------------------------------------------------------------


def running_text(file: Path) -> list[str]:
    """The paragraphs of a WikiText file of at least 40 words, its tokenisation undone, unknown words left out."""
    lines = file.read_text(encoding="utf-8").split("\n")
    return [_written(line) for line in lines if len(line.split()) >= 40 and not line.strip().startswith("=")]


def _written(line: str) -> str:
    line = re.sub(r" @([-,.])@ ", r"\1", line).replace("<unk>", "").replace(" n't", "n't")
    line = re.sub(r" ([.,;:!?%)\]'’])", r"\1", line)
    line = re.sub(r'" ([^"]*?) "', r'"\1"', re.sub(r"([(\[$£]) ", r"\1", line))
    return re.sub(r" {2,}", " ", line).strip()


def text_pairs(paragraphs: Sequence[str], most: int, seed: int, teacher: RuleTeacher | None = None) -> list[Pair]:
    """Chunks of running text and what the rule teacher leaves of them, in a drawn order."""
    found = [
        chunk
        for paragraph in paragraphs
        for chunk in chunks(paragraph, lambda text: len(text.split()), CHUNK)
        if len(chunk.split()) >= _LEAST
    ]
    random.Random(seed).shuffle(found)
    found = found[:most]
    return list(zip(found, (teacher or RuleTeacher(paragraphs)).compress(found), strict=True))


def training_pairs(data: Path, texts: int, contexts: int, seed: int = 0) -> list[Pair]:
    """(original, compressed) of both teachers, mixed."""
    pairs = text_pairs(running_text(data), texts, seed)
    pairs += [(context.text, context.compressed) for context in dataset("train", contexts, seed)]
    random.Random(seed).shuffle(pairs)
    return pairs


# --- the encoder ----------------------------------------------------------------------------------------------------


def cut_encoder(
    encoder: str, texts: Sequence[str], folder: Path, *, layers: int = LAYERS, pieces: int = PIECES
) -> None:
    """Write an encoder of BERT's form with its first layers and its most used pieces, and their tokenizer.

    Args:
        encoder: folder or hub id.
        texts: what counts as use; single letters, digits and signs stay in any case.
        folder: where it goes.
        layers, pieces: what stays.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = backend["model"]["vocab"]
    used: Counter[str] = Counter()
    for text in texts:
        used.update(tokenizer.tokenize(text))
    signs = [piece for piece in vocabulary if len(piece.removeprefix("##")) == 1 and piece[-1].isascii()]
    chosen = dict.fromkeys([*_SPECIAL, *signs, *(piece for piece, _ in used.most_common())])
    kept = sorted(list(chosen)[:pieces], key=vocabulary.__getitem__)
    rows = torch.tensor([vocabulary[piece] for piece in kept])
    numbers = {piece: index for index, piece in enumerate(kept)}
    backend["model"]["vocab"] = numbers
    for token in backend["added_tokens"]:
        token["id"] = numbers[token["content"]]
    for name, token in backend["post_processor"].get("special_tokens", {}).items():
        token["ids"] = [numbers[name]]
    backend["truncation"] = backend["padding"] = None
    model: Any = AutoModel.from_pretrained(encoder, dtype=torch.float32, add_pooling_layer=False)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    weights = model.get_input_embeddings().weight.detach()[rows].clone()
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(weights)
    model.config.pad_token_id = numbers["[PAD]"]
    model.save_pretrained(folder)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    tokenizer.save_pretrained(folder)


# --- training -------------------------------------------------------------------------------------------------------


def train(
    encoder: str,
    data: Path,
    folder: Path,
    *,
    work: Path,
    config: ClassifierConfig = _CONFIG,
    texts: int = 2000,
    contexts: int = 800,
    layers: int = LAYERS,
    pieces: int = PIECES,
) -> dict[str, float]:
    """Train the classifier and write its folder in float16.

    Args:
        encoder: what it is cut from.
        data: running text (WikiText-2's validation part).
        folder: where the checkpoint goes.
        work: where what a stopped run goes on from lies.
        config: of the training.
        texts, contexts: pairs of either teacher.
        layers, pieces: of the encoder.

    Returns:
        Of pairs of the training texts that were held out; see `train_classifier`.
    """
    pairs = training_pairs(data, texts, contexts, config.seed)
    small = work / f"encoder-{layers}-{pieces}"
    if not (small / "tokenizer.json").is_file():
        cut_encoder(encoder, [original for original, _ in pairs], small, layers=layers, pieces=pieces)
    metrics = train_classifier(pairs, str(small), config, work / "trained", device="cpu")
    model = AutoModelForTokenClassification.from_pretrained(work / "trained", dtype=torch.float16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(work / "trained").save_pretrained(folder)
    for name in ("metrics.jsonl", "validation.jsonl", "training.yaml", "held-out.yaml"):
        (folder / name).write_text((work / "trained" / name).read_text(encoding="utf-8"), encoding="utf-8")
    return metrics


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="all-MiniLM-L6-v2: folder or hub id")
    parser.add_argument("--data", type=Path, required=True, help="running text: WikiText-2's validation part")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/tiny-llmlingua2"), help="states of an unfinished run")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    print(train(given.encoder, given.data, given.output, work=given.work))


if __name__ == "__main__":
    main()
