"""The loss of given text behind vectors: how every soft compressor is trained through its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from szilard.engines.model_parts import unembed
from szilard.engines.prompt_parts import left_padded


@dataclass(frozen=True)
class Forced:
    """What a decoder says of given text.

    Attributes:
        loss: nats per target token, mean over all of them; with gradients.
        nats: per row, summed, float32 [batch].
        tokens: per row, that count, int64 [batch].
        right: share of the targets that are the likeliest token.
    """

    loss: torch.Tensor
    nats: torch.Tensor
    tokens: torch.Tensor
    right: torch.Tensor


class Measured:
    """Nats per target token behind several things that stand for the same context, over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float, int]] = {}  # nats, right tokens, tokens

    def add(self, name: str, forced: Forced) -> None:
        """What the decoder said of a batch behind one of them."""
        nats, right, tokens = self._sums.get(name, (0.0, 0.0, 0))
        count = int(forced.tokens.sum())
        if count:
            own = (float(forced.nats.sum()), float(forced.right) * count)
            self._sums[name] = nats + own[0], right + own[1], tokens + count

    def nats(self, name: str) -> float:
        """Nats per token; 0 where nothing was added."""
        nats, _, tokens = self._sums.get(name, (0.0, 0.0, 0))
        return nats / max(1, tokens)

    def right(self, name: str) -> float:
        """Share of the tokens that were the likeliest."""
        _, right, tokens = self._sums.get(name, (0.0, 0.0, 0))
        return right / max(1, tokens)


def teacher_forced(
    model: Any,
    before: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    *,
    first: bool = True,
) -> Forced:
    """Cross-entropy of `targets` behind the vectors `before`, one forward of the decoder.

    Gradients reach the vectors and, where its weights ask for them, the decoder. Output logits are computed of target
    places only.

    Args:
        model: a causal language model of transformers.
        before: vectors in the place of embeddings, per row [length, hidden], length >= 1.
        targets: token ids per row, int64 [n], n >= 1.
        first: whether the last vector predicts the first target; off: the first is read and does not count (ARC).
    """
    embed = model.get_input_embeddings()
    skip = 0 if first else 1
    rows = [torch.cat([v, embed(t[:-1]).to(v.dtype)]) for v, t in zip(before, targets, strict=True)]
    inputs = left_padded(rows)
    hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state  # [batch, longest, hidden]
    wanted = [len(t) - skip for t in targets]
    states = torch.cat([line[line.shape[0] - n :] for line, n in zip(hidden, wanted, strict=True) if n])
    labels = torch.cat([t[skip:] for t in targets])
    logits = unembed(model, states).float()  # [targets, vocab]
    nats = functional.cross_entropy(logits, labels, reduction="none")
    row = torch.repeat_interleave(
        torch.arange(len(wanted), device=nats.device), torch.tensor(wanted, device=nats.device)
    )
    return Forced(
        loss=nats.mean(),
        nats=nats.new_zeros(len(wanted)).index_add(0, row, nats),
        tokens=torch.tensor(wanted, device=nats.device),
        right=(logits.argmax(-1) == labels).float().mean(),
    )
