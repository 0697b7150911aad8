"""What Flash's drafter is trained to do: the features of the next K slots from each, and the tokens they lead to.

    L = v_w mean SmoothL1(f'_{t+j}, f_{t+j}) + p_w mean CE(softmax(U f_{t+j}), softmax(U f'_{t+j}))

(The divergence is minimised in the place of the cross-entropy with a soft target: the same gradient.) Uniform noise is
added to the input features, the wider the shorter the stretch.
"""

from __future__ import annotations

import torch
from torch import nn

from szilard.speculative.draft_config import DraftConfig, FlashConfig
from szilard.speculative.draft_training import Drafted, DraftObjective
from szilard.speculative.flash.drafter import FlashDrafter, in_one_batch
from szilard.speculative.one_layer import growing, layer_settings
from szilard.speculative.trained import DraftHeads
from szilard.training.target import Target


class FlashObjective(DraftObjective):
    """Features by smooth L1 distance, tokens by divergence from the model's own distribution."""

    settings: FlashConfig

    @classmethod
    def build(cls, target: Target, config: DraftConfig) -> DraftHeads:
        assert isinstance(config, FlashConfig)
        names = ("image_token_id", "image_token_index")
        found = [getattr(target.model.config, name, None) for name in names]
        image = next((token for token in found if token is not None), None)
        return FlashDrafter(
            base=target.base,
            layer=layer_settings(target.config),
            depth=config.draft_tokens,
            latents=config.latents if image is not None else 0,
            compression=config.compression,
            head=config.head,
            image_token=image,
        )

    @property
    def skips_parameters(self) -> bool:
        """Whether a batch without pictures leaves their latents out."""
        return self.heads.image_token is not None  # type: ignore[attr-defined]

    def draft(
        self, ids: torch.Tensor, hidden: torch.Tensor | None, valid: torch.Tensor, sources: torch.Tensor
    ) -> Drafted:
        drafter = self.heads
        assert isinstance(drafter, FlashDrafter) and hidden is not None
        true = hidden.to(drafter.dtype)
        features = true
        if self.training and self.settings.noise:
            width = (self.settings.noise * 512 / valid.sum(1))[:, None, None]  # of each row's own length
            features = true + (2 * torch.rand_like(true) - 1) * width
        following = self.target.embed(ids.roll(-1, dims=1)).to(drafter.dtype)  # of the last slot: nobody's source
        rows, places = sources.T
        image = (ids == drafter.image_token) if drafter.image_token is not None else torch.zeros_like(valid)
        if bool(image.any()):
            lengths = valid.sum(1).tolist()
            made = [
                drafter.draft_sequence(features[row, :length], following[row, :length], image[row, :length])
                for row, length in enumerate(lengths)
            ]
            slots, real = in_one_batch([sequence for sequence, _ in made])
            at = torch.stack([made[row][1][place] for row, place in sources.tolist()])
        else:
            slots, real, at = drafter.fuse(torch.cat([following, features], dim=-1)), valid, places
        positions = torch.arange(slots.shape[1], device=ids.device).expand(len(ids), -1)
        out = drafter(slots, positions, growing(real[:, :0], real))[rows, at]  # [N, K, d]
        ahead = places[:, None] + torch.arange(1, drafter.depth + 1, device=ids.device)  # [N, K]
        inside = ahead.clamp(max=ids.shape[1] - 1)
        there = (ahead < ids.shape[1]) & valid[rows[:, None], inside]
        goal = true[rows[:, None], inside]
        extra = {}
        if self.settings.w_feature:
            each = nn.functional.smooth_l1_loss(out, goal, reduction="none").mean(-1)
            extra["feature"] = self.settings.w_feature * (each * there).sum() / there.sum().clamp(min=1)
        with torch.no_grad():
            teacher = self.target.unembed(goal.transpose(0, 1))
        return Drafted(self.target.unembed(out.transpose(0, 1)), teacher, extra=extra)

    def weights(self) -> list[float]:
        return [self.settings.w_token / self.heads.depth] * self.heads.depth
