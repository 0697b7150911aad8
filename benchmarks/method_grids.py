"""Grids of what methods choose, for their pages: layers by tokens or heads, rounds by columns, concepts by probes.

python benchmarks/method_grids.py [--only uncomp]       # writes docs/pictures/methods/*.svg; two minutes

Everything runs on models that come with the project.
"""

from __future__ import annotations

import argparse
import base64
import io
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import grid_picture
import torch
from grid_picture import Cell, Grid
from method_words import ROOT, STORY, write
from sae_models import pairs_in_context
from word_picture import heat

import szilard
from szilard.attention.tidal_decode import TidalSession
from szilard.attention.uncomp.plan import calibrate_uncomp
from szilard_zoo import scenes

STEP = 6  # of the answer, whose reading is shown
READ, ALL, CHOOSES, STORED = "#4269d0", "#97bbf5", "#efb118", "#d9dbe4"
QUESTION = (
    "The key to the cellar hangs behind the kitchen door. The garage opens with 7214. The old bicycle belongs to Hana. "
    "Which number opens the garage?"
)


SCENES, SIDE, PATCHES, MARGIN = 4, 160, 8, 14  # pictures, their side in pixels and in patches, space around them
SCENE_QUESTION = "how many stars are there ?"


# ---- TidalDecode --------------------------------------------------------------------------------------------------


def tidal_decode() -> str:
    """What every layer reads for one token of an answer."""
    engine: Any = szilard.load(engine="transformers")
    method = szilard.TidalDecode(budget=12, dense_layers=2, reselect_layers=(13,), per="layer")
    chosen: list[dict[int, torch.Tensor | None]] = []
    select = TidalSession.select

    def watched(session: TidalSession, call: Any) -> torch.Tensor | None:
        slots = select(session, call)
        if not call.index:
            chosen.append({})
        chosen[-1][call.index] = slots
        return slots

    with mock.patch.object(TidalSession, "select", watched):
        result = engine.generate(QUESTION, attention=method, max_new_tokens=STEP + 1, trace=True)
    written = [step.text or "" for step in result.trace]
    prompt = [engine.tokenizer.decode([one]) for one in engine.encode([QUESTION])["input_ids"][0].tolist()]
    seen = [_shown(text) for text in [*prompt, *written[:STEP]]]
    cells = []
    for index in range(len(chosen[0])):
        slots = chosen[STEP - 1][index]
        reads = set(range(len(seen))) if slots is None else set(slots.flatten().tolist())
        colour = READ if slots is not None else CHOOSES if index in (2, 13) else ALL
        cells.append([Cell(colour) if place in reads else Cell() for place in range(len(seen))])
    title = f"{engine.name}: what each layer reads while it writes {written[STEP].strip()!r}"
    grid = Grid(title, cells, [f"layer {at}" if at % 5 == 0 else "" for at in range(len(cells))], seen, upright=True)
    legend = [(ALL, "reads all"), (CHOOSES, f"reads all, chooses {method.budget}"), (READ, "reads the chosen")]
    return grid_picture.picture([grid], legend, side=(10.5, 9))


def _shown(text: str) -> str:
    return text.strip().replace("\n", " ")[:14] or "·"


# ---- UnComp -------------------------------------------------------------------------------------------------------


def uncomp() -> str:
    """Matrix entropy of all key-value heads, and who gets the larger budget."""
    engine: Any = szilard.load(engine="transformers")
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    ids = engine.tokenizer(text).input_ids
    texts = [ids[start : start + 256] for start in range(0, 1024, 256)]
    plan = calibrate_uncomp(engine.model, texts)
    entropies, groups = plan.head_entropy, plan.head_group(2)
    low, high = min(map(min, entropies)), max(map(max, entropies))
    rows = []
    for head in range(plan.kv_heads):
        row = []
        for layer in range(plan.layers):
            fill, ink = heat((entropies[layer][head] - low) / (high - low))
            row.append(Cell(fill, "512" if groups[layer][head] else "", ink))
        rows.append(row)
    title = f"{engine.name}: matrix entropy of the queries, by key-value head and layer"
    names = [str(layer) if layer % 5 == 0 else "" for layer in range(plan.layers)]
    grid = Grid(title, rows, [f"head {head}" for head in range(plan.kv_heads)], names)
    legend = [(heat(share)[0], f"{low + share * (high - low):.2f}") for share in (0.0, 0.5, 1.0)]
    legend.append(("#ffffff", "512: the larger budget, the others 256"))
    return grid_picture.picture([grid], legend, side=(23, 26))


# ---- Window-Diffusion ---------------------------------------------------------------------------------------------


