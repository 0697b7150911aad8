"""What a compressor's and a predictor's tokens cost: FLOPs, and money."""

from __future__ import annotations

import torch

from szilard.decoding.cost import Cost, ModelSize
from szilard.engines.engine import Engine
from szilard.options import check_number


def size_of(engine: Engine) -> ModelSize:
    """The figures of an engine's model."""
    state = engine.state(torch.tensor([0]), max_new_tokens=1, trace=False)
    try:
        return state.size  # type: ignore[attr-defined]
    finally:
        state.close()


def flops_per_generation(size: ModelSize, prompt_tokens: float, new_tokens: float) -> float:
    """FLOPs of writing a text: new tokens x (2 N_params + 2 n_layer n_ctx d_attn).

    Args:
        size: of the model; N_params without the input embeddings, which are a look-up (inferred).
        prompt_tokens, new_tokens: read and written; n_ctx is both together (inferred). Reading is not counted: see
            `flops_of_reading`.
    """
    context = prompt_tokens + new_tokens
    return new_tokens * (2 * size.layer_parameters + 2 * size.layers * context * size.attention_width)


def flops_of_reading(size: ModelSize, tokens: int) -> float:
    """FLOPs of reading a prompt (ours: the paper counts generated tokens only)."""
    cost = Cost()
    cost.add_forward(size, rows=1, new=tokens, cached=0)
    return float(cost.flops)


def api_cost(tokens_in: float, tokens_out: float, price_in: float, price_out: float) -> float:
    """What a hosted predictor takes for its tokens; compressors that run locally cost nothing.

    Args:
        tokens_in, tokens_out: read and written.
        price_in, price_out: per million tokens.
    """
    for name, price in (("price_in", price_in), ("price_out", price_out)):
        check_number(name, price, low=0)
    return (tokens_in * price_in + tokens_out * price_out) / 1e6
