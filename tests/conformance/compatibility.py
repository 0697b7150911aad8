"""Every pair of methods, tried on tiny models: what works, and what is refused with which sentence.

    python -m tests.conformance.compatibility     # tries all pairs and writes docs/compatibility.md (some minutes)

A pair works if it decodes and each row of a batch gets the tokens that it gets alone; it is refused by a `ValueError`
before any token was written. Whatever else happens is a bug, and ends the command. Parts that are trained have random
weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import szilard
from szilard.engines import TransformersEngine
from tests.attention.routers import deciding_routers
from tests.conftest import PAD, tiny_model, tiny_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
NEW = 8  # tokens
PROMPTS = [torch.arange(10, 30), torch.tensor([11, 12, 13, 11, 12, 13, 11]), torch.arange(40, 52)]
CANVAS_PROMPTS = [torch.tensor([5, 6, 7, 8, 9]), torch.tensor([10, 11, 12]), torch.tensor([13, 14, 15, 16])]
WORKS = ""  # as an outcome; any other text is the sentence of a refusal

ENTRIES = szilard.methods()
WRITERS = [slug for slug, one in ENTRIES.items() if one.kind == "method" and "denoising" not in one.needs]
RULES = [slug for slug, one in ENTRIES.items() if one.kind == "method" and "denoising" in one.needs]
ATTENTION = [slug for slug, one in ENTRIES.items() if one.kind == "attention" and "denoising" not in one.needs]
CANVASES = [slug for slug, one in ENTRIES.items() if one.kind == "attention" and "denoising" in one.needs]

SMALL: dict[str, dict[str, Any]] = {  # settings of attention methods that act on prompts of a few tokens
    "tidal-decode": {"budget": 4, "dense_layers": 0, "reselect_layers": (1,)},
    "quest": {"budget": 6, "page": 2, "dense_layers": 1},
    "snapkv": {"budget": 6, "window": 2, "kernel": 3},
    "pyramidkv": {"budget": 6, "window": 2, "kernel": 3},
    "streaming-llm": {"budget": 6, "sinks": 2},
    "h2o": {"budget": 6},
    "tova": {"budget": 6},
    "uncomp": {"groups": "random", "budgets": (4, 8), "window": 2, "kernel": 3},
    "entropy-prune": {"layer": 1, "keep": 1, "span": (1, 3)},
    "first": {"routers": deciding_routers(), "rate": 0.34, "protect": (0,)},
    "layer-skip": {"layers": (1,)},
} | {
    slug: {"budget": 6, "sinks": 1, "recent": 1}
    for slug in ("knorm", "keydiff", "expected-attention", "random-eviction")
}


@cache
def engine() -> TransformersEngine:
    """The tiny Llama in float64, so that no batch changes which token is likeliest."""
    return TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")


@cache
def ladir_folder() -> tempfile.TemporaryDirectory[str]:
    """An untrained reasoner on disk."""
    from szilard.reasoning.ladir.checkpoint import write_checkpoint
    from tests.reasoning.ladir_model import tiny_engine, tiny_reasoner

    folder = tempfile.TemporaryDirectory()
    reasoner = tiny_reasoner()
    write_checkpoint(reasoner, reasoner.vae, Path(folder.name) / "reasoner", tiny_engine())
    return folder


@cache
def ladir_engine() -> Any:
    """The engine on its tuned model."""
    return szilard.load(Path(ladir_folder().name) / "reasoner", device="cpu", dtype="float64")


def writer(slug: str) -> Any:
    """A decoding method in a setting that acts, and that draws nothing."""
    model = engine().model
    if slug in _RANDOM:
        return _RANDOM[slug](model)
    settings: dict[str, dict[str, Any]] = {
        "sampling": {"top_k": 1},
        "beam-search": {"beams": 2},
        "lead": {"window": 3},
        "swi-reasoning": {"window": 3},
        "adadec": {"threshold": 1.0},
        "ead": {"large": model, "threshold": 5.0, "min_duration": 2},
        "draft-model": {"draft": model},
        "latent-sft": {"top_k": 4, "think_open": None, "think_close": None, "max_latent_steps": 3},
        "ladir": {"num_steps": 2, "max_blocks": 1},
    }
    return szilard.make_method(slug, settings.get(slug))


def _random(module: str, config: str, cls: Any) -> Callable[[Any], Any]:
    def made(_: Any) -> Any:
        from importlib import import_module

        from szilard.speculative import draft_config
        from szilard.training.target import Target

        name = getattr(draft_config, config)
        objective = getattr(import_module(f"szilard.speculative.{module}.training"), f"{config[:-6]}Objective")
        torch.manual_seed(4)
        drafter = objective.build(Target(engine()), name()).double().eval()
        for parameter in drafter.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return cls(drafter=drafter)

    return made


def _lud(model: Any) -> Any:
    from szilard.speculative.lud.adapter import LudAdapter

    torch.manual_seed(1)
    width, vocab = model.get_input_embeddings().weight.shape[::-1]
    adapter = LudAdapter(base={"hidden_size": width, "vocab_size": vocab}, shapes={})
    torch.nn.init.normal_(adapter.placeholder)
    return szilard.Lud(adapter=adapter.double(), beta=0.05, window=4, verify=True, stop_repeats=False)


def _caad(_: Any) -> Any:
    from szilard.decoding.grounding import GroundingSpace
    from tests.decoding.test_caad import EXAMPLES, bag_of_words

    space = GroundingSpace.build(engine(), examples=EXAMPLES, encoder=bag_of_words, context=8, dtype=torch.float64)
    return szilard.Caad(space=space)


_RANDOM: dict[str, Callable[[Any], Any]] = {
    "medusa": _random("medusa", "MedusaConfig", szilard.Medusa),
    "chimera": _random("chimera", "ChimeraConfig", szilard.Chimera),
    "flash": _random("flash", "FlashConfig", szilard.Flash),
    "hidden-transfer": _random("hidden_transfer", "HiddenTransferConfig", szilard.HiddenTransfer),
    "lud": _lud,
    "caad": _caad,
}


def attempt(run: Callable[[list[Any]], list[list[int]]], prompts: Sequence[Any]) -> str:
    """WORKS, or the sentence of a refusal.

    Raises:
        AssertionError: a row gets other tokens in a batch than alone; and whatever else was raised.
    """
    try:
        together = run(list(prompts))
    except ValueError as error:
        return " ".join(str(error).split())
    for row, prompt in enumerate(prompts):
        (alone,) = run([prompt])
        assert together[row][: len(alone)] == alone[: len(together[row])], (row, together[row], alone)
    return WORKS


def pair(method: str, under: str | None) -> str:
    """The outcome of a decoding method under an attention method on PyTorch."""
    own = ladir_engine() if method == "ladir" else engine()
    made = writer(method)

    def run(prompts: list[Any]) -> list[list[int]]:
        attention = None if under is None else szilard.make_attention(under, SMALL.get(under))
        found = own.generate(prompts, made, attention=attention, max_new_tokens=NEW, suppress_tokens=[PAD], trace=False)
        return [result.tokens for result in found]

    return attempt(run, PROMPTS)


def on_llama_cpp(method: str, model: Any) -> str:
    """The outcome of a decoding method on llama.cpp."""
    from szilard.engines.transformers_generate import check_needs
    from tests.speculative.test_llama_cpp import opened

    own = writer(method)
    try:
        check_needs(own, model.provides, "engine 'llama.cpp'")
        if method in ("ead", "draft-model", "caad"):
            return (
                WORKS  # with a second model, or a space, on the same engine: tests/engines/test_llama_cpp_adaptive.py
            )
        own.check(SimpleNamespace(kind="llama.cpp", name="a GGUF file", vocab_size=97, fingerprint=None))
    except ValueError as error:
        return " ".join(str(error).split())
    answers = []
    for rows in (4, 1):
        state = opened(model, rows, new=NEW)
        own.decode(state)
        answers.append(state.generated_tokens())
        state.close()
    return WORKS


def canvas(rule: str, under: str | None) -> str:
    """The outcome of a rule that fills a canvas under a canvas cache."""
    from tests.conformance import test_every_diffusion_method as diffusion

    own = diffusion.engine()

    def run(prompts: list[Any]) -> list[list[int]]:
        cache = None if under is None else diffusion.small_cache(under)
        made = diffusion.rule(rule)
        return [one.tokens for one in own.generate(prompts, made, attention=cache, max_new_tokens=NEW, trace=False)]

    return attempt(run, CANVAS_PROMPTS)


# ---- the page


HEAD = """# What works with what

