"""Does a frozen model read ComprExIT's slots, and what of the method does it? SmolLM2, a few hundred steps on a CPU.

    python benchmarks/comprexit_training.py --data FOLDER -o build/comprexit [--steps 200] [--ablation-steps 70] [--parts main,ablations]

FOLDER holds wikitext2_valid.txt (learned from) and wikitext2_test.txt (measured on). Contexts of 64 tokens in 16 slots,
the 16 tokens behind them to be predicted. All variants of a run learn from the same batches, which the model reads once
for all of them, in one training that resumes where it was killed; no batch comes twice. A training that
was stopped early is measured as it is when --steps names what it had reached, a multiple of 10. Results go to
results/comprexit.jsonl: nats per token behind the slots, behind nothing, behind the whole context, and behind the slots
of another context, which tell how much is only the kind of text.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_store import Store
from torch import nn

import szilard
from szilard.compression.comprexit.add_on import ComprExITAddOn
from szilard.compression.comprexit.diagnostics import plan_rank, slot_rank
from szilard.compression.comprexit.encode import read
from szilard.compression.comprexit.training import ComprExITObjective
from szilard.compression.passages import Passages
from szilard.training.config import TrainingConfig
from szilard.training.corpus import Example
from szilard.training.hidden_states import Tokens
from szilard.training.loop import fit, read_metrics
from szilard.training.target import Target

CONTEXT, TARGET, RATIO, WINDOW, WARMUP_STEPS = 64, 16, 4, 64, 10
SETTINGS = TrainingConfig(
    batch_size=8, learning_rate=1e-3, schedule="constant", max_grad_norm=0, log_every=10, save_every=10
)


class MeanPool(nn.Module):
    """The baseline: the mean of every 4 tokens' hidden states of one layer, brought to size 1, and the same projector."""

    def __init__(self, base: ComprExITAddOn, source: int) -> None:
        super().__init__()
        self.source, self.projector = source, base.projector

    def forward(self, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
        """[batch, CONTEXT, d] per layer -> [batch, slots, d]."""
        state = hidden[self.source]
        state = state * (state.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return self.projector(state.unflatten(1, (-1, RATIO)).mean(2))


class Several(nn.Module):
    """Variants that learn side by side: the sum of their losses, no parameter shared."""

    def __init__(self, target: Target, names: Sequence[str]) -> None:
        super().__init__()
        self.variants = nn.ModuleDict({name: made(target, name) for name in names})
        self.reader = ComprExITObjective(ComprExITAddOn.from_causal_lm(target.engine), target, CONTEXT)
        self.reader.add_on = None  # only its way of putting vectors before targets is used
        self.reader.begin = [target.engine.tokenizer.bos_token_id]  # as in the paper; SmolLM2's tokenizer adds none

    def slots(self, contexts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """[batch, slots, d] of every variant."""
        hidden, mask = read(self.reader.target.model, contexts)
        return {
            name: part(hidden) if isinstance(part, MeanPool) else part(hidden, mask).slots
            for name, part in self.variants.items()
        }

    def forward(self, contexts: list[torch.Tensor], targets: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        made = self.slots(contexts)
        rows = [vectors for batch in made.values() for vectors in batch]  # one batch for the decoder
        forced = self.reader.behind(rows, targets * len(made))
        nats = (forced.nats / forced.tokens).unflatten(0, (len(made), -1)).mean(1)
        return {"loss": nats.sum()} | dict(zip(made, nats.detach(), strict=True))


def made(target: Target, name: str) -> nn.Module:
    """A fresh variant by its name."""
    shape: dict[str, Any] = {"ratio": RATIO, "window": WINDOW, "unit_states": True}
    kind, _, layer = name.partition(" ")
    if kind == "mean":
        return MeanPool(ComprExITAddOn.from_causal_lm(target.engine, **shape), int(layer))
    if kind == "layer":
        shape["source"] = int(layer)
    if kind == "attention":
        shape["transmission"] = "attention"
    if kind == "raw":
        shape["unit_states"] = False
    return ComprExITAddOn.from_causal_lm(target.engine, **shape)


def passages(target: Target, file: Path) -> Passages:
    """Contexts and what follows them, cut from a text read as one."""
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    encoded = target.engine.tokenizer([line + "\n" for line in lines], add_special_tokens=False)["input_ids"]
    tokens = Tokens(target, [Example(tuple(ids), (True,) * len(ids)) for ids in encoded])
    tokens.offsets = np.array([0, len(tokens.ids)])
    return Passages(tokens, CONTEXT, TARGET, shortest=TARGET)


@torch.no_grad()
def measure(several: Several, data: Passages, count: int) -> dict[str, Any]:
    """Nats per token of the test text behind the slots of every variant, with standard errors over contexts."""
    several.eval()
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:count].tolist()
    embed = several.reader.target.model.get_input_embeddings()
    nats: dict[str, list[torch.Tensor]] = {}
    for start in range(0, count, 8):
        batch = Passages.collate([data[index] for index in chosen[start : start + 8]])
        whole = [embed(ids) for ids in batch["contexts"]]
        slots = several.slots(batch["contexts"])
        before: dict[str, Any] = {"none": [rows[:0] for rows in whole], "full": whole}
        before |= slots | {f"{name} of another": rows.roll(1, 0) for name, rows in slots.items()}
        for name, rows in before.items():
            forced = several.reader.behind(list(rows), batch["targets"])
            nats.setdefault(name, []).append(forced.nats / forced.tokens)
    rows = {name: torch.cat(parts) for name, parts in nats.items()}
    found: dict[str, Any] = {
        name: {
            "nats": round(float(each.mean()), 4),
            "error": round(float(each.std() / len(each) ** 0.5), 4),
            # of the difference to ComprExIT, context by context
            "behind_comprexit": round(float((each - rows["comprexit"]).mean()), 4),
            "behind_error": round(float((each - rows["comprexit"]).std() / len(each) ** 0.5), 4),
        }
        for name, each in rows.items()
    }
    hidden, mask = read(several.reader.target.model, batch["contexts"])
    for name, part in several.variants.items():
        if isinstance(part, ComprExITAddOn):
            seen = part(hidden, mask)
            gates = seen.gates.flatten(0, 1)
            found[name] |= {
                "gate_entropy": round(float(torch.special.entr(gates).sum(-1).mean()), 3),
                "gates": [round(share, 3) for share in gates.mean(0).tolist()],
                "plan_rank": round(float(plan_rank(seen.plan).mean()), 2),
                "slot_rank": round(float(slot_rank(seen.pooled).mean()), 2),
            }
    return found


def run(
    part: str, names: Sequence[str], steps: int, arguments: argparse.Namespace, store: Store, target: Target
) -> None:
    key = {"run": part, "model": target.engine.name, "steps": steps, "contexts": arguments.contexts}
    if key in store:
        return
    start = time.perf_counter()
    learned = passages(target, arguments.data / "wikitext2_valid.txt")
    if steps * SETTINGS.batch_size > len(learned):
        raise SystemExit(f"{len(learned)} contexts are too few for {steps} steps without a repetition.")
    several = Several(target, names)
    config = replace(SETTINGS, steps=steps, warmup=min(1.0, WARMUP_STEPS / steps))
    folder = arguments.output / part
    fit(several, learned, config, folder, collate=Passages.collate, device="cpu")
    metrics = read_metrics(folder / "metrics.jsonl")
    curves = {name: [round(row[name], 4) for row in metrics] for name in names}
    found = measure(several, passages(target, arguments.data / "wikitext2_test.txt"), arguments.contexts)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in several.variants.items()}
    seconds = round(time.perf_counter() - start, 1)
    store.add(key, {"variants": found, "curves": curves, "parameters": sizes, "log_every": 10, "seconds": seconds})
    for name, row in found.items():
        print(f"{part:10} {steps:4} steps  {name:22} {row['nats']:.3f} nats +- {row['error']:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ablation-steps", type=int, default=70)
    parser.add_argument("--parts", default="main,ablations")
    parser.add_argument("--contexts", type=int, default=64, help="of the test text, measured")
    arguments = parser.parse_args()
    target = Target(szilard.load())
    middle, last = target.config.num_hidden_layers // 2, target.config.num_hidden_layers
    store = Store("comprexit")
    parts = {
        "main": (["comprexit", f"mean {middle}", f"mean {last}"], arguments.steps),
        "ablations": (
            ["comprexit", "raw", "attention", "layer 0", f"layer {middle}", f"layer {last}"],
            arguments.ablation_steps,
        ),
    }
    for part in arguments.parts.split(","):
        if part not in parts:
            raise SystemExit(f"--parts are {', '.join(parts)}, not {part!r}.")
        run(part, *parts[part], arguments, store, target)


if __name__ == "__main__":
    main()
