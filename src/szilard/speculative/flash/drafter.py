"""The trained part of Flash: fusion of tokens and features, compression of images, a semi-autoregressive head."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DynamicCache

from szilard.options import check_choice, check_number
from szilard.speculative.one_layer import attention_alone, encode, one_layer_model
from szilard.speculative.trained import DraftHeads


class FlashDrafter(DraftHeads):
    """z_t = W_f [e_{t+1}; f_t] + b per text slot, images as softmax(A F^T) F, and K feature rows per slot.

        o_t = W_2 SiLU(W_1 body(z)_t),   f'_{t+j} = row j of o_t,   logits of x_{t+1+j} = U f'_{t+j},   j = 1 .. K

    with e the target's input embeddings, f its last hidden states, U its output layer, and d the hidden size.

    Args:
        base: of the model, as `AddOn`.
        layer: configuration of the base model's text part, from which the body is built.
        depth: K, tokens per forward.
        latents: C, rows of A; 0 leaves images out.
        compression: "latents"; "mean": of C equal stretches; "none": every image slot as it is (ablations).
        head: "block" (ours): a decoder layer, and the rows are added to its output; "official": attention alone,
            without norms, residual and MLP.
        image_token: id of the target's image placeholder; None: a text model.
    """

    slug: ClassVar[str] = "flash"

    def __init__(
        self,
        base: dict[str, Any],
        layer: dict[str, Any],
        depth: int = 5,
        latents: int = 64,
        compression: str = "latents",
        head: str = "block",
        image_token: int | None = None,
    ) -> None:
        super().__init__(base, depth)
        check_number("depth", depth, low=1, integer=True)
        check_number("latents", latents, low=0, integer=True)
        check_choice("compression", compression, ("latents", "mean", "none"))
        check_choice("head", head, ("block", "official"))
        self.latents, self.compression, self.head, self.image_token = latents, compression, head, image_token
        d = self.hidden_size
        self.fuse = nn.Linear(2 * d, d)
        self.queries: nn.Parameter | None = None
        if image_token is not None and latents and compression == "latents":
            self.queries = nn.Parameter(torch.randn(latents, d) / d)
        self.body = one_layer_model(layer)
        if head == "official":
            attention_alone(self.body)
        self.widen = nn.Linear(d, 4 * d)
        self.spread = nn.Linear(4 * d, depth * d)
        if head == "block":
            nn.init.zeros_(self.spread.weight)
            nn.init.zeros_(self.spread.bias)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.fuse.weight.dtype

    def compress(self, features: torch.Tensor) -> torch.Tensor:
        """What stands for an image, by the chosen compression: [..., N, d] -> [..., C, d]."""
        if self.compression == "none":
            return features
        if self.latents == 0:
            return features[..., :0, :]
        if self.queries is not None:
            weights = torch.softmax(self.queries @ features.transpose(-1, -2), dim=-1)  # [..., C, N]
            return weights @ features
        parts = features.tensor_split(min(self.latents, features.shape[-2]), dim=-2)
        return torch.stack([part.mean(-2) for part in parts], dim=-2)

    def forward(
        self, slots: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """Predicted features of every slot.

        Args:
            slots, positions, visible, cache: as `one_layer.encode`.

        Returns:
            [batch, new, K, d].
        """
        out = encode(self.body, slots, positions, visible, cache)
        if self.head == "official":
            out = out - slots
        rows = self.spread(nn.functional.silu(self.widen(out))).unflatten(-1, (self.depth, -1))
        return rows if self.head == "official" else rows + out[..., None, :]

    def draft_sequence(
        self, features: torch.Tensor, following: torch.Tensor, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One row's slots: text before the first image as it is, images compressed, the text after them fused.

        Args:
            features: f_t, [S, d].
            following: e_{t+1}, [S, d].
            image: which slots are images, bool [S].

        Returns:
            The slots [L, d], and where each of the S went in them, int64 [S]: an image to its last latent (or to
            the slot before the image, if it has none).
        """
        fused = self.fuse(torch.cat([following, features], dim=-1))
        where = torch.arange(len(image), device=image.device)
        if not bool(image.any()):
            return fused, where
        first = int(image.long().argmax())
        parts, length = [features[:first]], first
        edges = (image[1:] != image[:-1]).nonzero()[:, 0] + 1
        cuts = [first, *[edge for edge in edges.tolist() if edge > first], len(image)]
        for start, end in itertools.pairwise(cuts):
            if bool(image[start]):
                part = self.compress(features[start:end])
                where[start:end] = max(0, length + len(part) - 1)
            else:
                part = fused[start:end]
                where[start:end] = length + torch.arange(end - start, device=image.device)
            parts.append(part)
            length += len(part)
        return torch.cat(parts), where


def in_one_batch(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [L_b, d] padded on the right: [batch, longest, d], and which slots are real, bool [batch, longest]."""
    longest = max(len(row) for row in rows)
    padded = torch.stack([nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=padded.device)
    return padded, torch.arange(longest, device=padded.device) < lengths[:, None]
