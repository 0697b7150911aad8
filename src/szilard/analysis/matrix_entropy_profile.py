"""Matrix entropy over a model's layers and heads: how many directions the tokens of a text really use, and where.

X = the tokens' queries (after rotation), keys (after rotation), values, or the hidden states after a layer; see
`szilard.information.matrix_entropy` for the entropy of X. Used by UnComp (Xiong et al., EMNLP 2025, arXiv 2410.03090)
per head, and by EntropyPrune (Wang et al. 2026, arXiv 2602.17196) with the heads side by side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from szilard.attention.session import Session
from szilard.information import matrix_entropy
from szilard.options import check_choice, check_number

WHAT = ("query", "key", "value", "hidden")


def entropy_profile(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    what: str = "query",
    top: int | None = None,
    span: torch.Tensor | None = None,
    normalize: bool = False,
) -> torch.Tensor:
    """Matrix entropy of every layer, the heads' vectors side by side: X is [n, heads x head size] or [n, hidden].

    Args:
        model: a decoder-only or image-text model of transformers.
        inputs: of its forward: input_ids [batch, n] and what else it takes. Padding counts for nothing.
        what: "query", "key", "value" or "hidden" (the output of the layer).
        top: how many eigenvalues count; None: all.
        span: bool [batch, n], the tokens that count; None: all of them.
        normalize: as a share of log(width of X) instead of nats.

    Returns:
        float64 [layers], the mean over rows.

    Raises:
        ValueError: an unknown `what`, a span of another shape, a model without the attention interface.
    """

    def measure(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        flat = states.transpose(1, 2).flatten(2)  # [batch, n, heads x head size]
        return matrix_entropy(flat, top=top, mask=mask, normalize=normalize).mean(0)

    return torch.stack(_measured(model, inputs, what, top, span, measure))


def head_entropy_profile(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    what: str = "query",
    top: int | None = None,
    span: torch.Tensor | None = None,
    normalize: bool = False,
) -> torch.Tensor:
    """Matrix entropy of every layer and head: X is [n, head size].

    Args:
        model, inputs, what, top, span, normalize: as in `entropy_profile`; keys and values have as many heads as the
            cache, hidden states have one.

    Returns:
        float64 [layers, heads], the mean over rows.

    Raises:
        ValueError: as in `entropy_profile`.
    """

    def measure(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return matrix_entropy(states, top=top, mask=mask[:, None], normalize=normalize).mean(0)

    return torch.stack(_measured(model, inputs, what, top, span, measure))


def _measured(
    model: Any,
    inputs: Mapping[str, Any],
    what: str,
    top: int | None,
    span: torch.Tensor | None,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """`measure` of every layer's states, from one forward."""
    check_choice("what", what, WHAT)
    check_number("top", top, low=1, integer=True, optional=True)
    given = dict(inputs)
    shaped = given.get("input_ids")
    if shaped is None:
        shaped = given["inputs_embeds"][..., 0]
    mask = torch.ones(shaped.shape, dtype=torch.bool, device=shaped.device)
    if given.get("attention_mask") is not None:
        mask = given["attention_mask"].bool()
    if span is not None:
        if span.shape != mask.shape:
            raise ValueError(f"span must have the shape of the input ids, {list(mask.shape)}, not {list(span.shape)}.")
        mask = mask & span.to(mask.device).bool()
    found: dict[int, torch.Tensor] = {}

    def note(index: int, states: torch.Tensor) -> None:
        found[index] = measure(states.detach(), mask.to(states.device)).cpu()

    watching = _hidden(model, note) if what == "hidden" else _Watch(model, what, note).opened()
    with torch.no_grad(), watching:
        model(**given, use_cache=False)
    return [found[index] for index in sorted(found)]


@contextlib.contextmanager
def _hidden(model: Any, note: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """`note` of every layer's output, [batch, 1, n, hidden], while this is open."""
    layers = _Watch(model, "hidden", note).layers
    handles = []
    for index, layer in enumerate(layers):

        def hook(module: Any, arguments: Any, output: Any, index: int = index) -> None:
            note(index, (output[0] if isinstance(output, tuple) else output)[:, None])

        handles.append(layer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Profile:
    slug = "matrix-entropy"


class _Watch(Session):
    """Looks at what every layer attends with, and lets it attend as ever."""

    only_watches = True

    def __init__(self, model: Any, what: str, note: Callable[[int, torch.Tensor], None]) -> None:
        super().__init__(_Profile, model)
        self.what, self.note = what, note

    def run(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        **rest: Any,
    ) -> torch.Tensor:
        self.note(int(module.layer_idx), {"query": query, "key": key, "value": value}[self.what])
        return super().run(module, query, key, value, mask, scaling, **rest)