Every pair was run on tiny models, in a batch and alone, and is tried again by the tests. ✓: it works, and every row
of a batch gets what it gets alone. A number: it is refused before any work, with the sentence below. Parts that are
trained had random weights. Written by `python -m tests.conformance.compatibility`.

"""


def page() -> str:
    """The whole of docs/compatibility.md."""
    reasons: list[str] = []
    parts = [
        HEAD,
        "## Decoding methods under cache and attention methods\n\n",
        "On PyTorch: `--method lead+snapkv`, or `attention=`.\n\n",
    ]
    parts.append(_table(WRITERS, ATTENTION, pair, reasons))
    parts.append("\n## Rules of diffusion models under canvas caches\n\n")
    parts.append(_table(RULES, CANVASES, canvas, reasons))
    parts.append("\n## Engines\n\n")
    parts.append(_engines(reasons))
    parts.append("\n## Reasons\n\n")
    parts += [f"{number}. {reason}\n" for number, reason in enumerate(reasons, start=1)]
    return "".join(parts)


def _table(rows: Sequence[str], columns: Sequence[str], tried: Callable[..., str], reasons: list[str]) -> str:
    lines = [f"| | alone | {' | '.join(columns)} |", f"|---|{'---|' * (len(columns) + 1)}"]
    for row in rows:
        cells = [_cell(tried(row, column), row, column, reasons) for column in (None, *columns)]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(outcome: str, row: str, column: str | None, reasons: list[str]) -> str:
    if outcome == WORKS:
        return "✓"
    told = (
        outcome.replace(f"method '{row}'", "the method")
        .replace(f"'{row}'", "the method")
        .replace(f"'{column}'", "the attention method")
    )
    told = told[:1].upper() + told[1:]
    if told not in reasons:
        reasons.append(told)
    return str(1 + reasons.index(told))


def _engines(reasons: list[str]) -> str:
    from szilard.engines.llama_cpp_model import LlamaModel
    from tests.speculative import tiny_gguf

    lines = ["| | PyTorch | llama.cpp (GGUF) |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        model = LlamaModel(tiny_gguf.write(Path(folder) / "tiny.gguf"), "tiny", 1)
        for slug in WRITERS:
            lines.append(f"| `{slug}` | ✓ | {_cell(on_llama_cpp(slug, model), slug, None, reasons)} |")
    return "\n".join(lines) + "\n"


def cells(text: str, rows: Sequence[str], columns: Sequence[str | None]) -> dict[tuple[str, str | None], str]:
    """The cells of the page's table with these columns: "✓" or a number, by row and column."""
    wanted = ["alone" if column is None else column for column in columns]
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if [one.strip() for one in line.split("|")][2:-1] == wanted)
    found = {}
    for line in lines[start + 2 : start + 2 + len(rows)]:
        name, *values = [one.strip() for one in line.strip("|").split("|")]
        found |= {(name.strip("`"), column): value for column, value in zip(columns, values, strict=True)}
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
