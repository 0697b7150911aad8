"""Where a run ends: texts of the model's own, and events from outside."""

from __future__ import annotations

import threading
from typing import Any

import torch
from transformers import StoppingCriteria


class InNewText(StoppingCriteria):
    """A criterion that does not see the prompt: a stop text that begins there is none.

    Args:
        criterion: of texts.
        start: the width of the padded prompts.
    """

    def __init__(self, criterion: StoppingCriteria, start: int) -> None:
        self.criterion, self.start = criterion, start

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Rows that are over, bool [batch]."""
        new = input_ids[:, self.start :]
        if new.shape[1] == 0:
            return torch.zeros(len(new), dtype=torch.bool, device=new.device)
        return self.criterion(new, scores, **kwargs)


class StopWhen(StoppingCriteria):
    """Ends every row once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Rows that are over, bool [batch]: all or none."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)
