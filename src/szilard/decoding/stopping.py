"""Where a run ends: texts of the model's own, and events from outside."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import StoppingCriteria


class InNewText(StoppingCriteria):
    """A criterion that does not see the prompt: a stop text that begins there is none."""

    def __init__(self, criterion: StoppingCriteria) -> None:
        self.criterion = criterion

    def __call__(
        self, input_ids: torch.LongTensor, scores: Any, *, generated: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Rows that are over, bool [batch]; `generated`: how many of a row's last tokens are new, int64 [batch]."""
        over = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        assert generated is not None
        for new in set(generated.tolist()) - {0}:  # one, unless rows advance at different speeds
            rows = generated == new
            over[rows] = self.criterion(input_ids[rows][:, -new:], scores, **kwargs)  # type: ignore[arg-type]
        return over


class _Event(Protocol):
    def is_set(self) -> bool: ...


class StopWhen(StoppingCriteria):
    """Ends every row once an event is set; anything that says whether it `is_set` will do."""

    def __init__(self, event: _Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Rows that are over, bool [batch]: all or none."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)
