"""Probes for the information surplus: what a hidden state tells about tokens beyond the next one.

Three cross-entropies for the token j steps beyond the next, in nats on held-out documents:

    A_j   from the tokens W_t .. W_{t+j-1} alone: the best of a probe whose hidden state is nought, the model itself on
    that
          short window, and an interpolated bigram
    B_j   a probe of the same make from H_t and these tokens
    C_j   the model with everything before

A - B is the surplus as V-information of the probe's family (a difference of two upper bounds, so no bound itself), A -
C what the past tells at all, (A - B) / (A - C) the share of that which H_t holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from szilard.options import check_number
from szilard.training.config import TrainingConfig, setting
from szilard.training.recipe import Stage, own_chance, run_recipe

PARTS = ("learned", "chosen", "tested")  # by document: 70, 15, 15 %


@dataclass(frozen=True)
class ProbeConfig(TrainingConfig):
    """Settings of the probes."""

    epochs: float = setting(6.0, "Passes over the positions, at most: the best evaluation counts.")
    batch_size: int = setting(256, "Positions per step.")
    learning_rate: float = setting(1e-3, "Of Adam.")
    save_every: int = setting(20, "Steps between checkpoints and evaluations.")
    hidden: int = setting(0, "Width of the residual network; 0: the model's.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("hidden", self.hidden, low=0, integer=True)


class Probe(nn.Module):
    """[h; e(w_t); ..; e(w_{t+j-1})] -> a linear layer, a residual network -> the model's own output embedding.

    Args:
        embeddings: [V, d] of the model's input, frozen.
        head: U, [V, d], frozen.
        tokens: j.
        width: of the residual network.
        sees: whether h is given; else it is nought.
    """

    embeddings: Tensor
    head: Tensor

    def __init__(self, embeddings: Tensor, head: Tensor, tokens: int, width: int, *, sees: bool, state: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("head", head, persistent=False)
        self.sees, size = sees, head.shape[1]
        self.first = nn.Linear(state + tokens * embeddings.shape[1], size)
        self.inner, self.outer = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.scale = nn.Parameter(torch.ones(size))
        # Tokens and states enter with unit size, and leave with the size that the head is used to.
        self.size_in = float(embeddings.float().square().mean().sqrt().clamp(min=1e-8))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """[N, d], [N, j] -> logits [N, V]."""
        h = functional.rms_norm(hidden.float(), hidden.shape[-1:]) * float(self.sees)
        seen = self.embeddings[tokens].float().flatten(1) / self.size_in
        x = self.first(torch.cat([h, seen], 1))
        x = x + self.outer(functional.gelu(self.inner(x)))
        return functional.rms_norm(x, x.shape[-1:], self.scale) @ self.head.float().T


class _Objective(nn.Module):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe

    def forward(self, hidden: Tensor, tokens: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(self.probe(hidden, tokens), target)}


class _Rows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    def __init__(self, hidden: Tensor, tokens: Tensor, target: Tensor) -> None:
        self.columns = hidden, tokens, target

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        hidden, tokens, target = self.columns
        return hidden[index], tokens[index], target[index]

    @staticmethod
    def collate(rows: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
        hidden, tokens, target = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"hidden": hidden, "tokens": tokens, "target": target}


def split_documents(document: Tensor, seed: int) -> dict[str, Tensor]:
    """Which rows are learned from, chosen by and tested on: by document, never by token.

    Raises:
        ValueError: fewer than three documents.
    """
    numbers = document.unique()
    if len(numbers) < 3:
        raise ValueError(f"probes are tested on documents of their own: give at least 3 texts, not {len(numbers)}.")
    order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))]
    least = max(1, round(0.15 * len(order)))
    cuts = (
        order[: len(order) - 2 * least],
        order[len(order) - 2 * least : len(order) - least],
        order[len(order) - least :],
    )
    return {name: torch.isin(document, own).nonzero().squeeze(1) for name, own in zip(PARTS, cuts, strict=True)}


def train_probe(
    hidden: Tensor,
    tokens: Tensor,
    target: Tensor,
    parts: dict[str, Tensor],
    embeddings: Tensor,
    head: Tensor,
    folder: Path,
    config: ProbeConfig,
    *,
    sees: bool,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses and likeliest tokens on the tested rows, [n] each.

    Args:
        hidden: [N, d].
        tokens: [N, j], W_t .. W_{t+j-1}.
        target: [N], W_{t+j}.
        parts: of `split_documents`.
        embeddings, head: [V, e] and [V, d].
        folder: of checkpoints; a killed run goes on.
        config: the settings.
        sees: whether the probe is given the hidden state.
        device: None: what there is.
    """
    with own_chance(config.seed):
        probe = Probe(
            embeddings, head, tokens.shape[1], config.hidden or head.shape[1], sees=sees, state=hidden.shape[1]
        )
    rows = {name: _Rows(hidden[own], tokens[own], target[own]) for name, own in parts.items()}
    stage = Stage(
        "probe",
        config,
        objective=lambda: _Objective(probe),
        data=lambda: rows["learned"],
        collate=_Rows.collate,
        evaluate=lambda objective: {"nll": float(_scored(objective.probe, rows["chosen"])[0].mean())},
        evaluate_every=config.save_every,
        best="nll",
        higher_is_better=False,
    )
    run_recipe([stage], folder, device=device)
    probe.eval()
    return _scored(probe, rows["tested"])


