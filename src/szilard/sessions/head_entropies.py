"""Entropy of every attention head: which heads look everywhere, and which at one token.

Jha and Reagen 2025, "Entropy-Guided Attention for Private LLMs", arXiv 2501.03489:

    E     = mean over queries and texts of the entropy of an attention row, nats
    max   = the largest E of the model
    quarters: shares of heads with E in [0, max/4), [max/4, max/2), [max/2, 3 max/4), [3 max/4, max]

Healthy models have about nine heads in ten in the middle quarters. *Overload*: many heads at the top, they look at
everything alike and carry no information. *Collapse*: heads near 0. Both are judged here by the entropy of a head that
looks at all that it sees alike (log(T!)/T in a causal layer; less in one that slides over a window), not by `max`,
which is high where all heads are overloaded and low where all have collapsed. (ours)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from szilard.sessions.recorded_entropies import RecordedEntropies

NEAR_UNIFORM = 0.95  # of the uniform head's entropy: such a head looks everywhere
NEAR_ZERO = 0.05  # of it: such a head looks at one token
MANY = 0.1  # share of the heads from which the model is called overloaded, or collapsed


@dataclass(frozen=True)
class HeadEntropyReport:
    """Entropies of a model's heads.

    Attributes:
        heads: nats, [layers][heads].
        uniform: of a head of each layer that looks everywhere alike, nats, [layers].
        texts: how many.
        tokens: queries that were measured, without padding.
        model: its name.
    """

    heads: tuple[tuple[float, ...], ...]
    uniform: tuple[float, ...]
    texts: int
    tokens: int
    model: str = ""

    @classmethod
    def from_model(cls, model: Any, batch: Any, name: str = "") -> HeadEntropyReport:
        """Measure on one batch.

        Args:
            model: a decoder of transformers with an attention interface.
            batch: int64 [batch, n], or the inputs of its forward: input_ids, attention_mask (padding counts for
                nothing; of texts padded on the left positions begin behind it, unless position_ids says otherwise).
            name: of the model.

        Raises:
            ValueError: another kind of model, an empty batch, ids that the model does not know, texts that are too
                long for it or of one token, a mask of another shape, or attention that is no numbers.
            TypeError: no token ids.
        """
        inputs = batch if isinstance(batch, Mapping) else {"input_ids": batch}
        return measured(model, [inputs], name=name)

    @property
    def layers(self) -> tuple[float, ...]:
        """The mean over heads, nats [layers]."""
        return tuple(sum(heads) / len(heads) for heads in self.heads)

    @property
    def max(self) -> float:
        """The largest entropy of a head, nats."""
        return max(value for heads in self.heads for value in heads)

    @property
    def quarters(self) -> tuple[float, float, float, float]:
        """Shares of heads in the quarters of `max`, from the lowest."""
        values = [value for heads in self.heads for value in heads]
        places = [min(3, int(4 * value / self.max)) if self.max > 0 else 0 for value in values]
        first, second, third, fourth = (places.count(place) / len(places) for place in range(4))
        return first, second, third, fourth

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Every head's entropy as a share of its layer's uniform one, [layers][heads]."""
        return tuple(
            tuple(value / most if most > 0 else 0.0 for value in heads)
            for heads, most in zip(self.heads, self.uniform, strict=True)
        )

    @property
    def near_uniform(self) -> float:
        """Share of heads that look everywhere."""
        return self._share(lambda share: share > NEAR_UNIFORM)

    @property
    def near_zero(self) -> float:
        """Share of heads that look at one token."""
        return self._share(lambda share: share < NEAR_ZERO)

    @property
    def overloaded(self) -> bool:
        """Whether many heads look everywhere."""
        return self.near_uniform > MANY

    @property
    def collapsed(self) -> bool:
        """Whether many heads look at one token."""
        return self.near_zero > MANY

    def _share(self, such: Callable[[float], bool]) -> float:
        values = [such(value) for heads in self.shares for value in heads]
        return sum(values) / len(values)

    def histogram(self, bins: int = 16) -> list[int]:
        """Heads by their share of the uniform entropy, in equal bins of [0, 1]."""
        counts = [0] * bins
        for heads in self.shares:
            for value in heads:
                counts[min(bins - 1, int(bins * value))] += 1
        return counts

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        names = ("max", "near_uniform", "near_zero", "overloaded", "collapsed", "texts", "tokens", "model")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found |= {"quarters": list(self.quarters), "layers": list(self.layers), "uniform": list(self.uniform)}
        return found | {"heads": [list(heads) for heads in self.heads]}


