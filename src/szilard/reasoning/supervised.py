"""Supervised fine-tuning on chains of thought (CoT-SFT), and on answers alone: the baselines of latent reasoning.

prompt, <think>, chain, </think>, answer, end         loss: cross-entropy of chain, </think>, answer and end
prompt, answer, end                                   without a chain; loss: of answer and end
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from szilard.reasoning.examples import IGNORED, Reasoning, chain_ids, delimiter_ids, left_padded, prompt_ids
from szilard.reasoning.supervised_config import SupervisedConfig
from szilard.training.loop import Batch
from szilard.training.recipe import Stage, StageResult, run_recipe


class Chains(Dataset[Batch]):
    """Problems in tokens, with the labels of what is learned.

    Args:
        examples: the problems.
        tokenizer: of the model.
        config: delimiters, and whether chains are learned.

    Raises:
        ValueError: a delimiter that the tokenizer lacks, or inside a chain, or no end token.
    """

    def __init__(self, examples: Sequence[Reasoning], tokenizer: Any, config: SupervisedConfig) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token, so answers would not end: set tokenizer.eos_token.")
        opened = delimiter_ids(tokenizer, config.think_open, "think_open") if config.chain else []
        closed = delimiter_ids(tokenizer, config.think_close, "think_close") if config.chain else []
        self.rows: list[tuple[list[int], list[int]]] = []
        for example in examples:
            before = [*prompt_ids(tokenizer, example.problem, config.instruction), *opened]
            chain: list[int] = []
            if config.chain:
                marks = {"think_open": config.think_open, "think_close": config.think_close}
                chain = [*chain_ids(tokenizer, example.cot, **marks), *closed]
            after = [*chain, *tokenizer.encode(example.answer, add_special_tokens=False), tokenizer.eos_token_id]
            self.rows.append((before, after))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """{"ids", "labels"}, int64 [length]."""
        before, after = self.rows[index]
        ids = torch.tensor(before + after)
        return {"ids": ids, "labels": torch.cat([torch.full((len(before),), IGNORED), ids[len(before) :]])}

    @staticmethod
    def collate(rows: Sequence[Batch]) -> Batch:
        """{"input_ids", "labels", "attention_mask"}, int64 [batch, length], padded on the right."""
        pad = nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(row["ids"]) for row in rows], batch_first=True)
        labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED)
        return {
            "input_ids": pad([row["ids"] for row in rows], batch_first=True),
            "labels": labels,
            "attention_mask": mask,
        }


class Supervised(nn.Module):
    """Next-token cross-entropy over what is labelled: {"loss", "right" (share of the labelled tokens)}."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """One batch, int64 [batch, length] each."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        wanted = labels[:, 1:]
        learned = wanted != IGNORED
        scores, wanted = logits[:, :-1][learned].float(), wanted[learned]
        return {"loss": functional.cross_entropy(scores, wanted), "right": (scores.argmax(-1) == wanted).float().mean()}


@dataclass(frozen=True)
class Answered:
    """What a model wrote about a problem.

    Attributes:
        chain: the text between the delimiters.
        answer: the text behind them.
        steps: tokens of the chain, without its end.
        passes: forward passes, the prompt's among them.
    """

    chain: str
    answer: str
    steps: int
    passes: int


@torch.no_grad()
def answers(
    model: Any,
    tokenizer: Any,
    problems: Sequence[str],
    config: SupervisedConfig,
    *,
    batch_size: int = 64,
    **generation: Any,
) -> list[Answered]:
    """Let a model work on problems: greedy, or as transformers' `generation` options say.

    Args:
        model: of transformers.
        tokenizer: its own.
        problems: texts.
        config: delimiters, instruction, and whether the chain is written first.
        batch_size: problems at once.
    """
    opened = delimiter_ids(tokenizer, config.think_open, "think_open") if config.chain else []
    closed = delimiter_ids(tokenizer, config.think_close, "think_close") if config.chain else []
    rows = [[*prompt_ids(tokenizer, problem, config.instruction), *opened] for problem in problems]
    options = {"do_sample": False, "max_new_tokens": config.max_new_tokens, **generation}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    found = []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            ids, mask = left_padded(part, pad, model.device)
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=pad,
                **options,
            )[:, ids.shape[1] :].tolist()
            for tokens in made:
                written = _until(tokens, [tokenizer.eos_token_id]) or tokens
                passes = len(written) + (len(written) < len(tokens))
                found.append(_answered(written, closed, tokenizer, passes))
    return found


def _answered(tokens: list[int], closed: list[int], tokenizer: Any, passes: int) -> Answered:
    chain = _until(tokens, closed) if closed else []
    if chain is None:  # never closed: all of it is chain
        return Answered(tokenizer.decode(tokens, skip_special_tokens=True).strip(), "", len(tokens), passes)
    after = tokens[len(chain) + len(closed) :] if closed else tokens
    thought, answer = (tokenizer.decode(part, skip_special_tokens=True).strip() for part in (chain, after))
    return Answered(thought, answer, len(chain), passes)


def _until(tokens: list[int], mark: list[int]) -> list[int] | None:
    """What stands in front of the first `mark`; None where there is none."""
    size = len(mark)
    return next((tokens[:at] for at in range(len(tokens) - size + 1) if tokens[at : at + size] == mark), None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; behind the block it is in its own again."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def same_answer(given: str, wanted: str) -> bool:
    """Whether two answers say the same: the same words, or the same number and nothing else told apart by it."""
    given, wanted = (" ".join(text.strip().rstrip(".").split()) for text in (given, wanted))
    if given == wanted:
        return True
    numbers = [_NUMBER.fullmatch(text) for text in (given, wanted)]
    if None in numbers:
        return False
    one, other = (float(text.replace(",", "")) for text in (given, wanted))
    return one == other


def train_supervised(
    model: Any,
    tokenizer: Any,
    learned: Sequence[Reasoning] | Chains,
    held: Sequence[Reasoning],
    config: SupervisedConfig,
    folder: Path,
    *,
    resume: bool = True,
    device: torch.device | str | None = None,
    right: Callable[[str, str], bool] = same_answer,
) -> StageResult:
    """CoT-SFT, or SFT on answers alone; the weights of the best evaluation stay in the model.

    Args:
        model: of transformers; tuned in place.
        tokenizer: its own.
        learned: problems to learn, as they are or in tokens already.
        held: problems for the evaluations.
        config: the settings.
        folder: for checkpoints, metrics and evaluations.
        resume: go on with an interrupted training in the folder.
        device: None: what there is.
        right: compares an answer with the wanted one.

    Returns:
        The training's metrics and evaluations ("accuracy", "steps").
    """
    data = learned if isinstance(learned, Chains) else Chains(learned, tokenizer, config)

    def evaluate(_: nn.Module) -> dict[str, float]:
        found = answers(model, tokenizer, [example.problem for example in held], config)
        good = [right(one.answer, example.answer) for one, example in zip(found, held, strict=True)]
        return {"accuracy": sum(good) / len(good), "steps": sum(one.steps for one in found) / len(found)}

    stage = Stage(
        name="chains" if config.chain else "answers",
        config=config,
        objective=lambda: Supervised(model),
        data=lambda: data,
        collate=Chains.collate,
        evaluate=evaluate if held else None,
        evaluate_every=config.evaluate_every,
        best="accuracy" if held else None,
    )
    return run_recipe([stage], folder, resume=resume, device=device)[stage.name]
