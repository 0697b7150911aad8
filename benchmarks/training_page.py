"""The reproduction page's section on the training loop: what a kill costs, and what the loop costs."""

from __future__ import annotations

from collections.abc import Iterator

from markdown_table import table
from results_store import Store

HEAD = """## Training: killed, resumed, in two processes

Each recipe on a tiny model through `szilard train`: undisturbed; killed with SIGKILL at other points of its way each time
and given again until it ends; and in two processes (torchrun) with half the batch each. "Rows" are the lines of every
`metrics.jsonl` and `evaluations.jsonl`, losses and metrics to the last digit; "tensors" all that was written in safetensors.
In two processes other examples share a batch, and draws (noise, dropout) are each process's own, so losses agree at the
first step and stay near each other where a recipe draws nothing.
"""
COMMANDS = """```bash
python benchmarks/resume_demonstration.py
python benchmarks/training_speed.py --what chains --precision float32 --steps 200 --save
```
"""


def page() -> Iterator[str]:
    """The table and the commands; nothing where nothing was measured."""
    records = {record["key"]["recipe"]: record for record in Store("resume")}
    if not records:
        return
    yield HEAD
    columns = ("recipe", "killed at row", "rows the same", "tensors the same", "two processes: losses apart")
    rows = []
    for slug, record in records.items():
        share = record.get("two processes, losses apart")
        rows.append(
            (
                f"`{slug}`",
                ", ".join(map(str, record["killed at row"])),
                f"{'all' if record['rows equal'] else 'not all'} {record['rows']}",
                f"{'all' if record['tensors equal'] else 'not all'} {record['tensors']}",
                "one process only" if share is None else f"{share:.2%}",
            )
        )
    yield table(columns, rows)
    speeds = [one for one in Store("speed") if one["key"]["peer"] == "bare PyTorch loop, training"]
    if speeds:
        yield "Steps per second against a bare PyTorch loop on the same objective, data and optimiser (checkpoint and logs included):\n"
        rows = [(one["key"]["method"], one["key"]["model"], f"{one['ratio']:.3f}") for one in speeds]
        yield table(("objective", "model", "szilard over bare"), rows)
    yield COMMANDS
