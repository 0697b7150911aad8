"""How likely a model finds given texts after a prompt: one read of the prompt, one forward for its continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from szilard.decoding.cost import Cost
from szilard.decoding.method import Method
from szilard.engines.engine import Engine
from szilard.engines.prompts import Prompt

_POSITIONS_AT_ONCE = 512  # logits of so many positions are held at a time
_ROWS_AT_ONCE = 64  # llama.cpp holds no more than 256 sequences


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation.

    Attributes:
        tokens: its ids.
        log_probabilities: of each, in nats.
        is_greedy: whether every token is the likeliest one at its place.
    """

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    is_greedy: bool

    @property
    def total(self) -> float:
        """ln p(continuation | prompt), nats."""
        return sum(self.log_probabilities)

    @property
    def mean(self) -> float:
        """Per token, nats."""
        return self.total / len(self.log_probabilities)


def log_likelihoods(
    engine: Engine,
    prompt: Prompt,
    continuations: Sequence[str | Sequence[int]],
    method: Method | None = None,
    *,
    raw: bool = False,
    temperature: float = 1.0,
) -> tuple[list[Likelihood], Cost]:
    """The likelihood of each continuation right after the prompt.

    Args:
        engine: a loaded model.
        prompt: as in `Engine.generate`.
        continuations: texts (tokenised on their own, with no special tokens) or token ids.
        method: one that shapes the distribution of given text (see `Method.shaping`); of any other, the model's own
            likelihoods are meant.
        raw: no chat template.
        temperature: that the logits are divided by.

    Returns:
        One `Likelihood` per continuation, in order, and what it cost.

    Raises:
        ValueError: no continuation, an empty one, or one that does not fit into the context window.
    """
    rows = [
        list(engine.tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else text)
        for text in continuations
    ]
    if not rows or not all(rows):
        raise ValueError("a likelihood needs at least one continuation, and none of them empty.")
    state = engine.state(prompt, max_new_tokens=max(1, max(map(len, rows)) - 1), raw=raw)
    try:
        first = state.prefill()  # [1, vocab]
        shape = method.shaping(state) if method is not None else None
        before = state.tokens[0].tolist()
        found: dict[int, Likelihood] = {}
        for block in _blocks(rows):
            chosen = [rows[index] for index in block]
            width = len(chosen[-1])
            logits = first[:, None].expand(len(block), 1, -1)
            if width > 1:
                fed = torch.zeros(len(block), width - 1, dtype=torch.long, device=state.device)
                for row, tokens in zip(fed, chosen, strict=True):
                    row[: len(tokens) - 1] = torch.tensor(tokens[:-1])
                fork = state.fork(len(block))  # what stands behind a short row's end is seen by nothing
                logits = torch.cat([logits, fork.feed(fed).to(logits)], dim=1)
                fork.close()
            for index, tokens, scored in zip(block, chosen, logits, strict=True):
                scored = scored[: len(tokens)].float()
                if shape is not None:
                    scored = shape([before + tokens[:at] for at in range(len(tokens))], scored)
                if temperature != 1.0:
                    scored = scored / temperature
                ids = torch.tensor(tokens, device=scored.device)
                taken = torch.log_softmax(scored, dim=-1).gather(1, ids[:, None])[:, 0]
                found[index] = Likelihood(tuple(tokens), tuple(taken.tolist()), bool((scored.argmax(-1) == ids).all()))
    finally:
        state.cost.stop()
        state.close()
    return [found[index] for index in range(len(rows))], state.cost


def _blocks(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of rows that are read together, shortest first; each block's last is its longest."""
    blocks: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        width = (len(blocks[-1]) + 1) * len(rows[index]) if blocks else _POSITIONS_AT_ONCE + 1
        if width <= _POSITIONS_AT_ONCE and len(blocks[-1]) < _ROWS_AT_ONCE:
            blocks[-1].append(index)
        else:
            blocks.append([index])
    return blocks