def window_diffusion() -> str:
    """Which columns every round computes, reads and leaves out, under two caches."""
    engine: Any = szilard.load("zoo/tiny-diffusion", dtype="float32")
    runs = {
        "DualCache(), blocks of 16": (szilard.DualCache(), szilard.ThresholdUnmask(block_length=16)),
        "WindowDiffusion(external=24, internal=8, refresh=12), no blocks": (
            szilard.WindowDiffusion(external=24, internal=8, refresh=12),
            szilard.ThresholdUnmask(block_length=None),
        ),
    }
    grids = []
    for title, (cache, rule) in runs.items():
        plans: list[Any] = []
        with _watched(type(cache), plans):
            engine.generate(STORY, rule, attention=cache, max_new_tokens=48, raw=True)
        width = max(int(plan.wanted.max()) for plan in plans) + 1
        cells = [list(_columns(plan, width)) for plan in plans]
        names = [f"round {at + 1}" if at % 5 == 0 else "" for at in range(len(cells))]
        grids.append(Grid(f"{title}: {len(cells)} rounds", cells, names, [""] * width))
    legend = [
        (CHOOSES, "computed, with logits"),
        (READ, "computed"),
        (STORED, "read as stored"),
        ("#ffffff", "left out"),
    ]
    return grid_picture.picture(grids, legend, side=(10.5, 6.5))


def _columns(plan: Any, width: int) -> Iterator[Cell]:
    computed = set(range(width)) if plan.computed is None else set(plan.computed[0].tolist())
    wanted = set(plan.wanted[0][plan.inside[0]].tolist())
    seen = [True] * width if plan.visible is None else plan.visible[0].tolist() + [False] * width
    for column in range(width):
        if column in wanted:
            yield Cell(CHOOSES)
        elif column in computed:
            yield Cell(READ)
        else:
            yield Cell(STORED if seen[column] else None)


@contextmanager
def _watched(cache: Any, plans: list[Any]) -> Iterator[None]:
    """Keep what the rounds of a run compute."""
    opened = cache.open

    def open_(policy: Any, state: Any) -> Any:
        run = opened(policy, state)
        inner = run.plans

        def told(*arguments: Any) -> Iterator[Any]:
            for rows, plan in inner(*arguments):
                plans.append(plan)
                yield rows, plan

        run.plans = told
        return run

    with mock.patch.object(cache, "open", open_):
        yield


# ---- concepts -----------------------------------------------------------------------------------------------------


def concept_alignment() -> str:
    """Cosines of every concept's direction with every concept's probe."""
    engine: Any = szilard.load(engine="transformers")
    states = szilard.concept_states(engine, pairs_in_context(), layer=10)
    found = szilard.concept_alignment(states, null_permutations=0)
    cells = [[_cosine(float(value)) for value in row] for row in found.matrix]
    title = f"{engine.name}, layer 10: 100 × cosine of a concept's direction (row) and a probe (column)"
    grid = Grid(title, cells, found.names, found.names, upright=True)
    legend = [(_shade(value), f"{value:+.1f}" if value else "0") for value in (-0.5, 0.0, 0.5, 1.0)]
    return grid_picture.picture([grid], legend, side=(30, 20))


def _cosine(value: float) -> Cell:
    return Cell(_shade(value), str(round(100 * value)), "#ffffff" if abs(value) > 0.55 else "#333")


def _shade(value: float) -> str:
    """White at 0, towards blue above, towards red below."""
    end = (0x2B, 0x50, 0xB8) if value > 0 else (0xD1, 0x49, 0x5B)
    share = min(1.0, abs(value))
    return "#{:02x}{:02x}{:02x}".format(*(round(255 + (colour - 255) * share) for colour in end))


# ---- EntropyPrune -------------------------------------------------------------------------------------------------


def entropy_prune() -> str:
    """Which patches of four scenes stay after the first layer."""
    engine: Any = szilard.load("zoo/tiny-vlm", engine="transformers")
    method = szilard.EntropyPrune(layer=1, keep=16)
    shown, parts = SIDE / PATCHES, []
    for number in range(SCENES):
        image = scenes.render(scenes.random_scene(random.Random(f"picture {number}")))
        inputs = engine.encode([SCENE_QUESTION], images=[[image]])
        with method(engine.model) as run:
            engine.model.generate(**inputs, max_new_tokens=1)
        kept = set(run.kept_visual[0].flatten().tolist())
        file = io.BytesIO()
        image.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        at = f'width="{SIDE}" height="{SIDE}" style="image-rendering: pixelated"'
        cover = "".join(
            f'<rect x="{place % PATCHES * shown:g}" y="{place // PATCHES * shown:g}" width="{shown:g}" '
            f'height="{shown:g}" fill="#ffffff" fill-opacity="0.86"/>'
            for place in range(PATCHES**2)
            if place not in kept
        )
        left = MARGIN + number * (SIDE + MARGIN)
        parts.append(
            f'<defs><image id="scene{number}" {at} href="data:image/png;base64,{data}"/></defs>'
            f'<use href="#scene{number}" x="{left}" y="{MARGIN}"/>'
            f'<use href="#scene{number}" x="{left}" y="{2 * MARGIN + SIDE}"/>'
            f'<g transform="translate({left},{2 * MARGIN + SIDE})">{cover}'
            f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#bbb"/></g>'
        )
    width, height = MARGIN + SCENES * (SIDE + MARGIN), 3 * MARGIN + 2 * SIDE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img">\n<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


PICTURES: dict[str, Callable[[], str | None]] = {
    "tidal-decode": tidal_decode,
    "uncomp": uncomp,
    "window-diffusion": window_diffusion,
    "concept-alignment": concept_alignment,
    "entropy-prune": entropy_prune,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="methods, separated by commas")
    write(PICTURES, [name for name in parser.parse_args(arguments).only.split(",") if name])


if __name__ == "__main__":
    main()
