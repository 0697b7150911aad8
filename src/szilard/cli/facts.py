"""The figures of one run, as the tables, pages and JSON of several commands show them."""

from __future__ import annotations

from typing import Any

import numpy as np

from szilard.diffusion.bits import bits_per_round
from szilard.diffusion.canvas_page import has_rounds, rounds_at_least
from szilard.engines.result import Result


def facts(result: Result) -> dict[str, Any]:
    """Tokens, latent steps (of a canvas: rounds and bits), mean entropy, forward passes and speed of a result."""
    summary = result.trace.summary() if result.trace is not None else {}
    how = {"latent steps": summary.get("latent_steps", 0), "switches": summary.get("switches", 0)}
    entropy = summary.get("mean_entropy")
    if "denoising" in result.method.needs:
        how, entropy = _of_canvas(result), _entropy_of_committed(result)
    return {
        "tokens": len(result.tokens),
        **how,
        "mean entropy": None if entropy is None else round(float(entropy), 3),
        "forward passes": result.cost.total_forward_passes,
        **_attention(result.cost.counters),
        "GFLOPs": round(result.cost.flops / 1e9, 1),
        "tokens/s": round(result.cost.tokens_per_second, 1),
        "finish": result.finish_reason,
    }


def _of_canvas(result: Result) -> dict[str, Any]:
    """How a canvas was filled; None: not known without a trace, or endless bits.

    Rounds are the run's, those that filled columns behind the end of the text among them; of a row in a batch, those
    until its text stood. Columns that a template gave are not counted as committed.
    """
    trace, cost = result.trace, result.cost
    known = trace is not None and has_rounds(trace)
    bits = bits_per_round(trace) if known and trace is not None else None
    committed = int((trace["round"] > 0).sum()) if known and trace is not None else len(result.tokens)
    rounds = cost.total_forward_passes if cost.batch_size == 1 else None if bits is None else len(bits)
    total = None if bits is None else sum(bits)
    return {
        "rounds": rounds,
        "tokens per round": round(committed / rounds, 2) if rounds else None,
        "bits per round": round(total / rounds, 2) if rounds and total is not None and np.isfinite(total) else None,
        "rounds at least": None if bits is None else rounds_at_least(bits),
        "computed columns": sum(cost.tokens.values()),
    }


def _entropy_of_committed(result: Result) -> float | None:
    """Mean entropy in nats of the tokens that a model committed; what a template gave has none."""
    if result.trace is None or not has_rounds(result.trace):
        return None
    entropy = result.trace["entropy"][result.trace["round"] > 0]
    return float(entropy.mean()) if len(entropy) else None


def _attention(counters: dict[str, float]) -> dict[str, str]:
    """What an attention method read and kept, when one was open."""
    names = {"kv_read_share": "keys read", "kv_held_share": "keys kept"}
    return {word: f"{counters[name]:.1%}" for name, word in names.items() if name in counters}


def as_json(result: Result, *, with_trace: bool = True) -> dict[str, Any]:
    """A result as plain values."""
    import json

    record = {
        "method": result.method.slug,
        "options": {name: _plain(value) for name, value in result.method.options().items()},
        "prompt": result.prompt,
        "text": result.text,
        "tokens": result.tokens,
        "finish_reason": result.finish_reason,
        "facts": facts(result),
        "cost": result.cost.to_dict(),
    }
    if with_trace and result.trace is not None:
        record["trace"] = json.loads(result.trace.to_json())
    return record


def _plain(value: Any) -> Any:
    """JSON has no infinity, sets or tensors."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return value
