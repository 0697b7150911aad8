"""A generator of latents: a flow on standardised latents, for seeing what smoothing noise does to its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from szilard.options import check_number
from szilard.representation.lv_rae.flow_matching import Velocity, euler, flow_loss, shift_of
from szilard.training.config import TrainingConfig
from szilard.training.loop import fit

_TINY = 1e-5


class LatentFlow(nn.Module):
    """A flow on latents of one shape.

    Args:
        network: (x_t [B, ...], t [B]) -> v.
        shape: of a latent, as [N, D].
        shift: a of the time shift; None: sqrt(numbers / 4096), at least 1 (the shift is for latents that are wide).
        decay: of the moving average of the weights that samples are drawn with; 0.9995 in the paper. 0: none.
    """

    mean: Tensor
    spread: Tensor
    updates: Tensor

    def __init__(
        self, network: nn.Module, shape: tuple[int, ...], *, shift: float | None = None, decay: float = 0.9995
    ) -> None:
        super().__init__()
        check_number("decay", decay, low=0, high=1)
        self.network, self.decay = network, decay
        numbers = int(torch.Size(shape).numel())
        self.shift = max(1.0, shift_of(numbers)) if shift is None else shift
        check_number("shift", self.shift, low=1e-6)
        self.shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        for name, weight in network.named_parameters():
            self.register_buffer(_averaged(name), weight.detach().clone())

    def standardise(self, latents: Tensor) -> None:
        """Take mean and deviation of every number of the latents [n, *shape]."""
        if tuple(latents.shape[1:]) != self.shape or len(latents) < 2:
            raise ValueError(
                f"latents must be [n, {', '.join(map(str, self.shape))}], n at least 2, not {list(latents.shape)}."
            )
        self.mean.copy_(latents.mean(0))
        self.spread.copy_((latents.var(0) + _TINY).sqrt())

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """[B, *shape] -> {"loss"}."""
        if self.training and self.decay:
            self._average()
        return {"loss": flow_loss(self.network, (latents - self.mean) / self.spread, self.shift)}

    @torch.no_grad()
    def _average(self) -> None:
        """The average follows the weights as the step before left them; young averages follow faster."""
        self.updates += 1
        count = int(self.updates)
        keep = min(self.decay, count / (count + 10))
        for name, weight in self.network.named_parameters():
            self.get_buffer(_averaged(name)).lerp_(weight.detach(), 1 - keep)

    def velocity(self) -> Velocity:
        """The network with its averaged weights."""
        if not self.decay:
            return self.network
        averaged = {name: self.get_buffer(_averaged(name)) for name, _ in self.network.named_parameters()}
        return lambda x, t: torch.func.functional_call(self.network, averaged, (x, t))

    @torch.no_grad()
    def sample(self, count: int, *, steps: int = 50, seed: int = 0, batch_size: int = 64) -> Tensor:
        """Latents [count, *shape] as the autoencoder gives them: de-standardised, so that noise may be added after.

        Args:
            count: how many.
            steps: of Euler; 250 in the paper, 50 in RAE.
            seed: of the noise at t = 1.
            batch_size: at a time.
        """
        check_number("count", count, low=1, integer=True)
        check_number("batch_size", batch_size, low=1, integer=True)
        mode = self.training
        self.eval()
        noise = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(seed)).to(self.mean)
        velocity = self.velocity()
        found = torch.cat([euler(velocity, part, steps, self.shift) for part in noise.split(batch_size)])
        self.train(mode)
        return found * self.spread + self.mean


class Latents(Dataset[Tensor]):
    """Latents by index: [n, *shape], in memory."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> Tensor:
        return self.latents[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """[len(indices), *shape] at once."""
        return self.latents[indices]

    @staticmethod
    def collate(rows: Any) -> dict[str, Tensor]:
        """{"latents": [B, *shape]}."""
        return {"latents": rows if isinstance(rows, Tensor) else torch.stack(list(rows))}


def train_latent_flow(
    flow: LatentFlow,
    latents: Tensor,
    folder: Path,
    config: TrainingConfig,
    *,
    resume: bool = True,
    device: torch.device | str | None = None,
) -> list[dict[str, float]]:
    """Standardise by the latents and train, in place; a run that was stopped goes on. The rows of the loop.

    Args:
        flow: is trained.
        latents: [n, *shape], as the autoencoder's `encode` gives them.
        folder: for checkpoints and metrics.
        config: settings.
        resume: False: forget an earlier run.
        device: "cpu" keeps a GPU out of it.
    """
    flow.standardise(latents)
    rows = fit(flow, Latents(latents), config, folder, collate=Latents.collate, resume=resume, device=device)
    flow.eval()
    return rows


def _averaged(name: str) -> str:
    return "averaged_" + name.replace(".", "__")