@torch.no_grad()
def _scored(probe: Any, rows: _Rows) -> tuple[Tensor, Tensor]:
    losses, likeliest = [], []
    device = probe.first.weight.device
    for at in range(0, len(rows), 256):
        hidden, tokens, target = (column[at : at + 256].to(device) for column in rows.columns)
        logits = probe(hidden, tokens)
        losses.append(functional.cross_entropy(logits, target, reduction="none").cpu())
        likeliest.append(logits.argmax(-1).cpu())
    return torch.cat(losses), torch.cat(likeliest)


@torch.no_grad()
def window_losses(model: Any, tokens: Tensor, target: Tensor, begin: int | None, vocabulary: int) -> Tensor:
    """[N] losses of the model on W_{t+j} whose whole context is BOS and W_t .. W_{t+j-1}; each window is read once."""
    unique, owner = tokens.unique(dim=0, return_inverse=True)
    lead = torch.full((len(unique), 1), begin) if begin is not None else torch.zeros(len(unique), 0, dtype=torch.long)
    ids = torch.cat([lead, unique], 1)
    losses = torch.zeros(len(target))
    for at in range(0, len(ids), 64):
        logits = model(input_ids=ids[at : at + 64].to(model.device), use_cache=False).logits[:, -1, :vocabulary]
        log_p = logits.float().log_softmax(-1).cpu()
        rows = ((owner >= at) & (owner < at + 64)).nonzero().squeeze(1)
        losses[rows] = -log_p[owner[rows] - at, target[rows]]
    return losses


def bigram_losses(previous: Tensor, target: Tensor, parts: dict[str, Tensor], vocabulary: int) -> Tensor:
    """[tested] losses of pairs' counts, smoothed by single counts and these by one; the share is chosen on "chosen"."""
    learned = parts["learned"]
    single = torch.bincount(target[learned], minlength=vocabulary).double() + 1
    single /= single.sum()
    pairs, counts = (previous[learned] * vocabulary + target[learned]).unique(return_counts=True)
    firsts = torch.bincount(previous[learned], minlength=vocabulary).double()

    def losses(rows: Tensor, share: float) -> Tensor:
        wanted = previous[rows] * vocabulary + target[rows]
        found = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
        count = torch.where(pairs[found] == wanted, counts[found], 0).double()
        seen = firsts[previous[rows]]
        weight = torch.where(seen > 0, share, 0.0)
        return -(weight * count / seen.clamp(min=1) + (1 - weight) * single[target[rows]]).log()

    shares = [0.05 * step for step in range(20)]
    best = min(shares, key=lambda share: float(losses(parts["chosen"], share).mean()))
    return losses(parts["tested"], best).float()


def chosen_baseline(candidates: dict[str, Tensor]) -> tuple[str, Tensor]:
    """The name and the losses of the smallest mean: a weak A would feign a surplus."""
    name = min(candidates, key=lambda one: float(candidates[one].mean()))
    return name, candidates[name]


def useful_draft_length(fractions: Sequence[float], threshold: float = 0.3) -> int:
    """The largest j such that H_t holds at least this share for all tokens up to j (inferred)."""
    length = 0
    for fraction in fractions:
        if not fraction >= threshold:
            break
        length += 1
    return length
