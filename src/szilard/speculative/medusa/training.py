"""What Medusa's heads are trained to do."""

from __future__ import annotations

import torch

from szilard.speculative.draft_config import DraftConfig, MedusaConfig
from szilard.speculative.draft_training import Drafted, DraftObjective
from szilard.speculative.medusa.heads import MedusaHeads
from szilard.speculative.trained import DraftHeads
from szilard.training.target import Target


class MedusaObjective(DraftObjective):
    """Cross-entropy of head j at position t against token t + 1 + j; the model stays as it is."""

    settings: MedusaConfig

    @classmethod
    def build(cls, target: Target, config: DraftConfig) -> DraftHeads:
        assert isinstance(config, MedusaConfig)
        heads = MedusaHeads(base=target.base, depth=config.heads, head=config.head)
        heads.start_from(target.model.get_output_embeddings().weight)
        return heads

    def draft(
        self, ids: torch.Tensor, hidden: torch.Tensor | None, valid: torch.Tensor, sources: torch.Tensor
    ) -> Drafted:
        assert isinstance(self.heads, MedusaHeads) and hidden is not None
        features = self.heads(hidden[sources[:, 0], sources[:, 1]])
        return Drafted(self.heads.logits(features, self.target.unembed))
