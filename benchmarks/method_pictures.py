"""Pictures of real traces for the methods' pages: what a method did at every step, on models that come along.

python benchmarks/method_pictures.py [--only lead,edt]     # writes docs/pictures/traces/*.svg; five minutes
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speculative_decoding import shallow

import szilard

FOLDER = Path(__file__).parent.parent / "docs" / "pictures" / "traces"
WORDS = "Tom has 3 boxes with 12 pencils each and gives away 7 pencils. How many are left? Think step by step."
SKY = "Why is the sky blue? Answer in two sentences."
AGAIN = "Repeat this list twice, word for word: red apples, green pears, yellow bananas, ripe plums."
LAYERS = 26  # of the model's 30, which draft for it: too slow to be of use, and shows what a draft model does


@dataclass(frozen=True)
class Shown:
    """A run.

    Attributes:
        prompt, tokens: what is asked.
        options: hyperparameters.
        run: arguments of `generate`.
        model: that runs it.
        attention: the options are those of a cache or attention method, under greedy decoding.
        drafts_itself: the draft model is the first layers of the model itself.
    """

    prompt: str = WORDS
    tokens: int = 72
    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    attention: bool = False
    drafts_itself: bool = False


RUNS = {
    "lead": Shown(),
    "swi-reasoning": Shown(options={"window": 16}),
    "soft-thinking": Shown(tokens=48),
    "adadec": Shown(options={"threshold": 1.5}),
    "edt": Shown(SKY, run={"do_sample": True, "temperature": 1.0, "seed": 3}),
    "aded": Shown(AGAIN),
    "prompt-lookup": Shown(AGAIN),
    "draft-model": Shown(options={"budget": "fixed"}, drafts_itself=True),
    "medusa": Shown(options={"drafter": "zoo/smollm2-medusa"}),
    "snapkv": Shown(AGAIN, options={"budget": 32, "window": 8}, attention=True),
    "latent-sft": Shown("7 + 5 - 3 + 8", 40, model="zoo/tiny-latent"),
}


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="methods, separated by commas")
    wanted = parser.parse_args().only.split(",")
    engines: dict[str | None, Any] = {}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for slug, shown in RUNS.items():
        if wanted != [""] and slug not in wanted:
            continue
        if shown.model not in engines:
            engines[shown.model] = szilard.load(shown.model, engine="transformers")
        engine = engines[shown.model]
        drafts = {"draft": shallow(engine.model, LAYERS)} if shown.drafts_itself else {}
        method = "greedy" if shown.attention else szilard.make_method(slug, shown.options | drafts)
        attention = szilard.make_attention(slug, shown.options) if shown.attention else None
        found = engine.generate(
            shown.prompt, method, attention=attention, max_new_tokens=shown.tokens, trace=True, **shown.run
        )
        told = {"draft": f"its first {LAYERS} layers"} if shown.drafts_itself else {}
        settings = ", ".join(f"{name}={value}" for name, value in (told | shown.options | shown.run).items())
        title = f"{engine.name}, {slug}" + (f" ({settings})" if settings else "")
        (FOLDER / f"{slug}.svg").write_text(found.trace.to_svg(title=title), encoding="utf-8")
        print(slug, found.trace.summary(), flush=True)


if __name__ == "__main__":
    main()