@torch.no_grad()
def measured(
    model: Any, batches: Iterable[Mapping[str, Any]], *, name: str = "", progress: Callable[[int], None] | None = None
) -> HeadEntropyReport:
    """Measure on batches of inputs of the model's forward.

    Args:
        model: a decoder of transformers with an attention interface.
        batches: inputs of its forward each, as `HeadEntropyReport.from_model` takes them.
        name: of the model.
        progress: called with the number of batches done.

    Raises:
        ValueError, TypeError: no batch, or as `HeadEntropyReport.from_model`.
    """
    session = RecordedEntropies(model)
    takes = inspect.signature(model.forward).parameters
    narrow = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}  # nobody looks at the logits
    rows: dict[int, torch.Tensor] = {}
    uniform: dict[int, float] = {}
    texts = tokens = 0
    training = model.training
    model.eval()  # dropout of hidden states would change what is attended to
    try:
        with session.opened():
            for number, given in enumerate(batches, start=1):
                inputs = dict(given) | narrow
                real = _real_tokens(model, inputs)
                at_left = not bool(real[:, 0].all())
                if at_left and "position_ids" in takes and model.config.get_text_config() is model.config:
                    inputs.setdefault("position_ids", (real.cumsum(1) - 1).clamp(min=0))
                model(**inputs, use_cache=False)
                for layer, entropies in session.rows.items():
                    own = real.to(entropies.device).double()
                    sums = (entropies.double() * own[:, None]).sum((0, 2)).cpu()  # [heads]
                    rows[layer] = rows.get(layer, torch.zeros_like(sums)) + sums
                    most = session.visible[layer].clamp(min=1).double().log()
                    uniform[layer] = uniform.get(layer, 0.0) + float((most * own).sum())
                texts += real.shape[0]
                tokens += int(real.sum())
                if progress is not None:
                    progress(number)
    finally:
        model.train(training)
    if not tokens:
        raise ValueError("the entropy of attention is measured on texts: there are none.")
    if not any(uniform.values()):
        raise ValueError("every text has one token, which can only look at itself: give longer ones.")
    if broken := [layer for layer in sorted(rows) if not bool(torch.isfinite(rows[layer]).all())]:
        raise ValueError(
            f"the attention of layer {broken[0]} is no numbers (NaN): the weights are damaged, or take dtype float32."
        )
    return HeadEntropyReport(
        heads=tuple(tuple((rows[layer] / tokens).tolist()) for layer in sorted(rows)),
        uniform=tuple(uniform[layer] / tokens for layer in sorted(uniform)),
        texts=texts,
        tokens=tokens,
        model=name,
    )


def _real_tokens(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Which tokens are no padding, int64 [batch, n]; refuses inputs that the model cannot take."""
    ids = inputs.get("input_ids") if inputs.get("input_ids") is not None else inputs.get("inputs_embeds")
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"give a tensor of token ids, or a forward's inputs with input_ids, not {type(ids).__name__}.")
    if ids.dim() < 2 or not ids.numel():
        raise ValueError(f"token ids must have the shape [batch, n] and a token at least, not {list(ids.shape)}.")
    if inputs.get("input_ids") is not None:
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise TypeError(f"token ids are whole numbers, not {ids.dtype}.")
        known = int(model.get_input_embeddings().num_embeddings)
        if int(ids.min()) < 0 or int(ids.max()) >= known:
            raise ValueError(
                f"the model knows token ids from 0 to {known - 1}, not {int(ids.min())} to {int(ids.max())}."
            )
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if longest and ids.shape[1] > longest and not getattr(config, "rope_parameters", None):
        raise ValueError(f"texts of {ids.shape[1]} tokens are longer than the {longest} that the model has places for.")
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(ids.shape[:2], dtype=torch.long, device=ids.device)
    if mask.shape != ids.shape[:2]:
        raise ValueError(f"attention_mask must have the shape {list(ids.shape[:2])}, not {list(mask.shape)}.")
    return mask.to(ids.device).long()
