"""The denoising of blocks of thought, one after the other: the one loop of training, `generate` and the method.

    repeat, at most max_blocks times
      z = sigma_0 N(0, I)
      for t from 1 down to 0 in T equal steps
          u = f(q, blocks, z, t)                         CFG: u = u_null + w (u - u_null)
          z = z - u / T  [+ gamma_t F]                   F: see `diversity.py`
      append z; where the head at <EOT> says <SOA>: done

Each step is one short forward over <BOT>, time, z_t, <EOT>: question and finished blocks never look at the current
block, so their keys and values stay in a cache (inferred). T steps are T forwards per block (2 T with CFG), and one
more (two) that reads the finished block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.utils.checkpoint import checkpoint

from szilard.options import check_number
from szilard.reasoning.ladir.diversity import DiversityGuidance
from szilard.reasoning.ladir.flow import FlowSchedule
from szilard.reasoning.ladir.parts import LadirParts


class Context(Protocol):
    """What a block is thought in: a question and finished blocks, whose keys and values are kept."""

    def look(self, embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Hidden states of positions behind the context, which they all see; nothing of them is kept.

        Args:
            embeddings: [rows, new, d].
            seen: what they see of each other, bool [new, new].

        Returns:
            After the final norm, [rows, new, d].
        """

    def keep(self, embeddings: torch.Tensor, seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """As `look`, and they belong to the context of `rows` (bool [rows]) from now on."""


@dataclass(frozen=True)
class Thinking:
    """How blocks are denoised.

    Attributes:
        num_steps: T.
        max_blocks: no more than these.
        initial_noise: sigma_0, std of the noise that a block begins as. The paper's best is 2.
        cfg_scale: w; 1: no classifier-free guidance.
        diversity: of trajectories about one question; None: they know nothing of each other.
        tolerance: a row stops denoising when the clean block that it predicts moves by no more than this share of its
            size from one step to the next, and takes that prediction; None: T steps, as the paper.
    """

    num_steps: int = 50
    max_blocks: int = 16
    initial_noise: float = 2.0
    cfg_scale: float = 1.0
    diversity: DiversityGuidance | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_number("num_steps", self.num_steps, low=1, integer=True)
        check_number("max_blocks", self.max_blocks, low=0, integer=True)
        check_number("initial_noise", self.initial_noise, low=0, high=1e6)
        check_number("cfg_scale", self.cfg_scale, low=0, high=1e6)
        check_number("tolerance", self.tolerance, low=0, optional=True)
        if self.diversity is not None and not isinstance(self.diversity, DiversityGuidance):
            raise TypeError(f"diversity must be a DiversityGuidance or None, not {self.diversity!r}.")


@dataclass(frozen=True)
class Thoughts:
    """What was thought.

    Attributes:
        blocks: [rows, most blocks, L_b, d_z]; of a row its first `counts` are its thoughts.
        counts: int64 [rows].
        steps: denoising steps of every block, int64 [rows, most blocks].
        forwards: denoising forwards in all, over the whole batch.
    """

    blocks: torch.Tensor
    counts: torch.Tensor
    steps: torch.Tensor
    forwards: int


def denoise(
    parts: LadirParts,
    context: Context,
    z: torch.Tensor,
    how: Thinking,
    groups: torch.Tensor | None = None,
    *,
    blind: Context | None = None,
    awake: torch.Tensor | None = None,
    checkpointed: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """One block of every row.

    Args:
        parts: of the reasoner.
        context: question and finished blocks.
        z: noise, [rows, L_b, d_z].
        how: the settings.
        groups: number of the question of every row, int64 [rows]; None: diversity has no use here.
        blind: the context without the question, for guidance.
        awake: rows that still think, bool [rows]; None: all. The others' blocks are of no use: they push nobody and
            are not waited for.
        checkpointed: forget what a step computed, and compute it again for its gradients.

    Returns:
        The block, its steps int64 [rows], and the forwards.
    """
    seen = parts.seen(timestep=True)
    rows = len(z)
    steps = torch.zeros(rows, dtype=torch.long, device=z.device)
    running = torch.ones(rows, dtype=torch.bool, device=z.device) if awake is None else awake.clone()
    if groups is not None:  # every row that thinks no more is a group of its own
        groups = torch.where(running, groups, -1 - torch.arange(rows, device=z.device))
    clean: torch.Tensor | None = None
    forwards = 0

    def velocity_at(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time = parts.time(t)
        inputs = parts.noisy(z, time)
        velocity = parts.velocity(context.look(inputs, seen), z, t, time)
        if blind is None:
            return velocity
        unconditional = parts.velocity(blind.look(inputs, seen), z, t, time)
        return unconditional + how.cfg_scale * (velocity - unconditional)

    for t, dt in FlowSchedule(how.num_steps).pairs():
        at = torch.tensor(t, dtype=torch.float32, device=z.device)
        velocity = checkpoint(velocity_at, z, at, use_reentrant=False) if checkpointed else velocity_at(z, at)
        forwards += 1 if blind is None else 2
        if how.diversity is None or groups is None:
            moved = z - dt * velocity
        else:
            moved = how.diversity.step(z, velocity, t, dt, groups)
        steps = steps + running
        if how.tolerance is None:
            z = moved
            continue
        predicted = z - t * velocity  # of the clean block
        if clean is not None:
            change = (predicted - clean).flatten(1).norm(dim=1) / predicted.flatten(1).norm(dim=1).clamp(min=1e-12)
            settled = running & (change <= how.tolerance)
            moved = torch.where(settled[:, None, None], predicted, moved)
        else:
            settled = torch.zeros_like(running)
        clean = predicted
        z = torch.where(running[:, None, None], moved, z)
        running = running & ~settled
        if not bool(running.any()):
            break
    return z, steps, forwards


def think(
    parts: LadirParts,
    context: Context,
    how: Thinking,
    noise: Callable[[], torch.Tensor],
    groups: torch.Tensor,
    *,
    blind: Context | None = None,
) -> Thoughts:
    """Blocks until every row wants to answer.

    Args:
        parts, context, how, blind: as `denoise`.
        noise: draws N(0, I), [rows, L_b, d_z].
        groups: number of the question of every row, int64 [rows].
    """
    seen = parts.seen(timestep=False)
    thinking = torch.ones_like(groups, dtype=torch.bool)
    counts = torch.zeros_like(groups)
    blocks: list[torch.Tensor] = []
    steps: list[torch.Tensor] = []
    forwards = 0
    while len(blocks) < how.max_blocks and bool(thinking.any()):
        z, taken, looked = denoise(
            parts, context, how.initial_noise * noise(), how, groups, blind=blind, awake=thinking
        )
        forwards += looked
        inputs = parts.finished(z)
        last = context.keep(inputs, seen, thinking)[:, -1]  # at <EOT>
        if blind is not None:
            blind.keep(inputs, seen, thinking)
        blocks.append(z)
        steps.append(taken)
        counts = counts + thinking
        thinking = thinking & (parts.special(last.to(parts.special.weight)).argmax(-1) == 0)
    rows = len(groups)
    if not blocks:
        empty = torch.zeros(rows, 0, parts.latent_tokens, parts.latent_dim, device=groups.device)
        return Thoughts(empty, counts, counts.new_zeros(rows, 0), 0)
    return Thoughts(torch.stack(blocks, dim=1), counts, torch.stack(steps, dim=1), forwards)
