"""The reproduction page's section on LaDiR, from `results/ladir.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curve_picture import Panel, picture
from record_tables import tables
from results_store import FOLDER, Store

HEAD = """## LaDiR

**Claim** (Kang et al. 2025, arXiv 2510.04573). LLaMA-3.1-8B on seven math benchmarks: 43.5 % against 39.3 % of AR
CoT-SFT (pass@1); without stage 2 27.9 %. More denoising steps are better: 5 to 10 +11.7 points, to 30 another +4.8.
Countdown with five numbers: pass@100 75.2 % against 15.4 % of AR SFT. Initial noise 2 is better than 1.

Here a Llama of two layers and width 128, trained on the spot. **chains**: 2 to 4 operations modulo 7, 300 new problems;
the AR model is the base of LaDiR. **countdown**: three numbers, eight chains per puzzle.

```
python benchmarks/ladir.py --part chains --seed 0 -o build/ladir
python benchmarks/ladir.py --part countdown --seed 0 -o build/ladir [--data FOLDER]
```
"""
PICTURE = FOLDER.parent / "docs" / "pictures" / "ladir.svg"
READING = """
**Reading.** *Chains.* It depends on the seed whether LaDiR learns this task (no chain 22 to 25 %, the chain in words 100 %). With seed 0
97 % of the problems are answered without writing a chain, with two latent vectors per equation; with seed 1, trained for as long, 51 %, although
with gold blocks that model, too, is always right. So the answers are learned, and the free-running blocks half the time.
Denoising steps: one gives 94 and 37 %, two 97 and 48 %, five 98 and 51 %, and up to fifty nothing more, or a little less. The paper needs many; what
comes next in these chains is certain, so there is little to refine, and more where the model is worse. For the same reason the enlarged initial noise (2) only
hurts (54 and 20 %). Stopping when the predicted block no longer moves costs nothing with seed 0 (46 instead of 621 forward passes) and a quarter of the right answers with
seed 1. Stage 2, which trains on the model's own blocks, had nothing to add to seed 0 (its best evaluation was its first, so its rows are stage 1's); with seed 1 it brings 51 to 56 %,
and whole chains right word for word 41 to 54 %, at the price of gold blocks (100 to 90 %): it closes a little of the gap that it is for.

*Countdown* was not learned to a useful degree: one puzzle in thirty (pass@1 3.4 %, pass@8 25 %) where the model that writes the chain solves
one in five (21 %, pass@8 67 %); loss and accuracy were still moving when its 3,000 steps ended. Within that, trajectories help as they do anywhere (eight find seven times what
one does), gentle repulsion helps a little (gamma 0.1: pass@8 26.7 % against 24.7 %), at 0.3 it hurts (19.3 %), the published sign does nothing (25.3 %), and
initial noise 2 leaves hardly anything (1.3 %). One seed, 150 puzzles: differences of 3 points are noise.
"""


def page() -> Iterator[str]:
    """Markdown of the section; writes its picture."""
    records = list(Store("ladir"))
    if not records:
        return
    yield HEAD
    yield from tables(records, over=("seed",))
    curves = accuracy_by_steps(records)
    if curves:
        panel = Panel("Answers that are right", curves, "denoising steps per block")
        ticks = [(float(steps), str(steps)) for steps in (1, 2, 5, 10, 20, 50)]
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(picture([panel], ticks, columns=2), encoding="utf-8")
        yield "\n![Accuracy against denoising steps](pictures/ladir.svg)\n"
    if READING:
        yield READING


def accuracy_by_steps(records: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Percent by steps, averaged over seeds, by stage and initial noise."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in records:
        key = record["key"]
        if key["part"] == "chains" and isinstance(key.get("denoising_steps"), int):
            name = f"{key['model']}, initial noise {key['initial_noise']:g}"
            found.setdefault(name, {}).setdefault(key["denoising_steps"], []).append(100 * record["accuracy"])
    return {
        name: [(float(steps), sum(values) / len(values)) for steps, values in sorted(points.items())]
        for name, points in found.items()
    }


if __name__ == "__main__":
    print("\n".join(page()))
