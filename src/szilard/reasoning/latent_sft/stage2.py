"""Stage 2: the model learns to write the latent tokens itself.

Q <think> z_1..z_N </think> answer, causal, with the encoder's latent tokens put in (teacher forcing). With alpha_t the
label and q_t the model's distribution at the slot before z_t, over the whole vocabulary:

    L_KL = mean_t sum_j alpha_t[j] (log alpha_t[j] - log q_t[id_j])        in a problem, then over problems
    L_CE = mean -log q of </think>, the answer and the end
    L    = lambda L_KL + beta L_CE

Every time a problem is read its labels get fresh Gumbel noise, as input and as target; a draw in which a latent token's
likeliest token begins </think> is thrown away, since it would teach to stop early.

Ablation `feedback="hidden_state"` (inferred): the slots are fed the encoder's states, and besides L_KL, which still
teaches when to stop, the model's own state before z_t is drawn to the encoder's by its mean square, since it takes that
place at inference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from szilard.engines.model_parts import unembed
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.masks import LATENT, PADDING, plain_positions
from szilard.reasoning.latent_sft.samples import IGNORED
from szilard.reasoning.latent_sft.superposition import gumbel, soft_embedding

_EPSILON = 1e-12
_DRAWS = 100  # of noise, before a problem keeps its clean labels


class LatentSFTStage2(nn.Module):
    """{"loss", "kl", "ce"} of a batch, and "hidden" in the ablation.

    Args:
        model: the causal language model that learns.
        config: the settings.
        close_id: the first id of what ends a chain.
    """

    def __init__(self, model: Any, config: LatentSFTConfig, close_id: int) -> None:
        super().__init__()
        self.model: Any = model
        self.settings, self.close_id = config, close_id

    def forward(
        self,
        ids: torch.Tensor,
        role: torch.Tensor,
        labels: torch.Tensor,
        probabilities: torch.Tensor,
        tokens: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """A batch of `Stage2Data.collate`.

        Args:
            ids, role, labels: int64 [batch, slots].
            probabilities, tokens: the encoder's labels [n, k], row after row; tokens None: over the whole vocabulary.
            hidden: its states [n, d], where they are fed.
        """
        model, settings = self.model, self.settings
        latent = role == LATENT
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        row = rows[latent]  # of every latent token
        probabilities = probabilities.float()
        if self.training and settings.gumbel_scale:
            probabilities = self.noisy(probabilities, tokens, row, len(ids))
        embedding = model.get_input_embeddings()
        vectors = soft_embedding(embedding, probabilities, tokens) if hidden is None else hidden
        embedded = embedding(ids)
        embedded = embedded.masked_scatter(latent[..., None], vectors.to(embedded.dtype))
        states = model.get_decoder()(
            inputs_embeds=embedded,
            attention_mask=(role != PADDING).long(),
            position_ids=plain_positions(role),
            use_cache=False,
        ).last_hidden_state
        before = torch.cat([latent[:, 1:], torch.zeros_like(latent[:, :1])], 1)  # the slot before each latent token
        wanted = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)
        spoken = wanted != IGNORED
        ce = functional.cross_entropy(unembed(model, states[spoken]).float(), wanted[spoken])
        found = {"ce": ce, "kl": ce.new_zeros(())}
        loss = settings.ce_weight * ce
        if len(row):
            log_q = unembed(model, states[before]).float().log_softmax(-1)
            found["kl"] = per_problem(divergence(probabilities, tokens, log_q), row)
            loss = loss + settings.kl_weight * found["kl"]
            if hidden is not None:
                away = (states[before].float() - hidden.float()).square().mean(-1)
                found["hidden"] = per_problem(away, row)
                loss = loss + settings.kl_weight * found["hidden"]
        return {"loss": loss} | {name: value.detach() for name, value in found.items()}

    def noisy(
        self, probabilities: torch.Tensor, tokens: torch.Tensor | None, row: torch.Tensor, rows: int
    ) -> torch.Tensor:
        """Labels [n, k] with fresh noise; a problem keeps its clean ones when a hundred draws would all stop early."""
        settings = self.settings
        clamp = (settings.gumbel_low, settings.gumbel_high)
        kept, open_ = probabilities, torch.ones(rows, dtype=torch.bool, device=row.device)
        for _ in range(_DRAWS):
            drawn = gumbel(
                probabilities, scale=settings.gumbel_scale, temperature=settings.gumbel_temperature, clamp=clamp
            )
            top = drawn.argmax(-1)
            likeliest = top if tokens is None else tokens.gather(1, top[:, None])[:, 0]
            stops = torch.zeros_like(open_).index_put_((row[likeliest == self.close_id],), open_.new_ones(()))
            kept = torch.where((open_ & ~stops)[row][:, None], drawn, kept)
            open_ = open_ & stops
            if not bool(open_.any()):
                break
        return kept


def divergence(probabilities: torch.Tensor, tokens: torch.Tensor | None, log_q: torch.Tensor) -> torch.Tensor:
    """KL of each label from the model, which is not renormalised on the label's ids; nats, [n].

    Args:
        probabilities, tokens: labels [n, k]; tokens None: over the whole vocabulary.
        log_q: the model's, [n, vocab].
    """
    log_p = probabilities.clamp(min=_EPSILON).log()
    own = log_q[..., : probabilities.shape[-1]] if tokens is None else log_q.gather(1, tokens)
    return torch.where(probabilities > 0, probabilities * (log_p - own), 0).sum(-1)


def per_problem(values: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """The mean over problems of the mean of their latent tokens' values [n]."""
    rows, group = torch.unique(row, return_inverse=True)
    sums = values.new_zeros(len(rows)).index_add(0, group, values)
    return (sums / torch.bincount(group)).mean()
