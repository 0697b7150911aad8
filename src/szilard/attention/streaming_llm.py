"""StreamingLLM: attention sinks and a sliding window.

Xiao, Tian, Chen, Han, Lewis 2023, "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv
2309.17453. Kept are the first `sinks` tokens and the newest budget - sinks.

# Paper: positions are counted inside the cache, so that texts longer than the trained length can be read; here: tokens
# keep the positions of the text, because every other method's do and texts beyond the trained length are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from szilard.attention.eviction import Eviction, Slots


@dataclass(frozen=True)
class StreamingLlm(Eviction):
    """Sinks and the newest tokens.

    Attributes:
        recent: has no effect beyond the budget: the newest tokens stay anyway.
        phase: the window slides while generating ("both", paper), or is cut once.
    """

    slug: ClassVar[str] = "streaming-llm"
    paper: ClassVar[str] = "Xiao et al., ICLR 2024, arXiv 2309.17453"

    recent: int = 0
    phase: str = "both"

    def score(self, slots: Slots) -> torch.Tensor:
        return slots.columns.float()
