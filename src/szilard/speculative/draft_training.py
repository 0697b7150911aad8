"""Training of drafting heads on a frozen model's own hidden states, whatever the heads are.

At a source position t the heads know the tokens up to t + 1 (the last one is the pending token) and the hidden states
up to t; head j is to guess token t + 1 + j. All heads of a source are trained together, on sources drawn from answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from szilard.engines.engine import Engine
from szilard.speculative.draft_config import DraftConfig
from szilard.speculative.trained import CANDIDATES, DraftHeads
from szilard.speculative.tree import SMALL_TREE
from szilard.training.course import Course
from szilard.training.hidden_states import Windows
from szilard.training.target import Target

Progress = Callable[[int, int], None]


@dataclass
class Drafted:
    """What heads drafted from N sources.

    Attributes:
        logits: float [depth, N, vocab].
        teacher: the model's own logits where a depth is to be judged by divergence from them, [depth, N, vocab].
        labels: tokens to be learned in the place of the text's own, int64 [depth, N].
        extra: further losses by name, scalars, which are added.
    """

    logits: torch.Tensor
    teacher: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


class DraftObjective(nn.Module, ABC):
    """What the training loop minimises: a weighted sum of the heads' cross-entropies or divergences.

    Args:
        heads: the add-on to be trained.
        target: the frozen model.
        config: the settings.
    """

    cached: ClassVar[bool] = True  # whether the last hidden states are computed beforehand

    def __init__(self, heads: DraftHeads, target: Target, config: DraftConfig) -> None:
        super().__init__()
        self.heads, self.target, self.settings = heads, target, config  # `config` is what Trainer looks for in models

    @classmethod
    @abstractmethod
    def build(cls, target: Target, config: Any) -> DraftHeads:
        """A fresh add-on."""

    @abstractmethod
    def draft(
        self, ids: torch.Tensor, hidden: torch.Tensor | None, valid: torch.Tensor, sources: torch.Tensor
    ) -> Drafted:
        """Guess the tokens after the next.

        Args:
            ids: int64 [batch, length], padded on the right.
            hidden: last hidden states, float32 [batch, length, hidden]; None where they are not cached.
            valid: False for padding, bool [batch, length].
            sources: (row, position) of every source, int64 [N, 2].
        """

    def weights(self) -> list[float]:
        """Of each depth's loss."""
        decay = getattr(self.settings, "decay", 1.0)
        return [decay**depth for depth in range(self.heads.depth)]

    def forward(
        self, ids: torch.Tensor, answer: torch.Tensor, valid: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """One batch: "loss", and "tokens_per_pass" under the static tree; per depth j "loss_j", "right_j" (the text's
        token was the first choice) and "among_5_j" (one of the first five)."""
        sources, targets, counts = self.sources(ids, answer & valid)
        drafted = self.draft(ids, hidden, valid, sources)
        ranks, losses = [], []
        for depth, (logits, wanted, counted) in enumerate(zip(drafted.logits, targets.T, counts.T, strict=True)):
            if drafted.teacher is None:
                learned = wanted if drafted.labels is None else drafted.labels[depth]
                each = nn.functional.cross_entropy(logits.float(), learned, reduction="none")
            else:
                each = divergence(drafted.teacher[depth], logits)
            losses.append((each * counted).sum() / counted.sum().clamp(min=1))
            ranks.append(torch.where(counted, _rank(logits.detach(), wanted), CANDIDATES))
        rank = torch.stack(ranks, dim=1)  # [N, depth]
        loss = sum(weight * part for weight, part in zip(self.weights(), losses, strict=True))
        outputs = {"loss": loss + sum(drafted.extra.values())}
        for depth, (part, counted) in enumerate(zip(losses, counts.T, strict=True), start=1):
            right, near = (
                ((rank[:, depth - 1] < most) & counted).sum() / counted.sum().clamp(min=1) for most in (1, 5)
            )
            outputs |= {f"loss_{depth}": part.detach(), f"right_{depth}": right, f"among_5_{depth}": near}
        shape = SMALL_TREE.truncate(max_depth=self.heads.depth)
        outputs["tokens_per_pass"] = 1 + shape.accepted(rank).float().mean()
        outputs |= {name: value.detach() for name, value in drafted.extra.items()}
        return outputs

    def sources(self, ids: torch.Tensor, answer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """At most `positions` sources of a batch, drawn at random.

        Args:
            ids, answer: [batch, length].

        Returns:
            (row, position) int64 [N, 2]; the tokens that head 1, 2, ... is to guess there, int64 [N, depth]; which of
            them belong to the answer, bool [N, depth].
        """
        depth, length = self.heads.depth, ids.shape[1]
        chances = answer[:, 2:].nonzero()  # source t: its first guess, token t + 2, belongs to an answer
        if self.training and len(chances) > self.settings.positions:
            drawn = torch.randperm(len(chances))[: self.settings.positions].sort().values
            chances = chances[drawn.to(chances.device)]
        places = chances[:, 1:] + 2 + torch.arange(depth, device=ids.device)  # [N, depth]
        inside = places.clamp(max=length - 1)
        rows = chances[:, :1].expand_as(inside)
        return chances, ids[rows, inside], answer[rows, inside] & (places < length)

    @torch.no_grad()
    def measure(self, data: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Accuracy of every candidate, float32 [depth, CANDIDATES], and the mean metrics, on held-out windows."""
        self.eval()
        right = torch.zeros(self.heads.depth, CANDIDATES)
        seen = torch.zeros(self.heads.depth)
        accepted, count = 0.0, 0
        shape = SMALL_TREE.truncate(max_depth=self.heads.depth)
        device = next(self.heads.parameters()).device
        for batch in DataLoader(data, batch_size=1, collate_fn=Windows.collate):
            batch = {name: value.to(device) for name, value in batch.items()}
            sources, targets, counts = self.sources(batch["ids"], batch["answer"] & batch["valid"])
            for first in range(0, len(sources), self.settings.positions):
                some = slice(first, first + self.settings.positions)
                logits = self.draft(batch["ids"], batch.get("hidden"), batch["valid"], sources[some]).logits
                wanted, counted = targets[some], counts[some]
                rank = torch.stack([_rank(*pair) for pair in zip(logits, wanted.T, strict=True)], dim=1)
                rank = torch.where(counted, rank, CANDIDATES)
                for depth in range(self.heads.depth):
                    right[depth] += torch.bincount(rank[:, depth], minlength=CANDIDATES + 1)[:CANDIDATES].cpu()
                seen += counted.sum(0).cpu()
                accepted += float(shape.accepted(rank).sum())
                count += len(wanted)
        accuracy = right / seen.clamp(min=1)[:, None]
        metrics = {f"right_{depth + 1}": float(accuracy[depth, 0]) for depth in range(self.heads.depth)}
        metrics |= {f"among_5_{depth + 1}": float(accuracy[depth, :5].sum()) for depth in range(self.heads.depth)}
        return accuracy, metrics | {"tokens_per_pass": 1 + accepted / max(count, 1), "positions": float(count)}


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of logits [N, vocab], in nats and float32, [N]; no gradient reaches the teacher."""
    goal = teacher.detach().float().log_softmax(-1)
    return nn.functional.kl_div(student.float().log_softmax(-1), goal, reduction="none", log_target=True).sum(-1)


def in_grid(sources: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources as a grid: row b holds the positions of its sources, one per column.

    Args:
        sources: (row, position), ordered by row, int64 [N, 2].

    Returns:
        The positions, int64 [batch, most] (0 in unused cells), and the column of every source, int64 [N].
    """
    rows, places = sources.T
    counts = torch.bincount(rows, minlength=batch)
    column = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    grid = places.new_zeros(batch, int(counts.max())).index_put((rows, column), places)
    return grid, column


def _rank(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Place of the wanted token among the candidates, [N]; CANDIDATES: behind them."""
    above = (logits > logits.gather(1, wanted[:, None])).sum(1)
    return above.clamp(max=CANDIDATES)


def train_heads(
    objective_class: type[DraftObjective],
    engine: Engine,
    data: Path,
    config: Any,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train an add-on and write it to a folder; a stopped run goes on where it was.

    Args:
        objective_class: which heads, and their loss.
        engine: the model, on transformers.
        data: texts, as `read_corpus` takes them.
        config: the settings.
        folder: gets the add-on, its card, `training.yaml`, `metrics.jsonl`, and checkpoints.
        cache: where the hidden states are kept for further trainings; None: with the checkpoints, until the end.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.
        progress: called with (texts done, texts) while hidden states are computed.

    Returns:
        What the heads reach on held-out text: "right_1", ..., "tokens_per_pass".

    Raises:
        ValueError: unusable data, another model than the folder's, or other settings than its unfinished run's.
    """
    with Course(engine, data, config, folder, cache=cache, limit=limit, restart=restart) as course:
        target = course.target
        longest = max((len(example.ids) for example in course.examples if example.images), default=0)
        if min(longest, config.max_length) > config.window:
            raise ValueError(
                f"a text with pictures has {longest} tokens, more than a window of {config.window} holds: raise window."
            )
        heads = objective_class.build(target, config)
        corpus = course.features(-1, progress) if objective_class.cached else course.tokens()
        objective = objective_class(heads, target, config)
        held = course.train(objective, Windows(corpus, config.window), Windows.collate)
        if not course.leads:
            return {}
        accuracy, metrics = objective.measure(held)
        heads.accuracy.copy_(accuracy)
        course.finish(heads, metrics)
        return metrics
