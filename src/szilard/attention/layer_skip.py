"""Layers left out whatever the prompt: a fixed set, and the ways to choose one that FiRST is measured against.

* `unified`: at fixed intervals (Liu, Meng, Zhou 2024, "Accelerating Inference in Large Language Models with a Unified
  Layer Skipping Strategy", arXiv 2404.06954).
* `block_influence`: those that change the hidden states least, BI_i = 1 - E_t cos(H_{i,t}, H_{i+1,t}) (Men et al. 2024,
  "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", arXiv 2403.03853).
* `random`, and `early_exit`: all layers behind the first E, then the model's own norm and output layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.attention.layer_calls import around_layers
from szilard.attention.method import AttentionMethod
from szilard.attention.skippable import SkippableLayer
from szilard.attention.skipping import PREFILL, SkippingSession
from szilard.options import check_choice, check_ids, check_number


@dataclass(frozen=True)
class LayerSkip(AttentionMethod):
    """A fixed set of skipped layers.

    Attributes:
        layers: those that are skipped, negative ones counted from the end.
        prefill: "full": the prompt is read by all layers; "skip": it is read without them, too.
    """

    slug: ClassVar[str] = "layer-skip"
    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2404.06954; Men et al. 2024, arXiv 2403.03853"

    layers: tuple[int, ...] = ()
    prefill: str = "full"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_ids("layers", self.layers))
        check_choice("prefill", self.prefill, PREFILL)

    @classmethod
    def neutral(cls) -> LayerSkip:
        return cls()

    @classmethod
    def unified(cls, layers: int, skipped: int, **options: Any) -> LayerSkip:
        """Skip so many of a model's layers at even intervals; the first and the last are kept."""
        _check_count(layers, skipped)
        gap = (layers - 2) / max(skipped, 1)
        return cls(tuple(1 + int((number + 0.5) * gap) for number in range(skipped)), **options)

    @classmethod
    def random(cls, layers: int, skipped: int, seed: int = 0, **options: Any) -> LayerSkip:
        """Skip so many of a model's layers by chance; the first and the last are kept."""
        _check_count(layers, skipped)
        order = torch.randperm(layers - 2, generator=torch.Generator().manual_seed(seed))[:skipped]
        return cls(tuple(sorted((order + 1).tolist())), **options)

    @classmethod
    def early_exit(cls, layers: int, first: int, **options: Any) -> LayerSkip:
        """Run the first so many of a model's layers, then its norm and output layer."""
        check_number("first", first, low=1, high=layers, integer=True)
        return cls(tuple(range(first, layers)), **options)

    @classmethod
    def block_influence(
        cls,
        model: Any,
        texts: Iterable[torch.Tensor],
        skipped: int,
        protect: Sequence[int] = (0, -1),
        **options: Any,
    ) -> LayerSkip:
        """Skip so many layers of a model that change its hidden states least on these texts.

        Args:
            model: of transformers.
            texts: token ids, int64 [length] each.
            skipped: how many.
            protect: layers that are kept, negative ones from the end. (ShortGPT protects none.)
            options: of the method.
        """
        influence = block_influence(model, texts)
        kept = {layer % len(influence) for layer in protect}
        check_number("skipped", skipped, low=0, high=len(influence) - len(kept), integer=True)
        order = sorted((layer for layer in range(len(influence)) if layer not in kept), key=influence.__getitem__)
        return cls(tuple(sorted(order[:skipped])), **options)

    def session(self, model: Any) -> LayerSkipSession:
        return LayerSkipSession(self, model)


class LayerSkipSession(SkippingSession):
    """An open fixed set."""

    method: LayerSkip

    def __init__(self, method: LayerSkip, model: Any) -> None:
        super().__init__(method, model)
        count = len(self.layers)
        beyond = [layer for layer in method.layers if not -count <= layer < count]
        if beyond:
            raise ValueError(f"layers {beyond} lie beyond the {count} layers of {type(model).__name__}.")
        self.skipped = {layer % count for layer in method.layers}

    def look(self, index: int, hidden: torch.Tensor, real: torch.Tensor | None, state: SkippableLayer) -> None:
        """Nothing: the prompt has no say."""

    def decide_one(self, index: int, batch: int, states: list[SkippableLayer]) -> tuple[bool, ...]:
        return (index not in self.skipped,) * batch

    def decide_all(self, batch: int, states: list[SkippableLayer]) -> list[tuple[bool, ...]]:
        return [self.decide_one(index, batch, states) for index in range(len(self.layers))]


@torch.no_grad()
def block_influence(model: Any, texts: Iterable[torch.Tensor]) -> list[float]:
    """BI of every layer: 1 minus the mean cosine of what enters and what leaves it, over the texts' tokens.

    Args:
        model: of transformers.
        texts: token ids, int64 [length] each.

    Raises:
        ValueError: no texts.
    """
    layers = LayerSkipSession(LayerSkip(), model).layers
    sums, tokens = [0.0] * len(layers), 0

    def measure(index: int, hidden: torch.Tensor, run: Any) -> torch.Tensor:
        out = run()
        sums[index] += float(torch.nn.functional.cosine_similarity(hidden.double(), out.double(), dim=-1).sum())
        return out

    with around_layers(layers, measure):
        for text in texts:
            ids = torch.as_tensor(text, device=model.device).view(1, -1)
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
            tokens += ids.shape[1]
    if not tokens:
        raise ValueError("block influence is measured on texts: give at least one.")
    return [1 - total / tokens for total in sums]


def _check_count(layers: int, skipped: int) -> None:
    check_number("layers", layers, low=3, integer=True)
    check_number("skipped", skipped, low=0, high=layers - 2, integer=True)
