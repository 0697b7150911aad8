"""A transformers model whose weights are tuned, all of them or by low-rank changes, as a module of what is tuned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from szilard.training import low_rank

_LORA_SCALE = 2.0  # of `low_rank.inject`


class TunedModel(nn.Module):
    """Holds the tuned parameters of a model, and no other, so that checkpoints hold no other either.

    # Paper: all weights are tuned. Released code: low-rank changes of its VAE alone, alpha / r = 256 / 512.
    # Here: of any rank, with alpha / r = 2, the scale of all low-rank changes of this library.

    Args:
        model: of transformers; it is changed in place.
        lora_rank: of low-rank changes; None: all weights are tuned.

    Raises:
        ValueError: all weights of a model in half precision.
    """

    def __init__(self, model: Any, lora_rank: int | None = None) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple it is no child, whose frozen weights would be in every checkpoint
        self.lora_rank = lora_rank
        if lora_rank is None:
            if model.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"tuning every weight in {model.dtype} loses small steps: load the model with dtype float32, or "
                    "give a rank for low-rank changes."
                )
            model.requires_grad_(True)
            changes = dict(model.named_parameters())
        else:
            model.requires_grad_(False)
            changes = low_rank.inject(model, lora_rank)
        self.names = list(changes)
        self.tuned = nn.ParameterList(changes.values())

    @property
    def model(self) -> Any:
        """The model, with its changes."""
        return self._model[0]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings: [...] -> [..., d]."""
        return self.model.get_input_embeddings()(tokens)

    def save(self, file: Path) -> None:
        """Write what was tuned."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in zip(self.names, self.tuned, strict=True)}
        scratch = file.with_name(f".{file.name}.tmp")
        save_file(tensors, scratch)
        os.replace(scratch, file)

    @torch.no_grad()
    def load(self, file: Path) -> None:
        """Take what `save` wrote.

        Raises:
            ValueError: there is no such file, or it is another model's.
        """
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{str(file)!r} holds no tuned weights ({' '.join(str(error).split())[:200]}).") from error
        for name, parameter in zip(self.names, self.tuned, strict=True):
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise ValueError(
                    f"{str(file)!r} holds weights of another model: {name} is missing or of another shape."
                )
            parameter.copy_(tensors[name])

    @torch.no_grad()
    def fold(self) -> Any:
        """Put low-rank changes into the weights for good, so that the model is a plain one; gives the model."""
        if self.lora_rank is None:
            return self.model
        changes = dict(zip(self.names, self.tuned, strict=True))
        shapes, transposed = low_rank.described(self.model, changes)
        kept = low_rank.LowRank(shapes, _LORA_SCALE, transposed).to(self.model.device)
        kept.take(changes)
        low_rank.remove(self.model)
        with kept.applied(self.model):
            folded = {name: self.model.get_parameter(name).data for name in shapes}
        for name, weight in folded.items():
            self.model.get_parameter(name).data = weight
        self.names, self.tuned, self.lora_rank = [], nn.ParameterList(), None
        return self.model
