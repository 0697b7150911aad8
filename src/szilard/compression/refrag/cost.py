"""What reading compressed contexts costs: counts, and the paper's model of the time to the first token.

Lin et al. 2025, appendix: a decoder of l layers and width d, a batch of b, s context tokens and o output tokens, n
parameters, f operations and m bytes per second:

    TTFT = (24 d^2 + 4 d s) l b s / f,   KV bytes = 4 d l b (s + o),   TTIT = (2 n + 4 d l b (s + o)) / m

with s / k in the place of s where chunks of k tokens are one vector.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ReadingCost:
    """Counts of one prompt.

    Attributes:
        decoder_positions: that the decoder reads.
        plain_positions: that it would read of the plain prompt.
        encoder_tokens: read by the encoder for this prompt.
        encoder_tokens_cached: that it had read before, for a store.
        scored_tokens: read by the decoder to find perplexities.
        kv_bytes: of the prompt in the decoder's cache.
        kv_bytes_plain: of the plain prompt.
    """

    decoder_positions: int
    plain_positions: int
    encoder_tokens: int
    encoder_tokens_cached: int
    scored_tokens: int
    kv_bytes: int
    kv_bytes_plain: int

    @property
    def rate(self) -> float:
        """Decoder positions over those of the plain prompt."""
        return self.decoder_positions / self.plain_positions

    def to_dict(self) -> dict[str, float]:
        """By name."""
        return {name: float(value) for name, value in asdict(self).items()}


def effective_rate(chunk: int, keep: float) -> float:
    """Context tokens per decoder position when a share p of chunks of k stays tokens: k / (1 - p + k p)."""
    return chunk / (1 - keep + chunk * keep)


def first_token_seconds(
    tokens: float, *, width: int, layers: int, operations_per_second: float, batch: int = 1
) -> float:
    """TTFT of so many context positions."""
    return (24 * width**2 + 4 * width * tokens) * layers * batch * tokens / operations_per_second


def kv_bytes(tokens: float, *, width: int, layers: int, batch: int = 1) -> float:
    """Keys and values of 2 bytes a number, for context and output together."""
    return 4 * width * layers * batch * tokens


def next_token_seconds(
    tokens: float, *, parameters: float, width: int, layers: int, bytes_per_second: float, batch: int = 1
) -> float:
    """TTIT: reading the weights and the cache of so many tokens."""
    return (2 * parameters + kv_bytes(tokens, width=width, layers=layers, batch=batch)) / bytes_per_second


def first_token_gain(chunk: int, tokens: int, width: int) -> float:
    """TTFT of s tokens over TTFT of s / k vectors: k^2 (6 d s + s^2) / (6 d s k + s^2), between k and k^2."""
    plain, square = 6 * width * tokens, tokens**2
    return chunk**2 * (plain + square) / (plain * chunk + square)
