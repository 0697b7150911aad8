"""What a cache or attention method costs: how much of what was hidden in a text is found, and how well it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from szilard.attention.method import AttentionMethod
from szilard.evaluation.long_context import QUESTIONS, TASKS, Item, make_items
from szilard.options import check_choice, check_number


@dataclass(frozen=True)
class Answer:
    """What a model makes of an item.

    Attributes:
        log_probabilities: of the right answer's tokens, each given those before it, nats.
        right: whether each of them is the likeliest one at its place.
    """

    log_probabilities: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def nats(self) -> float:
        """Negative log-likelihood per token of the right answer."""
        return -sum(self.log_probabilities) / len(self.log_probabilities)

    @property
    def exact(self) -> bool:
        """Whether greedy decoding gives the right answer."""
        return all(self.right)


@torch.inference_mode()
def answers(
    model: Any,
    items: Sequence[Item],
    attention: AttentionMethod | None = None,
    *,
    question: str = "inside",
) -> tuple[list[Answer], dict[str, float]]:
    """The answers to a batch of items, read together with left padding.

    The prompt is read at once, and all that follows token by token, as while generating: that is when methods read
    sparsely and evict.

    Args:
        model: a decoder-only model of transformers.
        items: what is asked.
        attention: the method; None: the model as it is.
        question: "inside" the prompt or "after" it, see `Item.parts`.

    Returns:
        An answer per item, and `summary()` of the method (shares of keys and values read and held; 1 without one).

    Raises:
        ValueError: no items, an unknown `question`, or more tokens than the model has positions for.
    """
    check_choice("question", question, QUESTIONS)
    if not items:
        raise ValueError("there are no items to answer.")
    parts = [item.parts(question) for item in items]
    prompts, tails = [prompt for prompt, _ in parts], [tail for _, tail in parts]
    _check_room(model, max(len(prompt) + len(tail) for prompt, tail in parts))
    device = model.device
    longest, width = max(map(len, prompts)), max(map(len, tails)) - 1
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    fed = torch.zeros(len(items), width, dtype=torch.long)  # what comes after a row's own end is read by nothing
    for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
        fed[row, : len(tail) - 1] = torch.tensor(tail[:-1])
    ids, mask, fed = ids.to(device), mask.to(device), fed.to(device)
    lengths = mask.sum(1, keepdim=True)
    found: list[torch.Tensor] = []
    opened = attention(model) if attention is not None else contextlib.nullcontext()
    with opened as run:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        padding = mask if bool((mask == 0).any()) else None  # without any, kernels need no mask
        out = model(input_ids=ids, attention_mask=padding, position_ids=positions, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        step = 1 if attention is not None else width
        for at in range(0, width, step):
            if padding is not None:
                padding = torch.cat([padding, padding.new_ones(len(items), step)], dim=1)
            out = model(
                input_ids=fed[:, at : at + step],
                attention_mask=padding,
                position_ids=lengths + torch.arange(at, at + step, device=device),
                past_key_values=past,
                use_cache=True,
            )
            found.append(out.logits.float().log_softmax(-1))
        summary = run.summary() if run is not None else {"kv_read_share": 1.0, "kv_held_share": 1.0}
    logs = torch.cat(found, dim=1)  # [items, width, vocab]; place p predicts token p + 1 of a row's tail
    result = []
    for row, (item, tail) in enumerate(zip(items, tails, strict=True)):
        first = len(tail) - len(item.answer) - 1
        own = logs[row, first : len(tail) - 1]
        told = torch.tensor(item.answer, device=device)
        taken = own.gather(1, told[:, None])[:, 0]
        result.append(Answer(tuple(taken.tolist()), tuple((own.argmax(-1) == told).tolist())))
    return result, summary


def measure(
    model: Any,
    tokenizer: Any,
    text: str,
    attention: AttentionMethod | None = None,
    *,
    tasks: Sequence[str] = TASKS,
    questions: Sequence[str] = QUESTIONS,
    length: int = 512,
    count: int = 16,
    batch_size: int = 8,
    seed: int = 0,
    pairs: int = 16,
    new: int = 64,
) -> Iterator[dict[str, Any]]:
    """Measure a method on needles, pairs and continuations.

    Args:
        model: a decoder-only model of transformers.
        tokenizer: its tokenizer.
        text: running text that the contexts are made of.
        attention: the method; None: the model as it is.
        tasks: among "needle", "pairs", "continuation".
        questions: among "inside" and "after" (see `Item.parts`); a continuation has no question and is measured once.
        length: tokens of a context.
        count: items of a task.
        batch_size: items that are read together.
        seed: of the items; methods that are compared must have the same.
        pairs: in a context of the task "pairs".
        new: tokens of a continuation.

    Yields:
        A record per task and question: "task", "question" ("" of a continuation), "items", "tokens" (of answers),
        "right" (tokens that are the likeliest ones), "exact" (items whose answer greedy decoding gives), "nats" (per
        answer token), "answers" (an entry per item: depth, right, nats), and the method's summary, mean over batches:
        "kv_read_share", "kv_held_share", ...

    Raises:
        ValueError: an unknown task or question, a text that is too short, a length that the model has no positions for.
    """
    for task in tasks:
        check_choice("task", task, TASKS)
    for question in questions:
        check_choice("question", question, QUESTIONS)
    check_number("batch_size", batch_size, low=1, integer=True)
    options: dict[str, dict[str, Any]] = {"needle": {}, "pairs": {"pairs": pairs}, "continuation": {"new": new}}
    made = {
        task: make_items(task, tokenizer, text, length=length, count=count, seed=seed, **options[task])
        for task in tasks
    }
    for task, items in made.items():
        for question in questions if task != "continuation" else ("after",):
            told: list[Answer] = []
            summaries = []
            for start in range(0, count, batch_size):
                batch = items[start : start + batch_size]
                some, summary = answers(model, batch, attention, question=question)
                told += some
                summaries.append(summary)
            right = [sum(one.right) for one in told]
            tokens = sum(len(one.right) for one in told)
            yield {
                "task": task,
                "question": question if task != "continuation" else "",
                "items": count,
                "tokens": tokens,
                "right": sum(right),
                "exact": sum(one.exact for one in told),
                "nats": -sum(sum(one.log_probabilities) for one in told) / tokens,
                "answers": [
                    {"depth": item.depth, "right": good, "nats": one.nats}
                    for item, good, one in zip(items, right, told, strict=True)
                ],
            } | {name: sum(one[name] for one in summaries) / len(summaries) for name in summaries[0]}


def _check_room(model: Any, tokens: int) -> None:
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and tokens > most:
        raise ValueError(f"{tokens} tokens do not fit into the {most} positions of this model: lower length.")
