"""The recipe of `tiny-recall`: a small Llama that finds again what was hidden in a text.

    python -m szilard_zoo.train_tiny_recall --data wikitext2_valid.txt -o zoo/szilard_zoo/tiny-recall

A training text is a stretch of running text with pairs (" river: apple."), numbers (" river: 4821937.") and a needle
(" The secret number is 4821937.") in it; at its end everything is asked for, in another order. The loss is that of the
answers, and a fraction of that of all tokens. Texts grow from 64 to 1,152 tokens in stages, each of which is a training
of its own that a stopped run goes on with.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from szilard.evaluation import long_context as tasks
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit
from szilard.whole_folder import write_whole

CONTROL = ("<pad>", "<eos>")
VOCABULARY = 1024
MAX_POSITIONS = 2048
BATCHES = 1500  # that a stage's steps draw from
WARMUP = 45  # steps
TEXT_WEIGHT = 0.1  # of the loss of all tokens beside that of the answers


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        name: of its folder.
        steps: optimiser steps.
        lengths: least and greatest tokens of a text.
        tokens: of a batch, about.
        rate: peak learning rate.
        schedule: of the learning rate.
        numbers: most of the keys' values that are numbers, as a share.
        times: how often each key is asked for; more than once: by the key alone, and with little else in the text.
    """

    name: str
    steps: int
    lengths: tuple[int, int]
    tokens: int
    rate: float
    schedule: str
    numbers: float
    times: int


STAGES = (
    Stage("1-pairs", 400, (48, 96), 2048, 1e-3, "constant", 0.05, 4),
    Stage("2-short", 700, (48, 128), 2048, 1e-3, "constant", 0.4, 1),
    Stage("3-middle", 500, (96, 384), 3072, 1e-3, "constant", 0.2, 1),
    Stage("4-long", 500, (128, 1152), 4096, 1e-3, "linear", 0.2, 1),
)


# --- tokenizer and model --------------------------------------------------------------------------------------------


