"""Where the matrix entropy of a prompt's visual tokens collapses: the layer after which they can be dropped.

Wang et al. 2026, EntropyPrune, arXiv 2602.17196, section "Entropy Collapse Layer". For each layer, X holds the query
(or key) states of a picture's N tokens, heads side by side, [N, d]:

    S = matrix entropy of the rows of X (centred, length 1), averaged over pictures              [layers]

The collapse layer is the last one before the sharp drop of S.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from szilard.attention.prompt_span import PromptSpanSession, Span
from szilard.information.matrix_entropy import matrix_entropy
from szilard.options import check_choice, check_number
from szilard.sessions.call import Call


@dataclass(frozen=True)
class VisualEntropyProfile:
    """The matrix entropy of visual tokens, layer by layer.

    Attributes:
        entropy: mean over pictures, nats, one per layer.
        error: standard error of these means.
        pictures: prompts that were measured.
        tokens: visual tokens of a prompt, in the mean.
        states: "query" or "key".
        layer: K, the collapse layer as `find_collapse_layer` finds it: layers that run before tokens are dropped.
    """

    entropy: tuple[float, ...]
    error: tuple[float, ...]
    pictures: int
    tokens: float
    states: str
    layer: int

    def save(self, path: str | Path) -> None:
        """Write it as JSON; `EntropyPrune(layer=path)` takes the layer from there."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def find_collapse_layer(entropy: Iterable[float], search: tuple[int, int] | None = None) -> int:
    """K = 1 + argmin over l of S[l + 1] - S[l]: how many layers run before the entropy falls most.

    The rule is inferred: the paper reads the layer off a figure.

    Args:
        entropy: S of every layer, from layer 0.
        search: l from the first number up to, but without, the second; None: the first third of the layers.

    Returns:
        K, from 1 to the number of layers - 1. Where the entropy falls nowhere in the search, this is where it rises
        least.

    Raises:
        ValueError: fewer than two layers, or a search outside them.
    """
    values = [float(value) for value in entropy]
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"a profile has the entropy of at least two layers, all finite, not {values}.")
    first, last = (0, max(1, len(values) // 3)) if search is None else search
    if not 0 <= first < last <= len(values) - 1:
        raise ValueError(f"search must lie between 0 and {len(values) - 1}, the first number below the second.")
    return 1 + min(range(first, last), key=lambda index: values[index + 1] - values[index])


def visual_entropy_profile(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    states: str = "query",
    top: int | None = None,
    span: Span | None = None,
) -> VisualEntropyProfile:
    """Measure the matrix entropy of visual tokens in every layer.

    Args:
        model: a transformers model that reads pictures, or any decoder-only one with `span`.
        batches: inputs of the model: `input_ids`, `attention_mask`, `pixel_values`, ...; a few dozen pictures.
        states: "query" or "key", after rotation.
        top: only the so many greatest eigenvalues count; None: all.
        span: (start, length) in every row's own tokens, in the place of the pictures.

    Raises:
        ValueError: no picture in the batches, a model that cannot be entered.
    """
    check_choice("states", states, ("query", "key"))
    check_number("top", top, low=1, integer=True, optional=True)
    session = _Recording(model, states, top, span)
    with torch.no_grad(), session.opened():
        for batch in batches:
            inputs = {
                name: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
            }
            model(**inputs, use_cache=True)
    if not session.found[0]:
        raise ValueError("there are no visual tokens in these prompts: give pictures with at least two tokens each.")
    values = torch.tensor(session.found, dtype=torch.float64)  # [layers, pictures]
    count = values.shape[1]
    spread = values.std(1, correction=1) / count**0.5 if count > 1 else torch.zeros(len(values), dtype=torch.float64)
    mean = values.mean(1).tolist()
    return VisualEntropyProfile(
        entropy=tuple(mean),
        error=tuple(spread.tolist()),
        pictures=count,
        tokens=session.tokens / count,
        states=states,
        layer=find_collapse_layer(mean),
    )


class _Recorder:
    slug = "visual-entropy"


class _Recording(PromptSpanSession):
    """Dense attention that measures the visual tokens of every layer on its way."""

    def __init__(self, model: Any, states: str, top: int | None, span: Span | None) -> None:
        super().__init__(_Recorder, model, span=span)
        self.own_from(0)
        self.states, self.top, self.tokens = states, top, 0
        self.found: list[list[float]] = [[] for _ in self.layers]

    def attend(self, call: Call) -> torch.Tensor:
        if self.places is not None:
            states = call.query if self.states == "query" else call.keys[:, :, -call.new :]
            for row, places in enumerate(self.places):
                chosen = states[row, :, places]  # [heads, tokens, head size]
                if chosen.shape[1] < 2:
                    continue
                vectors = chosen.transpose(0, 1).flatten(1)  # [tokens, heads x head size]
                self.found[call.index].append(float(matrix_entropy(vectors, top=self.top)))
                self.tokens += chosen.shape[1] if call.index == 0 else 0
        return self.dense(call)
