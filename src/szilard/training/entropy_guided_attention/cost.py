"""What a decoder costs in private inference: its nonlinear operations, its products, and an estimate of what is sent.

Two parties compute on data that neither sees: linear layers are nearly free, and every element of a softmax, a layer
norm or an activation is bought with messages. Jha and Reagen 2025, arXiv 2501.03489, tables of nonlinear operations and
of communication.

*Counted*: operations with their shapes, and floating point operations (two per multiplication and addition; attention
is dense, T x T, as it is computed under encryption).

*Fitted*: gigabytes sent. The published values (GPT-2 with 12 and 18 layers, 128 to 512 tokens; eleven numbers) are met
within 0.01 GB by

    bytes = SOFTMAX (elements of T x T) + LINEAR (layers T d) + EMBEDDING T d + LOGIT T V
            + REST (layers T d) + GELU (elements of the activation)

SOFTMAX, GELU (beyond ReLU), EMBEDDING and LOGIT are set apart by the table; two norms, a ReLU and a network d -> 4d ->
d instead of d -> d come and go together in it, so only their sum REST is known. A model with some of the three is
therefore given as a range, from none of REST to all of it. Seconds are not estimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from szilard.options import check_number
from szilard.training.entropy_guided_attention.feed_forward import FusedFeedForward, ScaledFeedForward
from szilard.training.entropy_guided_attention.parts import Parts, parts_of

Shape = tuple[int, ...]

# Bytes, by least squares over the paper's table; see above for what each is of.
_SOFTMAX, _LINEAR, _EMBEDDING, _LOGIT, _REST, _GELU = 1665.75, 738.61, 4478.30, 184.95, 2547.29, 3366.74


@dataclass(frozen=True)
class PrivateInferenceCost:
    """Of one forward over a text of T tokens.

    Attributes:
        operations: shapes by kind: "softmax" (one per head), "layernorm" and "final_layernorm" (also of RMS norms),
            "product" (two secrets multiplied element by element, in gated networks), and activations by name
            ("gelu", "relu", "silu").
        ffn_flops, attention_flops: floating point operations of all blocks; attention with its four projections.
        gigabytes: sent, from and to; None: this model is not like those of the table.
        tokens: T.
    """

    operations: Mapping[str, tuple[Shape, ...]]
    ffn_flops: int
    attention_flops: int
    gigabytes: tuple[float, float] | None
    tokens: int
    model: str = field(default="")

    @property
    def elements(self) -> dict[str, int]:
        """Numbers that go through each kind of operation."""
        return {kind: sum(math.prod(shape) for shape in shapes) for kind, shapes in self.operations.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data: operations as {kind: {"count", "shape", "elements"}}."""
        operations = {
            kind: {"count": len(shapes), "shape": list(shapes[0]), "elements": self.elements[kind]}
            for kind, shapes in self.operations.items()
        }
        found: dict[str, Any] = {"model": self.model, "tokens": self.tokens, "operations": operations}
        found |= {"ffn_flops": self.ffn_flops, "attention_flops": self.attention_flops}
        return found | {"gigabytes": None if self.gigabytes is None else list(self.gigabytes)}


def count_nonlinear_ops(model: Any, T: int) -> dict[str, list[Shape]]:
    """Nonlinear operations of one forward over T tokens, a shape for each; see `PrivateInferenceCost`.

    Raises:
        ValueError: another kind of model than `simplify_gpt2` takes, or a length below 1. TypeError: no model.
    """
    check_number("T", T, low=1, integer=True)
    if not hasattr(model, "get_decoder"):
        raise TypeError(f"count the operations of a model of transformers, not of a {type(model).__name__}.")
    parts = parts_of(model.config)
    width, heads = int(model.config.hidden_size), int(model.config.num_attention_heads)
    found: dict[str, list[Shape]] = {}

    def count(kind: str, shape: Shape, times: int = 1) -> None:
        found.setdefault(kind, []).extend([shape] * times)

    for block in parts.of_blocks(model):
        count("softmax", (T, T), heads)
        for name in parts.norms:
            if not isinstance(getattr(block, name), nn.Identity):
                count("layernorm", (T, width))
        network = _network(block, parts)
        if isinstance(network, FusedFeedForward):
            continue
        inner = _inner(network, parts)
        kind = _activation(model.config, parts)
        if kind:
            count(kind, (T, inner))
        if parts.gated:
            count("product", (T, inner))
    if not isinstance(getattr(model.get_decoder(), parts.final_norm), nn.Identity):
        count("final_layernorm", (T, width))  # which the paper's table leaves out
    return found


def private_inference_cost(model: Any, T: int, name: str = "") -> PrivateInferenceCost:
    """Counts and the estimate, for one forward over T tokens.

    Raises:
        ValueError: as `count_nonlinear_ops`.
    """
    operations = count_nonlinear_ops(model, T)
    parts = parts_of(model.config)
    config, blocks = model.config, parts.of_blocks(model)
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or width // heads)
    key_width = size * int(getattr(config, "num_key_value_heads", None) or heads)
    projections = 2 * T * width * (2 * heads * size + 2 * key_width)  # query and output, key and value
    attention = len(blocks) * (projections + 2 * 2 * T * T * heads * size)
    networks = [_network(block, parts) for block in blocks]
    matrices = 3 if parts.gated else 2
    ffn = sum(
        2 * T * width * (width if isinstance(network, FusedFeedForward) else matrices * _inner(network, parts))
        for network in networks
    )
    return PrivateInferenceCost(
        operations={kind: tuple(shapes) for kind, shapes in operations.items()},
        ffn_flops=ffn,
        attention_flops=attention,
        gigabytes=None if parts.gated else _gigabytes(operations, networks, config, T),
        tokens=T,
        model=name,
    )


def _gigabytes(
    operations: Mapping[str, list[Shape]], networks: list[Any], config: Any, tokens: int
) -> tuple[float, float] | None:
    """From and to, of a GPT-2."""
    if set(operations) - {"softmax", "layernorm", "final_layernorm", "gelu", "relu"}:
        return None
    row, layers = tokens * int(config.hidden_size), len(networks)
    elements = {kind: sum(map(math.prod, shapes)) for kind, shapes in operations.items()}
    known = _SOFTMAX * elements["softmax"] + _LINEAR * layers * row + _EMBEDDING * row
    known += _LOGIT * tokens * int(config.vocab_size) + _GELU * elements.get("gelu", 0)
    wide = not all(isinstance(network, FusedFeedForward) for network in networks)
    present = [wide, "layernorm" in operations, "relu" in operations or "gelu" in operations]
    rest = _REST * layers * row
    low, high = known + rest * all(present), known + rest * any(present)
    return low / 1e9, high / 1e9


def _network(block: Any, parts: Parts) -> Any:
    network = getattr(block, parts.feed_forward)
    return network.network if isinstance(network, ScaledFeedForward) else network


def _inner(network: Any, parts: Parts) -> int:
    """The width between the matrices."""
    first = getattr(network, parts.linears[0])
    return int(first.nf if hasattr(first, "nf") else first.out_features)


def _activation(config: Any, parts: Parts) -> str:
    """What kind of activation there is; "": none."""
    name = str(getattr(config, parts.activation_setting))
    kinds = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu", "linear": ""}
    return next((kind for word, kind in kinds.items() if word in name), name)