def build_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Byte-level pairs of the text; every digit is a token of its own, and so is every word that is hidden."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hidden = " " + " ".join(tasks.WORDS) + " What secret number:"
    backend.train_from_iterator([*text.split("\n"), *[hidden] * 1000], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A stock Llama: 4 layers, 4 query heads of 32 on 2 key-value heads, tied embeddings."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=MAX_POSITIONS,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},  # a third of each head barely turns
            initializer_range=0.08,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    look_up(model)
    return model


@torch.no_grad()
def look_up(model: LlamaForCausalLM, sharpness: float = 60.0, match: float = 2.0, copy: float = 20.0) -> None:
    """Let two layers begin as what looks a key up (an induction head); from chance, 1,700 steps did not find it.

    1. All embeddings get a part in common. From it the first layer's heads 0 and 1 look one and two tokens back: their
       queries are turned by the offset against their keys, so that the product is greatest there,
       q_m k_n = sum over frequencies i of sharpness cos((m - n - offset) theta_i).
    2. The second layer's head 0 asks with what head 0 found (the key before a question's colon) among what head 1 found
       (the key two before a stated value), in the frequencies that hardly turn,
    3. and hands on the token that it finds there, in the directions that the output reads.

    Everything is trained afterwards.
    """
    config = model.config
    size, width, std = config.head_dim, config.hidden_size, config.initializer_range
    back, up = (layer.self_attn for layer in model.model.layers[:2])
    for layer in model.model.layers:  # quiet at the beginning
        layer.self_attn.o_proj.weight *= 0.1
        layer.mlp.down_proj.weight *= 0.1
    model.model.embed_tokens.weight += std  # as large as what tells tokens apart
    shared = torch.full((width,), width**-0.5)
    part = (width / 2) ** 0.5  # of a normalised embedding, along `shared`
    rates = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(size // 2) / (size // 2))
    fast = torch.arange(size // 2) < 6  # the others do not tell neighbours apart
    strength = fast * sharpness**0.5 / part
    back.k_proj.weight[:size] = torch.cat([strength, torch.zeros(size // 2)])[:, None] * shared
    for head, offset in enumerate((1, 2)):
        turned = torch.cat([strength * torch.cos(rates * offset), -strength * torch.sin(rates * offset)])
        back.q_proj.weight[head * size : (head + 1) * size] = turned[:, None] * shared
    values = back.v_proj.weight[:size]
    values -= (values @ shared)[:, None] * shared  # what tokens have in common says nothing
    apart = torch.linalg.qr(torch.cat([shared[:, None], torch.randn(width, 2 * size)], 1)).Q  # what is found goes apart
    before, two_before = (std * part * apart[:, 1:]).split(size, 1)
    back.o_proj.weight[:, :size], back.o_proj.weight[:, size : 2 * size] = before, two_before
    slow = torch.cat([~fast, ~fast])[:, None]
    up.q_proj.weight[:size] = match * slow * before.T
    up.k_proj.weight[:size] = match * slow * two_before.T
    up.o_proj.weight[:, :size] = copy * up.v_proj.weight[:size].T


# --- texts ----------------------------------------------------------------------------------------------------------


class Texts(Dataset[dict[str, torch.Tensor]]):
    """Batches by index, each made of the seed and its index alone.

    Args:
        tokenizer: of the model.
        filler: ids of the running text.
        stage: how long, how many.
        seed: of everything.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, filler: Sequence[int], stage: Stage, seed: int) -> None:
        self.encode_all = lambda texts: [found.ids for found in tokenizer.backend_tokenizer.encode_batch(texts)]
        self.filler, self.stage, self.seed = list(filler), stage, seed

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.seed} {self.stage.name} {index}")
        low, high = self.stage.lengths
        length = rng.randint(low, high)
        rows = [self.text(rng, length) for _ in range(max(1, self.stage.tokens // length))]
        return {"ids": torch.tensor([ids for ids, _ in rows]), "told": torch.tensor([told for _, told in rows])}

    def text(self, rng: random.Random, length: int) -> tuple[list[int], list[bool]]:
        """Ids, and which of them are answers, `length` of both."""
        dense = self.stage.times > 1
        share = rng.uniform(0.7, 0.95) if dense else rng.uniform(0.3, 0.85)  # of the text: statements and questions
        words = rng.sample(tasks.WORDS, len(tasks.WORDS))
        stated, asked = [], []  # texts; questions with their answers
        room = share * length
        if rng.random() < (0.1 if dense else 0.5):
            number = _number(rng)
            stated.append(tasks.NEEDLE.format(value=f" {number}"))
            asked.append((tasks.NEEDLE_QUESTION, f" {number}"))
            room -= 32
        numbers = rng.random() * self.stage.numbers
        short = 1.0 if dense else rng.random()  # how often a key alone asks for its value
        while room >= 7 and len(words) >= 2:
            key, value = words.pop(), words.pop()
            question = f" {key}:" if rng.random() < short else tasks.PAIR_QUESTION.format(key=key)
            room -= 7 if question == f" {key}:" else 11
            if rng.random() < numbers and room >= 14:
                value = _number(rng)
                room -= 14
            stated.append(tasks.PAIR.format(key=key, value=f" {value}"))
            asked += [(question, f" {value}")] * self.stage.times
            room -= 3 * (self.stage.times - 1)
        rng.shuffle(stated)
        rng.shuffle(asked)
        encoded = self.encode_all([*stated, *(part for pair in asked for part in pair)])
        statements, questions = encoded[: len(stated)], encoded[len(stated) :]
        tail, told = [], []
        for question, answer in zip(questions[::2], questions[1::2], strict=True):
            if len(tail) + len(question) + len(answer) > length - sum(map(len, statements)) - 1:
                break
            tail += question + answer
            told += [False] * len(question) + [True] * len(answer)
        size = max(0, length - len(tail) - sum(map(len, statements)))
        start = rng.randrange(len(self.filler) - size)
        filler = self.filler[start : start + size]
        body: list[int] = []
        done = 0
        for statement, place in zip(statements, sorted(rng.randint(0, size) for _ in statements), strict=True):
            body += filler[done:place] + statement
            done = place
        ids = (body + filler[done:] + tail)[-length:]
        return ids, ([False] * (len(ids) - len(told)) + told)


def _number(rng: random.Random) -> str:
    return "".join([rng.choice("123456789"), *(rng.choice("0123456789") for _ in range(tasks.DIGITS - 1))])


# --- training -------------------------------------------------------------------------------------------------------


class Recall(nn.Module):
    """Cross-entropy of the answers, and a fraction of that of all tokens."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.decoder = model.model  # the output matrix is that of the embeddings

    def forward(self, ids: torch.Tensor, told: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = functional.linear(hidden, self.decoder.embed_tokens.weight).float()
        target, told = ids[:, 1:], told[:, 1:]
        nats = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        answers = nats[told].mean()
        right = (logits.argmax(-1) == target)[told].float().mean()
        return {
            "loss": answers + TEXT_WEIGHT * nats.mean(),
            "answer_nats": answers,
            "text_nats": nats.mean(),
            "right": right,
        }


def train(
    data: Path, folder: Path, *, work: Path, seed: int = 0, threads: int = 1, stages: Sequence[Stage] = STAGES
) -> None:
    """Train the model and write its folder.

    Args:
        data: running text (WikiText-2's validation part).
        folder: where the checkpoint goes.
        work: where what a stopped run goes on from lies.
        seed: of weights and texts.
        threads: torch's.
        stages: in order.
    """
    torch.set_num_threads(threads)
    text = data.read_text(encoding="utf-8")
    tokenizer = build_tokenizer(text)
    filler = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    model = build_model(tokenizer, seed)
    objective = Recall(model).train()
    rows, before = [], 0
    for stage in stages:
        config = TrainingConfig(
            steps=stage.steps,
            batch_size=1,
            learning_rate=stage.rate,
            schedule=stage.schedule,
            warmup=min(1.0, WARMUP / stage.steps),
            weight_decay=0.01,
            beta_2=0.98,
            precision="bfloat16",
            seed=seed,
            save_every=100,
            log_every=20,
        )
        texts = Texts(tokenizer, filler, stage, seed)
        metrics = fit(objective, texts, config, work / stage.name, collate=lambda batches: batches[0], device="cpu")
        rows += [row | {"step": row["step"] + before} for row in metrics if row["step"] <= stage.steps]
        before += stage.steps
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="running text: WikiText-2's validation part")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/tiny-recall"), help="states of an unfinished run")
    parser.add_argument("--seed", type=int, default=0, help="of weights and texts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    given = parser.parse_args(arguments)
    train(given.data, given.output, work=given.work, seed=given.seed, threads=given.threads)


if __name__ == "__main__":
    main()
