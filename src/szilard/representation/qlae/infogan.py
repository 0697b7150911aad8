"""Quantised InfoWGAN-GP: QLAE's networks trained as a generator and a critic that recovers the codes it drew.

Hsu et al. 2023 (arXiv 2305.18378); InfoGAN: Chen et al. 2016; gradient penalty: Gulrajani et al. 2017. The decoder is
the generator G, the encoder is the critic, with one linear head for the value D and its own for the latents c:

    critic     D(G(z)) - D(x) + 10 (||grad D(x_mix)|| - 1)^2  + 200 mean_j (z_hat_j - z_j)^2 + 0.01 L_q + 0.01 L_c
    generator  -D(G(z))                                       + the same three terms

z is drawn from the codebooks, every value alike; x_mix = u x + (1 - u) G(z), u uniform per picture; z_hat is c(G(z))
quantised, straight through (inferred), L_q and L_c are of that quantisation. Five steps of the critic go to one of
the generator, which also moves the codebooks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from szilard.representation.qlae.config import InfoGanConfig
from szilard.representation.qlae.model import QLAE, unit
from szilard.representation.qlae.objective import is_decayed
from szilard.representation.qlae.pictures import Pictures
from szilard.representation.qlae.quantizer import Quantized
from szilard.representation.qlae.training import QlaeResult, check_fit, run, settled
from szilard.training.recipe import Stage


class InfoGanObjective(nn.Module):
    """What `fit` trains: each call is one turn, of the critic or of the generator.

    Args:
        model: its decoder becomes the generator, its encoder the critic.
        config: the settings.

    Attributes:
        value: the head D; of no use when the training has ended.
        turns: int64, turns so far, which checkpoints hold.
    """

    skips_parameters = True  # the side whose turn it is not

    def __init__(self, model: QLAE, config: InfoGanConfig) -> None:
        super().__init__()
        self.model, self.settings = model, config
        self.value = nn.Linear(model.shape.dense[-1], 1)
        self.turns: Tensor
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))
        betas = (0.0, config.beta_2)
        self.optimizers = {"adam": lambda groups: torch.optim.AdamW(groups, betas=betas)}

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures [B, C, s, s], bytes or in [0, 1] -> "loss", "latent_error" and the share of "generator" turns."""
        every = self.settings.critic_steps + 1
        generates = int(self.turns) % every == every - 1
        self.turns += 1
        drawn = self.model.quantizer.sample(len(pictures))
        loss, error = self._generator(drawn) if generates else self._critic(unit(pictures), drawn)
        return {"loss": loss, "latent_error": error, "generator": error.new_tensor(float(generates))}

    def optimizer_of(self, name: str) -> str:
        """Adam without first momentum for all; a side without gradients stands still."""
        return "adam"

    def weight_decay_of(self, name: str) -> float:
        """Of a parameter."""
        return self.settings.weight_decay if is_decayed(name) else 0.0

    def _critic(self, real: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.model.encoder
        with torch.no_grad():
            z = self.model.quantizer.decode(drawn)
            fake = self.model.decoder(z).sigmoid()
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        mixed = (share * real + (1 - share) * fake).requires_grad_()
        slope = torch.autograd.grad(self.value(encoder.features(mixed)).sum(), mixed, create_graph=True)[0]
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        features = encoder.features(torch.cat([fake, real]))
        of_fake, of_real = self.value(features).mean(1).chunk(2)
        found, error = self._recovered(encoder.head(features[: len(fake)]), z)
        loss = of_fake.mean() - of_real.mean() + self.settings.gradient_penalty * penalty
        # Paper: with L_q; here: without, because it only moves codebooks, and those are the generator's.
        return (
            loss + self.settings.latent_weight * error + self.settings.commitment_weight * found.commitment_loss,
            error.detach(),
        )

    def _generator(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        settings, encoder = self.settings, self.model.encoder
        z = self.model.quantizer.decode(drawn).detach()
        fake = self.model.decoder(z).sigmoid()
        # the critic is looked through, and stands still
        fixed = {name: weight.detach() for name, weight in encoder.trunk.named_parameters()}
        features = torch.func.functional_call(encoder.trunk, fixed, (fake,))
        value, latents = (
            nn.functional.linear(features, head.weight.detach(), head.bias.detach())
            for head in (self.value, encoder.head)
        )
        found, error = self._recovered(latents, z)
        loss = -value.mean() + settings.latent_weight * error
        loss = loss + settings.quantization_weight * found.quantization_loss
        return loss + settings.commitment_weight * found.commitment_loss, error.detach()

    def _recovered(self, continuous: Tensor, z: Tensor) -> tuple[Quantized, Tensor]:
        found = self.model.quantizer(continuous)
        return found, (found.latent - z).square().mean()


def train_infogan(
    model: QLAE,
    pictures: Tensor | np.ndarray | Pictures,
    config: InfoGanConfig | None = None,
    folder: Path | str | None = None,
    *,
    resume: bool = True,
    device: str | None = None,
    data: str = "",
    **settings: Any,
) -> QlaeResult:
    """Train a QLAE as a quantised InfoWGAN-GP: `model.sample(n)` then draws pictures, `model.encode` reads codes.

    Args:
        model: is trained in place.
        pictures, folder, resume, device, data: as in `train_qlae`; no evaluation is made on the way.
        config: the settings; None: the paper's.
        settings: of the config, by name, before it.

    Raises:
        TypeError, ValueError: as `train_qlae`.
    """
    config = settled(InfoGanConfig, config, settings)
    source = pictures if isinstance(pictures, Pictures) else Pictures(pictures)
    check_fit(model, source)
    if not isinstance(model, QLAE):
        raise TypeError(f"a quantised InfoWGAN-GP is a QLAE, not a {type(model).__name__}.")
    chosen = config

    def objective() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(chosen.seed)
            return InfoGanObjective(model, chosen)

    stage = Stage("train", chosen, objective, lambda: source, Pictures.collate)
    result = run(stage, model, source, folder, source.digest, data, resume=resume, device=device)
    return QlaeResult(result.metrics, [])
