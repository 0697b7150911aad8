"""Probes for the information surplus: what a hidden state tells about tokens beyond the next one.

Three cross-entropies for the token j steps beyond the next, in nats on held-out documents:

    A_j   from the tokens W_t .. W_{t+j-1} alone: the best of a probe whose hidden state is nought, the model itself on
          that short window, and an interpolated bigram
    B_j   a probe of the same make from H_t and these tokens
    C_j   the model with everything before

A - B is the surplus as V-information of the probe's family (a difference of two upper bounds, so no bound itself), A -
C what the past tells at all, (A - B) / (A - C) the share of that which H_t holds.

A probe starts as the model itself on the short window, exactly, and learns what to add to the state that the model has
there; so neither A nor B has to learn again what the tokens tell, and B is no worse than A because it was trained less.
This, and choosing weights and window on documents of their own, is ours (inferred).

What a drafter sees of the tokens between is `given`: "all" (one that drafts token by token, as EAGLE), "next" (W_t
alone) or "nothing" (parallel heads on H_t, as Medusa). With fewer than all there is no such window: a probe then starts
at the frequencies of tokens.
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

GIVEN = ("all", "next", "nothing")
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


@dataclass(frozen=True)
class Start:
    """Where probes start, the same for those with a state and without.

    Attributes:
        states: [N, d], the model's last states on the short windows, or nought.
        prior: [V], added to the logits.
        size: of states that the head is used to, their root mean square.
    """

    states: Tensor
    prior: Tensor
    size: float


class Probe(nn.Module):
    """logits = U (s + size f(h, s, e(w_t), ..)) + prior, with a network f of one hidden layer that is 0 at first.

    Args:
        embeddings: [V, e] of the model's input, frozen.
        head: U, [V, d], frozen.
        start: s, prior and size.
        tokens: how many are given.
        width: of the hidden layer.
        sees: whether h is given; else it is nought.
        state: width of h.
    """

    embeddings: Tensor
    head: Tensor
    prior: Tensor

    def __init__(
        self, embeddings: Tensor, head: Tensor, start: Start, tokens: int, width: int, *, sees: bool, state: int
    ) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("head", head, persistent=False)
        self.register_buffer("prior", start.prior, persistent=False)
        self.sees, self.size_out, size = sees, start.size, head.shape[1]
        self.inner = nn.Linear(state + tokens * embeddings.shape[1] + size, width)
        self.outer = nn.Linear(width, size)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.size_in = float(embeddings.float().square().mean().sqrt().clamp(min=1e-8))  # tokens enter with unit size

    def forward(self, hidden: Tensor, tokens: Tensor, start: Tensor) -> Tensor:
        """[N, state], [N, tokens], [N, d] -> logits [N, V]."""
        h = functional.rms_norm(hidden.float(), hidden.shape[-1:]) * float(self.sees)
        seen = self.embeddings[tokens].float().flatten(1) / self.size_in
        x = torch.cat([h, seen, functional.rms_norm(start, start.shape[-1:])], 1)
        moved = start + self.size_out * self.outer(functional.gelu(self.inner(x)))
        return moved @ self.head.float().T + self.prior


class _Objective(nn.Module):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe

    def forward(self, hidden: Tensor, tokens: Tensor, start: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(self.probe(hidden, tokens, start), target)}


class _Rows(Dataset[tuple[Tensor, ...]]):
    names = ("hidden", "tokens", "start", "target")

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    @staticmethod
    def collate(rows: list[tuple[Tensor, ...]]) -> dict[str, Tensor]:
        columns = (torch.stack(column) for column in zip(*rows, strict=True))
        return dict(zip(_Rows.names, columns, strict=True))


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
    start: Start,
    folder: Path,
    config: ProbeConfig,
    *,
    sees: bool,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses and likeliest tokens on the tested rows, [n] each.

    Args:
        hidden: [N, d].
        tokens: [N, j], W_t .. W_{t+j-1}, or fewer of them.
        target: [N], W_{t+j}.
        parts: of `split_documents`.
        embeddings, head: [V, e] and [V, d].
        start: of `window_start` or `plain_start`.
        folder: of checkpoints; a killed run goes on.
        config: the settings.
        sees: whether the probe is given the hidden state.
        device: None: what there is.
    """
    with own_chance(config.seed):
        width = config.hidden or head.shape[1]
        probe = Probe(embeddings, head, start, tokens.shape[1], width, sees=sees, state=hidden.shape[1])
    rows = {name: _Rows(hidden[own], tokens[own], start.states[own], target[own]) for name, own in parts.items()}
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
    device = probe.inner.weight.device
    for at in range(0, len(rows), 256):
        hidden, tokens, start, target = (column[at : at + 256].to(device) for column in rows.columns)
        logits = probe(hidden, tokens, start)
        losses.append(functional.cross_entropy(logits, target, reduction="none").cpu())
        likeliest.append(logits.argmax(-1).cpu())
    return torch.cat(losses), torch.cat(likeliest)


@torch.no_grad()
def window_states(model: Any, tokens: Tensor, begin: int | None) -> Tensor:
    """[N, d] last states of the model whose whole context is `begin` and W_t .. W_{t+j-1}; each window is read once."""
    unique, owner = tokens.unique(dim=0, return_inverse=True)
    lead = torch.full((len(unique), 1), begin) if begin is not None else torch.zeros(len(unique), 0, dtype=torch.long)
    ids = torch.cat([lead, unique], 1)
    parts = []
    for at in range(0, len(ids), 64):
        seen = model(input_ids=ids[at : at + 64].to(model.device), output_hidden_states=True, use_cache=False)
        parts.append(seen.hidden_states[-1][:, -1].float().cpu())
    return torch.cat(parts)[owner]


@torch.no_grad()
def state_losses(states: Tensor, target: Tensor, head: Tensor) -> Tensor:
    """[N] losses of the head at states [N, d] on targets [N]."""
    u = head.float().cpu()
    pairs = zip(states.split(256), target.split(256), strict=True)
    return torch.cat([functional.cross_entropy(state @ u.T, own, reduction="none") for state, own in pairs])


def window_start(
    model: Any, tokens: Tensor, target: Tensor, parts: dict[str, Tensor], head: Tensor, begin: int | None
) -> Start:
    """The model on the short window, with the tokenizer's first token before it or without: what "chosen" likes."""
    chosen = parts["chosen"]
    found = [window_states(model, tokens, lead) for lead in dict.fromkeys((begin, None))]
    states = min(found, key=lambda one: float(state_losses(one[chosen], target[chosen], head).mean()))
    return Start(states, torch.zeros(len(head)), float(states.square().mean().sqrt().clamp(min=1e-8)))


def plain_start(hidden: Tensor, target: Tensor, parts: dict[str, Tensor], head: Tensor) -> Start:
    """Frequencies of the targets of "learned", each counted once more; states [N, d] give the size alone."""
    counts = torch.bincount(target[parts["learned"]], minlength=len(head)).float() + 1
    size = float(hidden.float().square().mean().sqrt().clamp(min=1e-8))
    return Start(torch.zeros(len(target), head.shape[1]), (counts / counts.sum()).log(), size)


def bigram_losses(previous: Tensor, target: Tensor, parts: dict[str, Tensor], vocabulary: int) -> Tensor:
    """[tested] losses of pairs' counts, smoothed by single counts and these by one; the share is chosen on "chosen".

    With the same `previous` everywhere these are single counts.
    """
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
