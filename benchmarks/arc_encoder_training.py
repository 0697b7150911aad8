"""What ARC-Encoder's vectors carry: a tiny model on dictionaries, and SmolLM2 on WikiText.

    python benchmarks/arc_encoder_training.py tiny -o build/arc-encoder
    python benchmarks/arc_encoder_training.py real -o build/arc-encoder --data FOLDER [--steps 300]

tiny: a language model (4 layers of width 128) is trained on texts that begin with a dictionary of up to 8 random pairs
and go on with look-ups of them; it is the frozen decoder, and its first three layers begin the encoder. Then the
encoder is trained with several settings, one at a time, on dictionaries of 8 pairs.
real: SmolLM2-135M-Instruct without its last two layers encodes 64 tokens of WikiText, and SmolLM2 goes on for 64;
FOLDER holds wikitext2_valid.txt (learned from) and wikitext2_test.txt (measured on).

Nats per token of what follows go to results/arc_encoder_training.jsonl. Killed runs go on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import szilard
from szilard.compression.arc_encoder.config import ArcConfig
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.objective import Interleaved, PassageObjective
from szilard.compression.arc_encoder.training import train_arc_encoder
from szilard.engines import TransformersEngine
from szilard.training.corpus import read_corpus
from szilard.training.hidden_states import Tokens
from szilard.training.target import Target

WORDS, PAIRS, LENGTH = 16, 8, 64  # keys and as many values; pairs of a dictionary; tokens of the model's own texts
CURRICULUM = (1, 2, 2, 3, 3, 4, 4, 6, 6, 8)  # pairs, batch by batch: of 8 alone a model this small learns very slowly
TINY = ArcConfig(
    batch_size=32,
    learning_rate=1e-3,
    special_learning_rate=1e-3,
    projector_learning_rate=1e-3,
    warmup=0.1,
    weight_decay=0.0,
    window=2 * PAIRS,
    target=2 * PAIRS,
    before=0,
    truncate_layers=1,
    pooling_factor=4,
    held_out=0.02,
    log_every=50,
    save_every=100,
)
ARMS: dict[str, dict[str, Any]] = {
    "x=4": {},
    "x=8": {"pooling_factor": 8},
    "x=4, no reconstruction": {"reconstruction": 0.0},
    "x=4, reconstruction alone": {"reconstruction": 1.0},
    "x=4, causal encoder": {"attention": "causal"},
    "x=4, last-token queries": {"queries": "last"},
}


def dictionaries(count: int, seed: int, pairs: int, length: int) -> torch.Tensor:
    """Texts int64 [count, length]: a dictionary "key value key value ...", then look-ups of it, drawn with replacing."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, WORDS, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(WORDS, (count, pairs), generator=generator) + WORDS
    asked = torch.randint(pairs, (count, length // 2 - pairs), generator=generator)
    header = torch.stack([keys, values], 2)
    looked = torch.stack([keys.gather(1, asked), values.gather(1, asked)], 2)
    return torch.cat([header, looked], 1).flatten(1)


def tiny_decoder(folder: Path, steps: int) -> TransformersEngine:
    """The language model on dictionaries, trained once and kept."""
    words = {f"{kind}{index}": offset + index for kind, offset in (("k", 0), ("v", WORDS)) for index in range(WORDS)}
    backend = Tokenizer(models.WordLevel(words | {"?": 2 * WORDS}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="?")
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=2 * WORDS + 1,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            pad_token_id=2 * WORDS,
            bos_token_id=None,
            eos_token_id=None,
            initializer_range=0.05,
        )
        model: Any = AutoModelForCausalLM.from_config(config)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
        # a long schedule, of which the first fifth is run: with a rate that falls early, look-ups are not learned
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=5 * steps, pct_start=0.05)
        for step in range(steps):
            pairs = CURRICULUM[step % len(CURRICULUM)]
            ids = dictionaries(32, step, pairs, LENGTH)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 50 in (0, 9):
                print(f"language model, step {step}, {pairs} pairs: {float(loss):.3f} nats", flush=True)
        model.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return TransformersEngine(model, tokenizer, name="tiny-dictionaries")


def tiny(folder: Path, steps: int, model_steps: int) -> None:
    store = Store("arc_encoder_training")
    engine = tiny_decoder(folder / "decoder", model_steps)
    data = folder / "dictionaries.jsonl"
    data.write_text(
        "".join(json.dumps({"ids": row}) + "\n" for row in dictionaries(16_000, 0, PAIRS, 4 * PAIRS).tolist())
    )
    for arm, changed in ARMS.items():
        key = {"experiment": "tiny", "arm": arm, "steps": steps, "model_steps": model_steps, "pairs": PAIRS}
        if key in store:
            continue
        config = replace(TINY, steps=steps, **changed)
        start = time.perf_counter()
        found = train_arc_encoder(engine, data, config, folder / arm.replace(" ", "-"))
        seconds = time.perf_counter() - start
        print(arm, {name: round(value, 4) for name, value in found.items()}, f"{seconds:.0f} s", flush=True)
        store.add(key, {name: round(value, 5) for name, value in found.items()} | {"seconds": round(seconds)})


def articles(file: Path, out: Path) -> Path:
    """The articles of a file of WikiText, a record each."""
    found: list[list[str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("= ") and not text.startswith("= ="):
            found.append([])
        if text and found:
            found[-1].append(text)
    out.write_text("".join(json.dumps({"text": "\n".join(article)}) + "\n" for article in found), encoding="utf-8")
    return out


def real(folder: Path, data: Path, steps: int, factor: int) -> None:
    store = Store("arc_encoder_training")
    key = {"experiment": "real", "model": "SmolLM2-135M-Instruct", "factor": factor, "steps": steps, "tokens": 64}
    if key in store:
        return
    folder.mkdir(parents=True, exist_ok=True)
    learned = articles(data / "wikitext2_valid.txt", folder / "learned.jsonl")
    measured = articles(data / "wikitext2_test.txt", folder / "measured.jsonl")
    engine: Any = szilard.load(device="cpu", dtype="float32")
    before = engine.fingerprint
    config = ArcConfig(
        steps=steps,
        batch_size=4,
        learning_rate=1e-4,
        special_learning_rate=1e-3,
        projector_learning_rate=1e-3,
        warmup=0.05,
        weight_decay=0.0,
        precision="bfloat16",
        window=64,
        target=64,
        before=0,
        pooling_factor=factor,
        held_out=0.02,
        save_every=20,
        log_every=10,
    )
    out = folder / f"smollm2-x{factor}"
    start = time.perf_counter()
    train_arc_encoder(engine, learned, config, out)
    seconds = time.perf_counter() - start
    arc = ArcModel.from_pretrained(out)
    name = arc.decoder_of(engine)
    tokens = Tokens(Target(engine), list(read_corpus(measured, engine)), max_length=config.max_length)
    passages = Interleaved(tokens, 64, 64, 0)
    chosen = [passages[index] for index in range(0, len(passages), max(1, len(passages) // 96))][:96]
    found = PassageObjective(arc, {name: engine}, config).measure(chosen)
    assert engine.fingerprint == before and all(weight.grad is None for weight in engine.model.parameters())
    print(key, {name: round(value, 4) for name, value in found.items()}, f"{seconds:.0f} s", flush=True)
    store.add(
        key,
        {name: round(value, 5) for name, value in found.items()}
        | {
            "passages": len(chosen),
            "decoder_tokens_per_vector": round(64 / math.ceil(64 / factor), 3),
            "seconds": round(seconds),
            "encoder_parameters": arc.encoder_parameters,
            "decoder_parameters": engine.parameter_count,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("tiny", "real"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="real: folder with WikiText")
    parser.add_argument("--steps", type=int, help="of the encoder's training; tiny: 400, real: 300")
    parser.add_argument("--model-steps", type=int, default=400, help="tiny: of the language model")
    parser.add_argument("--factor", type=int, default=4, help="real: tokens per vector")
    arguments = parser.parse_args()
    if arguments.which == "tiny":
        tiny(arguments.output / "tiny", arguments.steps or 400, arguments.model_steps)
    elif arguments.data is None:
        parser.error("real needs --data FOLDER with wikitext2_valid.txt and wikitext2_test.txt")
    else:
        real(arguments.output / "real", arguments.data, arguments.steps or 300, arguments.factor)


if __name__ == "__main__":
    main()
