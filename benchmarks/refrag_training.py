"""REFRAG's stages on tiny decoders, and the first of them on a real one.

    python benchmarks/refrag_training.py curriculum -o build/refrag
    python benchmarks/refrag_training.py policy -o build/refrag
    python benchmarks/refrag_training.py real -o build/refrag --data FOLDER --encoder FOLDER [--chunk 4] [--steps 200]

curriculum: a frozen decoder of 4 layers writes 8 chunks of 4 tokens again from their vectors; learned with the
curriculum, and from whole contexts at once, in as many steps.

policy: 8 chunks of 4 tokens, of which one is marked; the text goes on with the marked chunk, again. Vectors are narrow,
so expanding pays. How often is the marked chunk the one that a policy expands?

real: the embedded SmolLM2-135M, frozen, reads chunks of WikiText (FOLDER/wikitext2_valid.txt) that a sentence encoder
made vectors of; nats per token on paragraphs held out.

Results go to results/refrag.jsonl. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import szilard
from szilard.compression.refrag.config import RefragConfig
from szilard.compression.refrag.reader import Reader
from szilard.compression.refrag.selection import POLICIES, chunk_nats, pick, policy_logits
from szilard.compression.refrag.training import train_refrag
from szilard.engines import TransformersEngine
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit

VOCAB, CHUNK, CHUNKS = 64, 4, 8
DECODER_STEPS = 1500
LENGTH = CHUNK * CHUNKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("curriculum", "policy", "real"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encoder", help="folder or hub id, of real")
    parser.add_argument("--encoder-name", default="all-MiniLM-L6-v2", help="what to call it")
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    {"curriculum": curriculum, "policy": policy, "real": real}[arguments.part](arguments)


# ---- the real one ------------------------------------------------------------------------------------------------


def real(arguments: argparse.Namespace) -> None:
    """Stage 1 on SmolLM2."""
    if arguments.data is None or arguments.encoder is None:
        raise SystemExit("real needs --data and --encoder.")
    key = {"part": "real", "decoder": "SmolLM2-135M-Instruct", "encoder": arguments.encoder_name}
    key |= {"chunk": arguments.chunk, "steps": arguments.steps, "batch": 8, "seed": arguments.seed}
    text = (arguments.data / "wikitext2_valid.txt").read_text(encoding="utf-8")
    paragraphs = [line.strip() for line in text.splitlines() if len(line) > 200]
    config = RefragConfig(
        chunk=arguments.chunk,
        encoder=arguments.encoder,
        context=4 * arguments.chunk,
        steps=arguments.steps,
        batch_size=8,
        learning_rate=1e-4,
        held_out=0.01,
        save_every=50,
        log_every=5,
        seed=arguments.seed,
    )
    run(key, szilard.load(dtype="float32"), paragraphs, config, arguments.output / f"real-{arguments.chunk}")


def run(key: dict[str, Any], engine: Any, texts: list[str], config: RefragConfig, folder: Path) -> None:
    """One training and its record."""
    store = Store("refrag")
    if key in store:
        print(key, "is done")
        return
    begun = time.process_time()
    metrics = train_refrag(engine, written(texts, folder.with_name(f"{folder.name}.jsonl")), config, folder)
    seconds = time.process_time() - begun
    print(key, {name: round(value, 4) for name, value in metrics.items()}, flush=True)
    store.add(key, {name: round(value, 5) for name, value in metrics.items()} | {"cpu_seconds": round(seconds, 1)})


def written(texts: list[str], file: Path) -> Path:
    """Texts as a corpus."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file


# ---- the tiny ones -----------------------------------------------------------------------------------------------


class Language(nn.Module):
    """The loss of a language model on texts, {"loss"}; what the tiny decoders learn first.

    Args:
        model: to be trained.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """A batch, int64 [batch, length]."""
        return {"loss": self.model(input_ids=ids, labels=ids, use_cache=False).loss}


def tokenizer_of_words() -> Any:
    """`w0` to `w63`."""
    words = {f"w{index}": index for index in range(VOCAB)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def tiny_decoder(texts: Callable[[random.Random], list[int]], steps: int, folder: Path, seed: int) -> Any:
    """A decoder of 4 layers, d = 64, that has learned a source of texts; trained once for a folder."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    rng = random.Random(seed)
    data: Any = [torch.tensor(texts(rng)) for _ in range(steps * 32)]
    config = TrainingConfig(steps=steps, batch_size=32, learning_rate=3e-3, save_every=100, log_every=20, seed=seed)
    rows = fit(Language(model), data, config, folder, collate=lambda rows: {"ids": torch.stack(rows)}, device="cpu")
    print("decoder:", round(rows[-1]["loss"], 4), "nats per token", flush=True)
    return TransformersEngine(model, tokenizer_of_words(), name=folder.name)


