"""What Chimera's drafter is trained to do: at every source position, all depths, teacher-forced.

Step j of source t sees the hidden states up to t, its own outputs o_{t+1} .. o_{t+j-1} and its own code g_{t+j};
nothing else, as in use. (Official code: a slip in its mask hides the earlier outputs from every row.)

    L = sum_j decay^{j-1} CE(head_j at t, x_{t+1+j})
        + w_hidden sum_j MSE(o_{t+j}, h_{t+j}) + w_logits sum_j D(base at t+j, head_j at t)

with D the divergence KL(base || head) or the mean squared distance of the logits, and x the text's tokens or the
model's own first choices.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache

from szilard.speculative.chimera.drafter import ChimeraDrafter, triples
from szilard.speculative.draft_config import ChimeraConfig, DraftConfig
from szilard.speculative.draft_training import Drafted, DraftObjective, divergence, in_grid
from szilard.speculative.one_layer import layer_settings
from szilard.speculative.trained import DraftHeads
from szilard.training.target import Target


class ChimeraObjective(DraftObjective):
    """Cross-entropy of every depth, and distance of the outputs from the hidden states that they stand for."""

    settings: ChimeraConfig

    @classmethod
    def build(cls, target: Target, config: DraftConfig) -> DraftHeads:
        assert isinstance(config, ChimeraConfig)
        drafter = ChimeraDrafter(
            base=target.base,
            layer=layer_settings(target.config),
            depth=config.heads,
            head=config.head,
            trigram=config.trigram,
            use_context=config.use_context,
            use_hidden=config.use_hidden,
        )
        drafter.start_from(target.model.get_output_embeddings().weight.float())
        return drafter

    def draft(
        self, ids: torch.Tensor, hidden: torch.Tensor | None, valid: torch.Tensor, sources: torch.Tensor
    ) -> Drafted:
        drafter, settings = self.heads, self.settings
        assert isinstance(drafter, ChimeraDrafter) and hidden is not None
        hidden = hidden.to(drafter.dtype)
        batch, length, _ = hidden.shape
        rows, places = sources[:, 0], sources[:, 1]
        own = hidden[rows, places]  # h_t, [N, d]
        at, column = in_grid(sources, batch)  # t of every cell, [batch, cells]
        width = at.shape[1]
        itself = torch.eye(width, dtype=torch.bool, device=ids.device).expand(batch, -1, -1)
        text = torch.arange(length, device=ids.device)
        before = (text <= at[..., None]) & valid[:, None] & drafter.use_context  # h that a source sees
        cache = DynamicCache()
        if drafter.use_context:  # the text once, for all sources
            causal = (text[:, None] >= text) & valid[:, None]
            drafter.encode(hidden, text.expand(batch, -1), causal | (text[:, None] == text), cache)
        else:
            before = before[..., :0]
        seen = before  # slots that a cell's next slot sees, [batch, cells, cached]
        guesses: list[torch.Tensor] = []
        logits, losses = [], []
        out = None
        for step in range(drafter.depth):
            if out is not None:  # the last output becomes a slot for good: seen by its own cell only
                drafter.encode(out, at + step, torch.cat([seen, itself], dim=2), cache)
                seen = torch.cat([seen, itself], dim=2)
            code = drafter.trigram(self.target.embed(self._triples(ids, guesses, at, step)).to(drafter.dtype))
            out = drafter.encode(code, at + step + 1, torch.cat([seen, itself], dim=2), cache)
            cache.crop(-width)  # codes are not kept
            flat = out[rows, column]  # o_{t+1+step}, [N, d]
            true = hidden[rows, (places + step + 1).clamp(max=length - 1)]
            real = (places + step + 1 < length) & valid[rows, (places + step + 1).clamp(max=length - 1)]
            losses.append(((flat - true).square().mean(-1) * real).sum() / real.sum().clamp(min=1))
            fed = (own.detach(), flat.detach()) if settings.detach_heads else (own, flat)
            logits.append(drafter.logits(step, *fed, self.target.unembed))
            if settings.draft_inputs == "predicted":
                best = logits[-1].detach().argmax(-1)
                guesses.append(ids.new_zeros(batch, width).index_put((rows, column), best))
        extra = {"hidden": settings.w_hidden * torch.stack(losses).sum()} if settings.w_hidden else {}
        labels = None
        if settings.w_logits or settings.labels == "base":
            distance, choices = self._model(logits, hidden, valid, rows, places)
            if settings.w_logits:
                extra["distilled"] = settings.w_logits * distance
            labels = choices if settings.labels == "base" else None
        return Drafted(torch.stack(logits), labels=labels, extra=extra)

    def _triples(self, ids: torch.Tensor, guesses: list[torch.Tensor], at: torch.Tensor, step: int) -> torch.Tensor:
        """The tokens t + step - 1, t + step, t + step + 1 of every cell, int64 [batch, cells, 3].

        Tokens behind t + 1 are the text's own ("gold"), or what the heads guessed.
        """
        end = at + step + 1
        places = torch.stack([end - 2, end - 1, end], dim=-1)
        inside = places.clamp(min=0, max=ids.shape[1] - 1)
        tokens = ids.gather(1, inside.flatten(1)).view_as(inside)
        for depth, guess in enumerate(guesses):  # guess of depth d stands at t + 2 + d
            tokens = torch.where(places == (at + 2 + depth)[..., None], guess[..., None], tokens)
        return triples(tokens, end + 1)

    def _model(
        self,
        logits: list[torch.Tensor],
        hidden: torch.Tensor,
        valid: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The heads' distance from the model's own logits, means summed over depths, and its choices [depth, N]."""
        total, choices = logits[0].new_zeros(()), []
        for step, guessed in enumerate(logits):
            place = places + step + 1
            inside = place.clamp(max=hidden.shape[1] - 1)
            real = (place < hidden.shape[1]) & valid[rows, inside]
            with torch.no_grad():
                own = self.target.unembed(hidden[rows, inside])
            choices.append(own.argmax(-1))
            if self.settings.logits_distance == "kl":
                each = divergence(own, guessed)
            else:
                each = (guessed.float() - own.float()).square().mean(-1)
            total = total + (each * real).sum() / real.sum().clamp(min=1)
        return total, torch.stack(choices)
