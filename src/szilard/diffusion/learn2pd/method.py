"""Learn2PD: a tiny filter that was trained on the model's own decoding says which predictions are final.

Bao et al. 2025, "Learning to Parallel: Accelerating Diffusion Large Language Models via Adaptive Parallel Decoding",
ICLR 2026, arXiv 2509.25188. With c the confidences of all columns of a block, visible ones too, and z = f(c),

    commit {i open : sigmoid(z_i) > tau} and the most confident open column.

Its end-of-text rule (EoTP) is `end_of_text` of every diffusion method: "committed" as the paper says it, "predicted" as
its code does it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from szilard.diffusion.learn2pd.filter import BlockFilter
from szilard.diffusion.look import Look
from szilard.diffusion.method import DiffusionMethod
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class Learn2PD(DiffusionMethod):
    """Columns that a learned filter accepts.

    Attributes:
        filter: folder or hub id of `szilard train learn2pd`, or the filter itself. Its block length must be
            `block_length`; a shorter last block is padded with zeros, which it never saw.
        threshold: tau, on the sigmoid, strict; 1: one column per round.
    """

    slug: ClassVar[str] = "learn2pd"
    reads_whole_blocks: ClassVar[bool] = True
    paper: ClassVar[str] = "Bao et al., ICLR 2026, arXiv 2509.25188"

    filter: str | BlockFilter | None = None
    threshold: float = 0.96

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, low=0, high=1)
        if self.filter is not None and not isinstance(self.filter, BlockFilter):
            object.__setattr__(self, "filter", str(self.filter))

    @classmethod
    def neutral(cls) -> Learn2PD:
        """The filter accepts nothing: one column per round."""
        return cls(threshold=1.0)

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> Learn2PD:
        """With the filter of a folder or hub repository, and its block length."""
        made = BlockFilter.from_pretrained(name)
        settings: dict[str, Any] = {"filter": made, "block_length": made.block_length}
        return cls(**(settings | options))

    def loaded(self) -> BlockFilter | None:
        """The filter; None where nothing would be accepted anyway.

        Raises:
            ValueError: none was given.
        """
        if isinstance(self.filter, BlockFilter):
            return self.filter
        if self.filter is None:
            if self.threshold >= 1:
                return None
            raise ValueError(
                "'learn2pd' needs a filter of the model: train one with `szilard train learn2pd --data PROMPTS -o DIR` "
                "and give filter=DIR."
            )
        return BlockFilter.from_pretrained(self.filter)

    def check(self, engine: Engine | None = None) -> None:
        made = self.loaded()
        if made is None or engine is None:
            return
        made.check_made_for(
            vocab_size=engine.vocab_size,
            hidden_size=int(engine.model.config.get_text_config().hidden_size),  # type: ignore[attr-defined]
            name=engine.name,
            mask_token_id=engine.config.mask_token_id,  # type: ignore[attr-defined]
            block_length=self.block_length or 0,
            fingerprint=engine.fingerprint,
        )

    def decode(self, state: DenoisingState) -> None:  # type: ignore[override]
        made = self.loaded()
        if isinstance(self.filter, str):
            self = dataclasses.replace(self, filter=made)
        DiffusionMethod.decode(self, state)

    def select(self, look: Look) -> torch.Tensor:
        return self._accepted(look) | look.best(look.score("confidence"), 1)

    def accepted_ends(self, look: Look, chosen: torch.Tensor) -> torch.Tensor:
        """Only what the filter accepted: an end that the guarantee of progress committed does not count as one."""
        return self._accepted(look)

    @torch.no_grad()
    def _accepted(self, look: Look) -> torch.Tensor:
        """Open columns that the filter accepts, bool [rows, n]."""
        if self.filter is None:
            return torch.zeros_like(look.open)
        assert isinstance(self.filter, BlockFilter)
        block = look.state.block
        confidence = (look.confidence.float() * look.block)[:, :block]  # a shorter block ends in zeros
        found = self.filter.accepts(confidence, self.threshold).to(look.open.device)
        return F.pad(found, (0, look.open.shape[1] - found.shape[1])) & look.open
