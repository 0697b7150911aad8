"""Matrix entropy over a model's layers and heads: how many directions the tokens of a text really use, and where.

X = the tokens' queries (after rotation), keys (after rotation), values, or the hidden states after a layer; see
`szilard.information.matrix_entropy` for the entropy of X. Used by UnComp (Xiong et al., EMNLP 2025, arXiv 2410.03090)
per head, and by EntropyPrune (Wang et al. 2026, arXiv 2602.17196) with the heads side by side.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from szilard.information.matrix_entropy import matrix_entropy
from szilard.options import check_choice, check_number
from szilard.sessions.session import Session

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
        return _of_layer(states, mask, top, normalize)

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
        return _of_heads(states, mask, top, normalize)

    return torch.stack(_measured(model, inputs, what, top, span, measure))


@dataclass(frozen=True)
class EntropyReport:
    """Matrix entropy over layers and heads, the mean over texts.

    Attributes:
        layers: of every layer, its heads side by side, [layers].
        heads: of every layer and head, [layers][heads]; one head for hidden states.
        what: "query", "key", "value" or "hidden".
        top: how many eigenvalues count; None: all.
        unit: "nats", or "share": of log(number of dimensions).
        texts: how many.
        model: the model's name.
    """

    layers: tuple[float, ...]
    heads: tuple[tuple[float, ...], ...]
    what: str
    top: int | None
    unit: str
    texts: int
    model: str


def entropy_report(
    model: Any,
    texts: Iterable[Sequence[int]],
    *,
    what: str = "query",
    top: int | None = None,
    nats: bool = False,
    name: str = "",
    progress: Callable[[int], None] | None = None,
) -> EntropyReport:
    """Both profiles, averaged over texts, from one forward per text.

    Args:
        model: a decoder-only model of transformers.
        texts: token ids.
        what, top: as in `entropy_profile`.
        nats: entropies in nats instead of shares of log(number of dimensions).
        name: of the model.
        progress: called with the number of texts done.

    Raises:
        ValueError: no text, or as in `entropy_profile`.
    """

    def measure(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        layer = _of_layer(states, mask, top, not nats)
        return torch.cat([layer[None], _of_heads(states, mask, top, not nats)])

    found = []
    for number, ids in enumerate(texts, start=1):
        inputs = {"input_ids": torch.tensor([list(ids)], device=model.device)}
        found.append(torch.stack(_measured(model, inputs, what, top, None, measure)))  # [layers, 1 + heads]
        if progress is not None:
            progress(number)
    if not found:
        raise ValueError("matrix entropy is measured on texts: there are none.")
    mean = torch.stack(found).mean(0)
    return EntropyReport(
        layers=tuple(mean[:, 0].tolist()),
        heads=tuple(tuple(layer) for layer in mean[:, 1:].tolist()),
        what=what,
        top=top,
        unit="nats" if nats else "share",
        texts=len(found),
        model=name,
    )


def _of_layer(states: torch.Tensor, mask: torch.Tensor, top: int | None, normalize: bool) -> torch.Tensor:
    """[batch, heads, n, size] and [batch, n] to a number."""
    flat = states.transpose(1, 2).flatten(2)  # [batch, n, heads x head size]
    return matrix_entropy(flat, top=top, mask=mask, normalize=normalize).mean(0)


def _of_heads(states: torch.Tensor, mask: torch.Tensor, top: int | None, normalize: bool) -> torch.Tensor:
    """[batch, heads, n, size] and [batch, n] to [heads]."""
    return matrix_entropy(states, top=top, mask=mask[:, None], normalize=normalize).mean(0)


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
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = 1  # nobody looks at them
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
