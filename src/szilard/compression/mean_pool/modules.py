"""The trained part of mean pooling, and how a frozen model is read for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from szilard.training.add_on import AddOn


class MeanPoolProjector(AddOn):
    """Means of `ratio` neighbouring hidden states of one layer -> vectors for the same model.

    Args:
        base: the model.
        layer: whose output is read, 1 to the number of layers; 0: the embeddings.
        ratio: tokens of a mean.
        scale: root mean square of the model's embeddings, which the output begins with.
    """

    slug = "mean-pool"

    def __init__(self, base: dict[str, Any], layer: int, ratio: int, scale: float) -> None:
        super().__init__(base)
        self.layer, self.ratio = layer, ratio
        width = self.hidden_size
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.normal_(self.outer.weight, std=scale / math.sqrt(0.3 * width))  # 0.3: mean square of GELU(normal)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: torch.Tensor, ratio: int | None = None) -> torch.Tensor:
        """Hidden states of a context [tokens, hidden] -> [ceil(tokens / ratio), hidden]; the last of what is left."""
        ratio = ratio or self.ratio
        whole = nn.functional.pad(hidden.float(), (0, 0, 0, -len(hidden) % ratio)).unflatten(0, (-1, ratio))
        sizes = torch.full((len(whole), 1), ratio, device=hidden.device)
        sizes[-1] -= -len(hidden) % ratio
        means = whole.sum(1) / sizes
        return self.outer(nn.functional.gelu(self.inner(self.norm(means))))


class _Read(Exception):
    """Ends a forward at the layer whose output is wanted."""


@torch.no_grad()
def hidden_states(model: Any, contexts: Sequence[torch.Tensor], layer: int) -> list[torch.Tensor]:
    """A layer's hidden states of every context alone, [tokens, hidden] each; one forward, padded on the right.

    Layers behind it are not run. The last one's are taken before the final norm.
    """
    embed = model.get_input_embeddings()
    ids = nn.utils.rnn.pad_sequence([context.to(embed.weight.device) for context in contexts], batch_first=True)
    if layer == 0:
        found = embed(ids)
    else:

        def read(module: nn.Module, given: Any, output: Any) -> None:
            raise _Read(output if isinstance(output, torch.Tensor) else output[0])

        decoder = model.get_decoder()
        layers: Any = next(part for part in decoder.children() if isinstance(part, nn.ModuleList))
        handle = layers[layer - 1].register_forward_hook(read)
        try:
            decoder(input_ids=ids, use_cache=False)
        except _Read as states:
            found = states.args[0]
        finally:
            handle.remove()
    return [row[: len(context)] for row, context in zip(found, contexts, strict=True)]
