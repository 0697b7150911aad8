"""What compressing a context takes, and what it saves."""

from __future__ import annotations

from collections.abc import Sequence

from szilard.compression.arc_encoder.groups import Pooling
from szilard.compression.arc_encoder.model import ArcModel
from szilard.engines.engine import Engine


def flops_factor(encoder_parameters: float, decoder_parameters: float, pooling_factor: float) -> float:
    """Prefill FLOPs with compression on the fly over those without, for a long document: p + 1 / x.

    The encoder reads every token at p = N_encoder / N_decoder of the decoder's price, the decoder one of x. A 3.0 B
    encoder before a 7.2 B decoder: 0.667 at x = 4, 0.542 at x = 8.
    """
    return encoder_parameters / decoder_parameters + 1 / pooling_factor


def counted(
    model: ArcModel,
    engine: Engine,
    name: str,
    original: int,
    cut: Sequence[int],
    vectors: int,
    positions: int,
    pooling: Pooling,
) -> dict[str, float]:
    """The cost of one context.

    Args:
        model, engine: the encoder and the decoder.
        name: of the decoder.
        original: the context in the decoder's tokens.
        cut: the encoder's tokens of each piece of the context.
        vectors: m.
        positions: of the decoder, <Cont> included.
        pooling: how it was pooled.

    Returns:
        "encoder_tokens", "layer_tokens" (tokens times layers of the encoder), "positions_saved", "stored_bytes"
        (float16 at the bottleneck), "flops_factor" (prefill with this encoding over prefill without).
    """
    layers = len(model.encoder.layers)
    read, pooled = sum(cut), 0
    for length in cut:
        for step in range(pooling.layers):
            length = pooling.groups(length, step)
            pooled += length
    price = model.encoder_parameters / engine.parameter_count
    return {
        "encoder_tokens": float(read),
        "layer_tokens": float(read * (layers - pooling.layers) + pooled),
        "positions_saved": float(original - positions),
        "stored_bytes": 2.0 * vectors * int(model.decoders[name]["bottleneck"]),
        "flops_factor": (price * read + positions) / original,
    }
