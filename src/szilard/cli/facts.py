"""The figures of one run, as the tables, pages and JSON of several commands show them."""

from __future__ import annotations

from typing import Any

from szilard.engines.result import Result


def facts(result: Result) -> dict[str, Any]:
    """Tokens, latent steps, mean entropy, forward passes and speed of a result."""
    summary = result.trace.summary() if result.trace is not None else {}
    entropy = summary.get("mean_entropy")
    return {
        "tokens": len(result.tokens),
        "latent steps": summary.get("latent_steps", 0),
        "switches": summary.get("switches", 0),
        "mean entropy": None if entropy is None else round(float(entropy), 3),
        "forward passes": result.cost.total_forward_passes,
        **_attention(result.cost.counters),
        "GFLOPs": round(result.cost.flops / 1e9, 1),
        "tokens/s": round(result.cost.tokens_per_second, 1),
        "finish": result.finish_reason,
    }


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
