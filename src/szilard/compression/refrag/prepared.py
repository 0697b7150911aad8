"""A batch of prompts as a decoder takes it, with what was decided for it and what it costs."""

from __future__ import annotations

from typing import Any

import torch

from szilard.compression.refrag.cost import ReadingCost


class Prepared(dict[str, torch.Tensor]):
    """What `model.generate(**prepared)` takes, a batch padded on the left: "inputs_embeds", "attention_mask",
    "position_ids".

    Attributes:
        trace: per prompt {"expanded": bool per chunk, "logits": its score by the policy (None: it gave none), "tokens":
            its length, "texts"}, chunks in the order of the prompt.
        cost: per prompt.
    """

    def __init__(self, inputs: dict[str, torch.Tensor], trace: list[dict[str, Any]], cost: list[ReadingCost]) -> None:
        super().__init__(inputs)
        self.trace, self.cost = trace, cost
