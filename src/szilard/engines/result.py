"""What a prompt got."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.decoding.cost import Cost
from szilard.decoding.method import Method
from szilard.decoding.trace import Trace


@dataclass(frozen=True)
class Result:
    """What one prompt got.

    Attributes:
        text: the generated text, special tokens left out.
        tokens: generated token ids, the stop token included.
        finish_reason: "stop" (end of sequence, stop string, criterion) or "length".
        method: the method that ran.
        prompt: the prompt as text, chat template applied.
        prompt_tokens: tokens of the prompt, padding not counted.
        trace: step records of this row, or None.
        cost: counts of the whole call (one call may serve several prompts).
    """

    text: str
    tokens: list[int]
    finish_reason: str
    method: Method
    prompt: str
    prompt_tokens: int
    trace: Trace | None
    cost: Cost

    def __str__(self) -> str:
        return self.text
