"""What a reasoner reaches: on its own, and with the gold blocks, which hide the gap between training and use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from szilard.reasoning.examples import Reasoning, prompt_ids
from szilard.reasoning.ladir.generation import LadirOutput
from szilard.reasoning.ladir.packing import IGNORED, Thought, packer
from szilard.reasoning.ladir.reasoner import LaDiRReasoner
from szilard.reasoning.ladir.vae import SentenceVAE


def thoughts_of(
    vae: SentenceVAE, tokenizer: Any, examples: Sequence[Reasoning], instruction: str = ""
) -> list[Thought]:
    """Problems with the latents of their sentences, on the CPU; a problem's sentences are its steps."""
    sentences = list(dict.fromkeys(step for example in examples for step in example.steps))
    mean, spread = (found.cpu() for found in vae.encode_distribution(sentences))
    where = {sentence: index for index, sentence in enumerate(sentences)}
    found = []
    for example in examples:
        rows = torch.tensor([where[step] for step in example.steps])
        answer = [*tokenizer.encode(example.answer, add_special_tokens=False), tokenizer.eos_token_id]
        question = prompt_ids(tokenizer, example.problem, instruction)
        found.append(Thought(question, answer, mean[rows], spread[rows]))
    return found


def answer_problems(
    reasoner: LaDiRReasoner,
    problems: Sequence[str],
    *,
    instruction: str = "",
    batch_size: int = 64,
    **options: Any,
) -> list[LadirOutput]:
    """What the reasoner says about problems, an output per batch; `options` as `LaDiRReasoner.generate`."""
    rows = [prompt_ids(reasoner.tokenizer, problem, instruction) for problem in problems]
    found = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        width = max(map(len, part))
        device = reasoner.model.device
        ids = torch.tensor([[0] * (width - len(row)) + row for row in part], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part], device=device)
        found.append(reasoner.generate(ids, mask, **options))
    return found


def free_running(
    reasoner: LaDiRReasoner,
    examples: Sequence[Reasoning],
    right: Callable[[str, str], bool],
    **options: Any,
) -> dict[str, float]:
    """Problems thought through alone: {"accuracy", "blocks" (mean number), "as_many" (share with the gold's number)}.

    Args:
        reasoner: the model.
        examples: problems, chains and answers.
        right: compares an answer with the wanted one.
        options: as `answer_problems`; without max_blocks, two more than the longest chain has.
    """
    options.setdefault("max_blocks", 2 + max(len(example.steps) for example in examples))
    outputs = answer_problems(reasoner, [example.problem for example in examples], **options)
    answers = [answer for output in outputs for answer in output.answers]
    counts = [len(blocks) for output in outputs for blocks in output.blocks]
    good = [right(answer, example.answer) for answer, example in zip(answers, examples, strict=True)]
    as_many = [count == len(example.steps) for count, example in zip(counts, examples, strict=True)]
    total = len(examples)
    return {"accuracy": sum(good) / total, "blocks": sum(counts) / total, "as_many": sum(as_many) / total}


@torch.no_grad()
def with_gold_blocks(reasoner: LaDiRReasoner, thoughts: Sequence[Thought], *, batch_size: int = 64) -> float:
    """Share of the problems that are answered rightly, token by token, behind the gold blocks."""
    parts = reasoner.parts
    pack = packer(parts.latent_tokens, parts.latent_dim, parts.span, 1)
    good = 0
    for start in range(0, len(thoughts), batch_size):
        batch = {
            name: rows.to(reasoner.model.device) for name, rows in pack(thoughts[start : start + batch_size]).items()
        }
        said = reasoner.answer_logits(batch).argmax(-1)
        good += int(((said == batch["labels"]) | (batch["labels"] == IGNORED)).all(1).sum())
    return good / len(thoughts)
