"""What the projections are trained to do: pseudo states that the model reads as it reads the true ones.

    L = sum_i mean_n KL( p(. | x_{<= n+i}) || softmax(U norm(s_{n,i}^N)) )

Teacher and pseudo states come from one forward; gradients flow through the frozen upper layers. (The paper's loss
weights and the direction of the divergence are not known: 1, and teacher first.)
"""

from __future__ import annotations

from typing import ClassVar

import torch

from szilard.speculative.draft_config import DraftConfig, HiddenTransferConfig
from szilard.speculative.draft_training import Drafted, DraftObjective, in_grid
from szilard.speculative.hidden_transfer.projections import HiddenTransferProjections, default_layers
from szilard.speculative.hidden_transfer.pseudo_slots import PseudoSlots
from szilard.speculative.trained import DraftHeads
from szilard.training.target import Target


class HiddenTransferObjective(DraftObjective):
    """Divergence of every step from the model's own distribution at the real position."""

    cached: ClassVar[bool] = False
    settings: HiddenTransferConfig

    def __init__(self, heads: DraftHeads, target: Target, config: DraftConfig) -> None:
        super().__init__(heads, target, config)
        assert isinstance(heads, HiddenTransferProjections)
        self.slots = PseudoSlots(target.model, heads.layers, heads, attention=heads.pseudo_attention)

    @classmethod
    def build(cls, target: Target, config: DraftConfig) -> DraftHeads:
        assert isinstance(config, HiddenTransferConfig)
        count = int(target.config.num_hidden_layers)
        layers = default_layers(count, config.transfer_steps)
        if config.layers:
            layers = [int(part) for part in config.layers.split(",")]
        PseudoSlots(target.model, layers, lambda hidden, step: hidden)  # refuse here what cannot run
        return HiddenTransferProjections(
            base=target.base, layers=layers, bias=config.bias, pseudo_attention=config.pseudo_attention
        )

    def draft(
        self, ids: torch.Tensor, hidden: torch.Tensor | None, valid: torch.Tensor, sources: torch.Tensor
    ) -> Drafted:
        at, column = in_grid(sources, len(ids))
        with self.slots.inserted(at):
            real = self.target.model.get_decoder()(ids, use_cache=False).last_hidden_state
        final = self.slots.final
        assert final is not None
        rows, places = sources.T
        ahead = torch.arange(1, self.heads.depth + 1, device=ids.device)
        inside = (places[:, None] + ahead).clamp(max=ids.shape[1] - 1)  # [N, depth]
        with torch.no_grad():
            teacher = self.target.unembed(real[rows[:, None], inside].transpose(0, 1))
        return Drafted(self.target.unembed(final[rows, column].transpose(0, 1)), teacher)
