"""A canvas that three rules fill side by side, as a page: docs/pictures/canvas.html.

python benchmarks/canvas_animation.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import szilard
from szilard.decoding.page import Run
from szilard.diffusion.canvas_page import render_canvas_page

PAGE = Path(__file__).parent.parent / "docs" / "pictures" / "canvas.html"
PROMPT = "story - - Ada Keller ->"
BLOCK = 32
RULES = {
    "one column per round": szilard.TopKUnmask(block_length=BLOCK),
    "threshold 0.9": szilard.ThresholdUnmask(block_length=BLOCK),
    "ETE: explore, then exploit": szilard.Ete(block_length=BLOCK),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="zoo/tiny-diffusion", help="in the place of the zoo's")
    parser.add_argument("--prompt", default=PROMPT)
    given = parser.parse_args()
    engine = szilard.load(given.checkpoint, dtype="float32")
    runs = []
    for title, method in RULES.items():
        result = engine.generate(given.prompt, method, max_new_tokens=64, raw=True)
        rounds = result.cost.total_forward_passes
        facts = {"tokens": len(result.tokens), "forward passes": rounds}
        facts["tokens per pass"] = round(len(result.tokens) / rounds, 2)
        runs.append(Run(title, given.prompt, result.trace, facts, subtitle=str(method)))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render_canvas_page(runs, title="One canvas, three rules"), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
