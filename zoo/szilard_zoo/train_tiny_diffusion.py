"""The recipe of `tiny-diffusion`: a masked diffusion language model for ParallelBench's compact tasks, in minutes.

    python -m szilard_zoo.train_tiny_diffusion -o zoo/szilard_zoo/tiny-diffusion

A stock Llama that sees both ways, trained from scratch with the loss for answers of masked diffusion. A batch is of one
family: lists of one-word items, lists of names, grids, sums, texts. Answers are filled up with end tokens, mostly just
past the longest one and sometimes to up to 64 tokens: so length is learned, and the tail seldom drowns the rest.
It begins with four operations on lists of six items: there it finds out what is used already.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from szilard.diffusion.bidirectional import Bidirectional
from szilard.diffusion.masked_loss import canvases, masked_diffusion_loss
from szilard.evaluation.parallelbench import FIRST_NAMES, NAMES, compact_vocabulary
from szilard.evaluation.parallelbench.lists import LIST_TASKS
from szilard.evaluation.parallelbench.puzzles import draw_latin_square
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit
from szilard.whole_folder import write_whole
from szilard_zoo.written_tasks import WRITTEN, words

CONTROL = ("<pad>", "<eos>", "[MASK]", "<unk>")
MAX_POSITIONS = 256
LONGEST = 64  # answer
TOKENS = 2048  # of a batch, at most; and at most ROWS sequences
ROWS = 64
FAMILIES: dict[str, tuple[str, ...]] = {
    "six": ("copy", "reverse", "replace_random", "shuffle"),  # of six one-word items, and no end
    "items": tuple(LIST_TASKS),
    "names": tuple(LIST_TASKS),
    "grids": ("latin_square", "sudoku"),
    "sums": ("sum", "chain"),
    "texts": ("story", "record"),
}
WEIGHTS = {  # how often a list's operation is drawn, 1 if not named: what has many right answers takes longest
    **{"copy": 0.5, "reverse": 0.8, "sort": 1.5, "shuffle": 2.0},
    **{"insert_random": 1.5, "replace_random": 1.5, "remove_random": 1.0},
}


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        name: of its folder.
        steps: optimiser steps.
        rate: peak learning rate.
        schedule: of the learning rate.
        warmup: steps.
        shares: how often a batch is of each family.
    """

    name: str
    steps: int
    rate: float
    schedule: str
    warmup: int
    shares: Mapping[str, float]


STAGES = (  # what was used already is learned from lists of one length, and carries over; from all at once it is not
    Stage("1-six", 3500, 2e-3, "cosine", 100, {"six": 1.0}),
    Stage("2-items", 5500, 1.5e-3, "cosine", 100, {"items": 0.85, "six": 0.15}),
    Stage(
        "3-all", 4500, 1.5e-3, "cosine", 100, {"items": 0.4, "names": 0.2, "grids": 0.16, "sums": 0.1, "texts": 0.14}
    ),
)


# --- tokenizer and model --------------------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token per word; words stand between blanks."""
    known = [*CONTROL, *compact_vocabulary(), *WRITTEN, *words()]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(known))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="[MASK]",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A stock Llama: 3 layers of width 96, 3 heads, an output matrix of its own."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=32,
            max_position_embeddings=MAX_POSITIONS,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            initializer_range=0.02,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    model.config.masked_diffusion = {
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "eot_token_id": None,
        "shift_logits": False,
        "forbid_mask": True,
    }
    return model


# --- examples -------------------------------------------------------------------------------------------------------


def example(rng: random.Random, family: str, task: str | None = None) -> tuple[str, str, str]:
    """A task's name, a prompt and its answer."""
    names = FAMILIES[family]
    weights = [1.0 if family == "six" else WEIGHTS.get(name, 1.0) for name in names]
    task = task or rng.choices(names, weights)[0]
    if family in ("six", "items", "names"):
        pool = NAMES if family == "names" else FIRST_NAMES
        drawn = LIST_TASKS[task].draw(rng, 6 if family == "six" else rng.randint(3, 6), pool, compact=True)
    elif task == "latin_square":
        drawn = draw_latin_square(rng, 4, compact=True)
    else:
        return (task, *WRITTEN[task](rng))
    return task, drawn.question, drawn.answer


class Canvases(Dataset[dict[str, torch.Tensor]]):
    """Batches by index, each made of the seed and its index alone.

    Args:
        tokenizer: of the model.
        stage: which families, how many batches.
        seed: of everything.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stage: Stage, seed: int) -> None:
        self.tokenizer, self.stage, self.seed = tokenizer, stage, seed

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.seed} {self.stage.name} {index}")
        family = rng.choices(list(self.stage.shares), list(self.stage.shares.values()))[0]
        drawn = [example(rng, family)[1:] for _ in range(ROWS)]
        encoded = [
            one.ids for one in self.tokenizer.backend_tokenizer.encode_batch([x for pair in drawn for x in pair])
        ]
        prompts, answers = encoded[::2], encoded[1::2]
        needed = max(map(len, answers)) + 1
        length = rng.randint(needed, LONGEST) if rng.random() < 0.2 else min(LONGEST, needed + rng.choice((0, 1, 3)))
        if family == "six":
            length = needed - 1
        rows = min(ROWS, TOKENS // (max(map(len, prompts)) + length))
        return canvases(
            prompts[:rows],
            answers[:rows],
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            length=length,
        )


# --- training -------------------------------------------------------------------------------------------------------


class Unmasking(nn.Module):
    """The masked diffusion loss of answers."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, answer: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = self.model.config.masked_diffusion["mask_token_id"]
        found = masked_diffusion_loss(Bidirectional(self.model, real=real), tokens, mask, answer=answer, real=real)
        return {"loss": found.loss, "nats": found.nats, "right": found.right}


def train(folder: Path, *, work: Path, seed: int = 0, threads: int = 1, stages: Sequence[Stage] = STAGES) -> None:
    """Train the model and write its folder.

    Args:
        folder: where the checkpoint goes.
        work: where what a stopped run goes on from lies.
        seed: of weights, examples and masks.
        threads: torch's.
        stages: in order.
    """
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    objective = Unmasking(model).train()
    rows, before = [], 0
    for stage in stages:
        config = TrainingConfig(
            steps=stage.steps,
            batch_size=1,
            learning_rate=stage.rate,
            schedule=stage.schedule,
            warmup=min(1.0, stage.warmup / stage.steps),
            weight_decay=0.01,
            beta_2=0.95,
            seed=seed,
            save_every=250,
            log_every=50,
        )
        data = Canvases(tokenizer, stage, seed)
        metrics = fit(objective, data, config, work / stage.name, collate=lambda batches: batches[0], device="cpu")
        rows += [row | {"step": row["step"] + before} for row in metrics if row["step"] <= stage.steps]
        before += stage.steps
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/tiny-diffusion"), help="states of an unfinished run")
    parser.add_argument("--seed", type=int, default=0, help="of weights, examples, masks (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    given = parser.parse_args(arguments)
    train(given.output, work=given.work, seed=given.seed, threads=given.threads)


if __name__ == "__main__":
    main()
