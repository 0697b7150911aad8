"""What a run cost: deterministic counts, so that a claim can be checked on a noisy machine, plus wall time."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSize:
    """The figures of one model that turn token counts into work.

    Attributes:
        name: what the model is called in the counts.
        layers: decoder layers.
        layer_parameters: parameters that every token passes (all weights but the input embedding, which is a look-up).
        attention_width: query heads x head dimension; attention costs 4 x this per query-key pair and layer.
        kv_bytes_per_token: bytes of keys and values that one cached token occupies over all layers.
    """

    name: str
    layers: int
    layer_parameters: int
    attention_width: int
    kv_bytes_per_token: int


@dataclass
class Cost:
    """Counts of one call (a whole batch). `tokens` count what went through the model, padding included.

    Attributes:
        forward_passes: forwards per model.
        tokens: tokens through each model, prompt included.
        layer_tokens: tokens x layers really run, per model.
        kv_bytes_held: largest size the cache reached, in bytes.
        kv_bytes_read: bytes of keys and values read by all forwards together.
        flops: multiply-adds x 2 of the decoder's matrix products: 2 x parameters per token, plus attention.
        extra_flops: multiply-adds x 2 of what the method itself computes (a mixture: 2 x vocabulary x hidden; the
            matrix products of drafting heads, without the attention between their slots).
        generated_tokens: new tokens of all rows.
        batch_size: rows.
        counters: what a method counts beyond that, by name: whole numbers are counts (pauses, switches, ...), others
            are shares.
        wall_seconds: time from the first forward's start to the last commit.
    """

    forward_passes: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    layer_tokens: dict[str, int] = field(default_factory=dict)
    kv_bytes_held: int = 0
    kv_bytes_read: int = 0
    flops: int = 0
    extra_flops: int = 0
    generated_tokens: int = 0
    batch_size: int = 0
    counters: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    _started: float | None = field(default=None, repr=False, compare=False)

    def start(self) -> None:
        """Start the clock (a second call is ignored)."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Read the clock."""
        if self._started is not None:
            self.wall_seconds = time.perf_counter() - self._started

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter of the method's own."""
        self.counters[name] = self.counters.get(name, 0) + amount

    def add_forward(self, size: ModelSize, *, rows: int, new: int, cached: int) -> None:
        """Count one forward of `new` tokens in each of `rows` rows, on top of `cached` slots per row."""
        name, total = size.name, rows * new
        self.forward_passes[name] = self.forward_passes.get(name, 0) + 1
        self.tokens[name] = self.tokens.get(name, 0) + total
        self.layer_tokens[name] = self.layer_tokens.get(name, 0) + total * size.layers
        held = rows * (cached + new) * size.kv_bytes_per_token
        self.kv_bytes_held = max(self.kv_bytes_held, held)
        self.kv_bytes_read += held
        pairs = rows * (new * cached + new * (new + 1) // 2)
        self.flops += 2 * size.layer_parameters * total + 4 * size.attention_width * size.layers * pairs

    def add_product(self, parameters: int, vectors: int) -> None:
        """Count so many vectors through matrices of a method's own, of so many parameters together."""
        self.extra_flops += 2 * parameters * vectors

    @property
    def total_forward_passes(self) -> int:
        """Forwards over all models."""
        return sum(self.forward_passes.values())

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of the batch per wall second (prefill included)."""
        return self.generated_tokens / self.wall_seconds if self.wall_seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All counts as plain values."""
        values = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        return values | {"tokens_per_second": self.tokens_per_second}

    def to_json(self) -> str:
        """The counts as a JSON object."""
        return json.dumps(self.to_dict())
