"""Quality against what is read of the cache, as an SVG: a panel per task and question, a line per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import curve_picture
from curve_picture import Panel

Record = dict[str, Any]
PANELS = (
    ("needle", "inside", "needle, question inside the prompt"),
    ("needle", "after", "needle, question after it"),
    ("pairs", "inside", "pairs, question inside the prompt"),
    ("pairs", "after", "pairs, question after it"),
    ("continuation", "", "continuation"),
)


def picture(records: Sequence[Record]) -> str:
    """The SVG of one model's records: tokens right in %, or nats per token, over keys read in % (logarithmic)."""
    methods = list(dict.fromkeys(record["key"]["method"] for record in records if record["key"]["method"] != "plain"))
    low = math.floor(math.log2(min(record["kv_read_share"] for record in records)))
    ticks = [(2.0**power, f"{100 * 2.0**power:.3g}") for power in range(low, 1)]
    panels = []
    for task, question, title in PANELS:
        own = [r for r in records if (r["key"]["task"], r["key"]["question"]) == (task, question)]
        if own:
            panels.append(_panel(own, methods, title, is_nats=task == "continuation"))
    return curve_picture.picture(panels, ticks, level="no method")


def _panel(records: Sequence[Record], methods: Sequence[str], title: str, *, is_nats: bool) -> Panel:
    def value(record: Record) -> float:
        return float(record["nats"]) if is_nats else 100 * record["right"] / record["tokens"]

    curves = {
        method: [(r["kv_read_share"], value(r)) for r in records if r["key"]["method"] == method] for method in methods
    }
    levels = [value(record) for record in records if record["key"]["method"] == "plain"]
    if not is_nats:
        return Panel(title, curves, "% of the keys read", levels=levels)
    ticks = curve_picture.ticks_around([value(record) for record in records])
    axis = "% of the keys read (nats per token, less is better)"
    return Panel(title, curves, axis, ticks, unit="", levels=levels)
