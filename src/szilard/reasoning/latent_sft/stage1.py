"""Stage 1: latent tokens that say what comes next. The encoder writes them, the decoder must do with them.

    L = mean CE of S_2..S_N, </think> and the answer, over tokens or (the paper) over chunks, under LTSuM

Its three sub-steps train the encoder, then the decoder, then both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from szilard.engines.model_parts import unembed
from szilard.options import check_choice
from szilard.reasoning.latent_sft.config import SUB_STEPS, LatentSFTConfig
from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder, LatentTokens, check_takes_mask, hidden_states
from szilard.reasoning.latent_sft.masks import (
    ANSWER,
    LATENT,
    causal_mask,
    dual_track_positions,
    plain_positions,
    supervision_mask,
)
from szilard.reasoning.latent_sft.samples import IGNORED


class LatentSFTStage1(nn.Module):
    """{"loss", "answers": share of the rows whose answer is right token for token, and so as a greedy answer}.

    Args:
        encoder: theta_enc.
        decoder: theta_llm, a causal language model.
        config: the settings.
        train: "encoder", "decoder" or "both"; the other one stays in evaluation mode.

    Raises:
        ValueError: another sub-step, or an attention that takes no mask of its own.
    """

    def __init__(
        self,
        encoder: LatentTokenEncoder,
        decoder: Any,
        config: LatentSFTConfig,
        train: str = "both",
    ) -> None:
        super().__init__()
        check_choice("train", train, SUB_STEPS)
        check_takes_mask(decoder)
        self.settings, self.sub_step = config, train
        self.encoder, self.decoder = encoder, decoder

    def learning_rate_of(self, name: str) -> float:
        """Largest learning rate of a parameter."""
        own = self.settings.encoder_learning_rate if name.startswith("encoder.") else None
        return self.settings.stage_1_learning_rate if own is None else own

    def train(self, mode: bool = True) -> LatentSFTStage1:
        """Training or evaluation mode; a model that does not learn here stays in evaluation mode."""
        super().train(mode)
        if self.sub_step != "both":
            (self.decoder if self.sub_step == "encoder" else self.encoder).eval()
        return self

    def forward(
        self,
        encoder_ids: torch.Tensor,
        encoder_role: torch.Tensor,
        ids: torch.Tensor,
        role: torch.Tensor,
        chunk: torch.Tensor,
        labels: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """A batch of `Stage1Data.collate`, int64 [batch, slots] each."""
        made: LatentTokens = self.encoder(encoder_ids, encoder_role)
        hidden = self.decoder_states(made.vectors, ids, role, chunk)
        wanted = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)
        counted = wanted != IGNORED
        logits = unembed(self.decoder, hidden[counted])
        targets = wanted[counted]
        each = functional.cross_entropy(logits.float(), targets, reduction="none")
        followed = torch.cat([role[:, 1:], role[:, -1:]], 1)[counted]  # the role of the token that is predicted
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)[counted]
        wrong = (logits.detach().argmax(-1) != targets) & (followed == ANSWER)
        wrongs = torch.zeros(len(ids), dtype=torch.long, device=ids.device).index_add_(0, rows, wrong.long())
        chunks = torch.cat([chunk[:, 1:], chunk[:, -1:]], 1)[counted]
        return {"loss": self._average(each, rows, chunks), "answers": (wrongs == 0).float().mean()}

    def decoder_states(
        self, vectors: torch.Tensor, ids: torch.Tensor, role: torch.Tensor, chunk: torch.Tensor
    ) -> torch.Tensor:
        """The decoder's states with the latent tokens `vectors` [n, d] in their slots: [batch, slots, d]."""
        backbone = self.decoder.get_decoder()
        embedded = backbone.get_input_embeddings()(ids)
        embedded = embedded.masked_scatter((role == LATENT)[..., None], vectors.to(embedded.dtype))
        if not self.settings.supervision_mask:  # the text really stands between, so positions count it
            return hidden_states(backbone, embedded, causal_mask(role), plain_positions(role))
        positions = dual_track_positions(role) if self.settings.dual_track_positions else plain_positions(role)
        return hidden_states(backbone, embedded, supervision_mask(role, chunk), positions)

    def _average(self, each: torch.Tensor, rows: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """Of the losses [m] of tokens in these rows and chunks."""
        if self.settings.average == "token":
            return each.mean()
        # (1/N) sum over chunks of the mean in a chunk, then over rows
        groups, group = torch.unique(torch.stack([rows, chunks], 1), dim=0, return_inverse=True)
        row = groups[:, 0]
        in_chunks = _means(each, group, len(groups))
        samples, sample = torch.unique(row, return_inverse=True)
        return _means(in_chunks, sample, len(samples)).mean()


def _means(values: torch.Tensor, group: torch.Tensor, count: int) -> torch.Tensor:
    """Of the values [m] in each of `count` groups."""
    sums = values.new_zeros(count).index_add(0, group, values)
    return sums / torch.bincount(group, minlength=count)