def chain(rng: random.Random, length: int) -> list[int]:
    """A Markov chain over 64 words with 16 equally likely successors each: ln 16 = 2.77 nats per word."""
    ids = [rng.randrange(VOCAB)]
    while len(ids) < length:
        ids.append((5 * ids[-1] + 3 * rng.randrange(16) + 3) % VOCAB)
    return ids


def copied(rng: random.Random) -> list[int]:
    """A stretch of the chain, again and again: a decoder that never saw a copy has nothing to read vectors with."""
    return (chain(rng, rng.randint(8, LENGTH)) * 8)[: 2 * LENGTH]


def words(ids: list[int]) -> str:
    """Ids as a text."""
    return " ".join(f"w{index}" for index in ids)


def curriculum(arguments: argparse.Namespace) -> None:
    """With and without the curriculum, in as many steps."""
    out, seed, steps = arguments.output, arguments.seed, arguments.steps
    engine = tiny_decoder(copied, DECODER_STEPS, out / f"copying-{seed}", seed)
    rng = random.Random(f"texts {seed}")
    texts = [words(chain(rng, LENGTH)) for _ in range(40_000)]
    for by_curriculum in (True, False):
        config = RefragConfig(
            chunk=CHUNK,
            encoder="small",
            context=LENGTH,
            curriculum=by_curriculum,
            steps=steps,
            batch_size=64,
            learning_rate=2e-3,
            held_out=0.01,
            save_every=100,
            log_every=20,
            seed=seed,
        )
        key = {"part": "curriculum", "curriculum": by_curriculum, "steps": steps, "seed": seed}
        run(key, engine, texts, config, out / f"curriculum-{by_curriculum}-{steps}-{seed}")


# ---- the policy --------------------------------------------------------------------------------------------------

PLAIN, MARK = range(2)
WORDS = range(2, VOCAB)


def marked(rng: random.Random) -> tuple[list[int], int]:
    """Eight chunks of a word that says whether it matters and three more, the one that does again; and which it is."""
    place = rng.randrange(CHUNKS)
    chunks = [[MARK if chunk == place else PLAIN, *rng.sample(WORDS, CHUNK - 1)] for chunk in range(CHUNKS)]
    return [*(index for chunk in chunks for index in chunk), *chunks[place]], place


def policy(arguments: argparse.Namespace) -> None:
    """GRPO on texts that go on with their marked chunk."""
    out, seed, steps = arguments.output, arguments.seed, arguments.steps
    key = {"part": "policy", "steps": steps, "seed": seed}
    store = Store("refrag")
    if key in store:
        print(key, "is done")
        return
    begun = time.process_time()
    engine = tiny_decoder(copied, DECODER_STEPS, out / f"copying-{seed}", seed)
    rng = random.Random(f"texts {seed}")
    data = written([words(marked(rng)[0]) for _ in range(5000)], out / "marked.jsonl")
    both = {"context": LENGTH, "target": 4, "held_out": 0.02, "save_every": 100, "log_every": 20}
    cpt = RefragConfig(
        stage="cpt",
        chunk=CHUNK,
        encoder="small",
        encoder_width=4,  # too narrow for what a chunk says
        curriculum=False,
        keep=0.5,
        steps=600,
        batch_size=32,
        learning_rate=2e-3,
        seed=seed,
        **both,
    )
    print(train_refrag(engine, data, cpt, out / f"cpt-{seed}"), flush=True)
    decoder = szilard.load(out / f"cpt-{seed}" / "decoder")
    learned = RefragConfig(
        stage="policy",
        start=str(out / f"cpt-{seed}"),
        keep=1 / CHUNKS,
        steps=steps,
        batch_size=8,
        learning_rate=2e-3,
        seed=seed,
        **both,
    )
    folder = out / f"policy-{steps}-{seed}"
    metrics = train_refrag(decoder, data, learned, folder)
    reader = szilard.Refrag.from_pretrained(folder, model=decoder)
    shares = picked(reader, random.Random(f"new {seed}"))
    seconds = time.process_time() - begun
    print(metrics, shares, flush=True)
    found = {name: round(value, 4) for name, value in (metrics | shares).items()}
    store.add(key, found | {"cpu_seconds": round(seconds, 1)})


@torch.no_grad()
def picked(reader: Reader, rng: random.Random, count: int = 500) -> dict[str, float]:
    """How often each policy expands the marked chunk of new contexts, when it may expand one of eight."""
    right = dict.fromkeys(POLICIES, 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids, place = marked(rng)
        store = reader.encode(torch.tensor(ids[:LENGTH]))
        logits = policy_logits(reader.parts, store.embeddings)
        nats = chunk_nats(reader.model, store.chunks.ids, store.chunks.lengths, [])
        for name in POLICIES:
            chosen = pick(name, 1, logits if name == "learned" else nats, generator)
            right[name] += int(chosen[place])
    return {f"picked_{name.replace('-', '_')}": hits / count for name, hits in right.items() if name != "none"}


if __name__ == "__main__":
    main()
