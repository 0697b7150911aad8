"""What LaDiR adds to a language model so that it denoises blocks of thought: inputs, heads, delimiters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from szilard.options import check_choice, check_number
from szilard.reasoning.ladir.flow import OBJECTIVES, TimeEmbedding, VelocityHead, as_velocity
from szilard.reasoning.ladir.mask import SPANS, block_mask
from szilard.training.add_on import AddOn

BOT, EOT, SOA = range(3)  # rows of `delimiters`


class LadirParts(AddOn):
    """The add-on of a reasoner.

    Args:
        base: of the reasoner's tuned model, as `AddOn`.
        latent_tokens: L_b.
        latent_dim: d_z.
        objective: what the head says: "flow", "x0", "eps" or "v".
        span: what sees itself in both directions: "block" or "latents", see `mask.py`.
        scale: size of the model's input embeddings, where new vectors begin.

    Attributes:
        project: W_in, d_z -> d.
        delimiters: input vectors of <BOT>, <EOT> and <SOA>, [3, d].
            # Paper: tokens of the vocabulary; here: vectors beside it, because the vocabulary then stays as it is.
        null: what stands in the question's place without a condition, [d].
        time: embedding of t; a token, and what modulates the head.
        head: hidden states at thought tokens -> prediction.
        special: hidden state at <EOT> -> another block (0), or the answer (1).
    """

    slug: ClassVar[str] = "ladir"

    def __init__(
        self,
        base: dict[str, Any],
        latent_tokens: int = 4,
        latent_dim: int = 512,
        objective: str = "flow",
        span: str = "block",
        scale: float = 1.0,
    ) -> None:
        super().__init__(base)
        check_number("latent_tokens", latent_tokens, low=1, integer=True)
        check_number("latent_dim", latent_dim, low=1, integer=True)
        check_choice("objective", objective, OBJECTIVES)
        check_choice("span", span, SPANS)
        width = self.hidden_size
        self.latent_tokens, self.latent_dim = latent_tokens, latent_dim
        self.objective, self.span = objective, span
        self.project = nn.Linear(latent_dim, width)
        nn.init.normal_(self.project.weight, std=scale / latent_dim**0.5)
        nn.init.zeros_(self.project.bias)
        self.delimiters = nn.Parameter(torch.randn(3, width) * scale)
        self.null = nn.Parameter(torch.randn(width) * scale)
        self.time = TimeEmbedding(width, scale=scale)
        self.head = VelocityHead(width, latent_dim)
        self.special = nn.Linear(width, 2)

    def finished(self, z: torch.Tensor) -> torch.Tensor:
        """A finished block as input, <BOT> z <EOT>: [rows, L_b, d_z] -> [rows, L_b + 2, d]."""
        around = self.delimiters.expand(len(z), -1, -1)
        return torch.cat([around[:, BOT, None], self.project(z.to(around)), around[:, EOT, None]], dim=1)

    def noisy(self, z: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """A block that is being denoised as input, <BOT> time z_t <EOT>: [rows, L_b + 3, d].

        Args:
            z: [rows, L_b, d_z].
            time: embedding of its t, [d].
        """
        around = self.delimiters.expand(len(z), -1, -1)
        middle = [time.expand(len(z), 1, -1), self.project(z.to(around))]
        return torch.cat([around[:, BOT, None], *middle, around[:, EOT, None]], dim=1)

    def seen(self, *, timestep: bool) -> torch.Tensor:
        """What the positions of such a block see of each other, bool [query, key]."""
        return block_mask(self.latent_tokens, self.span, timestep=timestep, device=self.null.device)

    def velocity(self, hidden: torch.Tensor, z: torch.Tensor, t: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The velocity eps - z_0 at z_t.

        Args:
            hidden: of the positions of `noisy`, [rows, L_b + 3, d].
            z: [rows, L_b, d_z].
            t: a scalar tensor, and `time` its embedding, [d].
        """
        said = self.head(hidden[:, 2 : 2 + self.latent_tokens], time)
        return as_velocity(self.objective, said, z, t)
