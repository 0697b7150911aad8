"""Mean pooling as a compressor: what a soft compressor must beat at an equal budget (ours).

A context is read once by the frozen model; of one layer's hidden states neighbours are averaged, k at a time, and an
MLP turns each mean into a vector in the place of a token's embedding. It is the probe that ComprExIT compares layers
with (Ye et al. 2026, arXiv 2602.03784), as a method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.compression.mean_pool.modules import MeanPoolProjector, hidden_states
from szilard.compression.method import Budget, SoftCompressor, tokens_of_budget
from szilard.engines.prepared_context import SoftPrompt
from szilard.engines.prompt_parts import part_ids
from szilard.training.add_on import opened

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class MeanPool(SoftCompressor):
    """Means of neighbouring hidden states, through a trained MLP.

    Attributes:
        checkpoint: the add-on, or the folder or hub id of one; `szilard train mean-pool` makes it. None: plain decoding
            of the context, every token by its own embedding.
    """

    slug: ClassVar[str] = "mean-pool"
    paper: ClassVar[str] = "baseline of soft compression (ours)"
    checkpoint: MeanPoolProjector | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint, Path):
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, MeanPoolProjector)):
            raise TypeError(f"checkpoint must be a MeanPoolProjector, its folder or hub id, not {self.checkpoint!r}.")

    @classmethod
    def neutral(cls) -> MeanPool:
        """The context's own embeddings."""
        return cls()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MeanPool:
        """The method with the add-on in a folder or hub repository.

        Raises:
            ValueError: there is none, or it is broken.
        """
        return cls(MeanPoolProjector.from_pretrained(folder))

    def projector(self) -> MeanPoolProjector | None:
        """The add-on."""
        return opened(MeanPoolProjector, self.checkpoint) if isinstance(self.checkpoint, str) else self.checkpoint

    def check(self, engine: Engine | None = None) -> None:
        found = self.projector()
        if found is not None and engine is not None:
            found.check_base(
                vocab_size=engine.vocab_size, hidden_size=None, name=engine.name, fingerprint=engine.fingerprint
            )

    @torch.no_grad()
    def compress(self, contexts: Sequence[Any], budget: Budget = None, *, engine: Engine) -> list[SoftPrompt]:
        started = time.perf_counter()
        self.check(engine)
        model: Any = engine.model  # type: ignore[attr-defined]
        projector = self.projector()
        ids = [part_ids(engine, context) for context in contexts]
        wanted = [None if budget is None else tokens_of_budget(budget, len(row)) for row in ids]
        if projector is None:
            if any(count is not None and count < len(row) for count, row in zip(wanted, ids, strict=True)):
                raise ValueError(
                    "mean-pool needs a checkpoint to take fewer positions: szilard train mean-pool makes one."
                )
            embed = model.get_input_embeddings()
            vectors, layers = [embed(row.to(embed.weight.device)) for row in ids], 0
        else:
            projector.to(engine.device)
            vectors, layers = [], projector.layer
            for row, states, count in zip(ids, hidden_states(model, ids, layers), wanted, strict=True):
                vectors.append(projector(states, None if count is None else math.ceil(len(row) / count)))
        seconds = (time.perf_counter() - started) / len(ids)
        return [
            SoftPrompt(
                made.to(model.dtype),
                len(row),
                self.slug,
                engine.fingerprint,
                cost={"encoder_tokens": len(row), "layer_tokens": len(row) * layers, "seconds": seconds},
            )
            for made, row in zip(vectors, ids, strict=True)
        ]
