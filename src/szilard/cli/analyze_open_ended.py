"""`szilard analyze open-ended`: how varied, looped and copied what models write is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from szilard.cli import options as o
from szilard.cli.citations import check_cited
from szilard.cli.loading import errors, load_engine
from szilard.options import check_number

if TYPE_CHECKING:
    from szilard.training.hyperfitting.comparison import Compared

_COLUMNS = {  # of the summary and the predictions: heading, format
    "ttr": ("TTR", ".3f"),
    "repeated_bigrams": ("rep.", ".3f"),
    "loops": ("loops", ".0%"),
    "self_bleu": ("BLEU", ".3f"),
    "copy_rate": ("copied", ".1%"),
    "overlap_max": ("longest", ".0f"),
    "entropy": ("nats", ".2f"),
    "top_1": ("top-1", ".2f"),
    "perplexity": ("ppl", ".3g"),
    "agreement": ("same", ".0%"),
}
_LEGEND = {
    "ttr": "TTR: different tokens of the last 96",
    "repeated_bigrams": "rep.: repeated bigrams",
    "loops": "loops: texts that end in one",
    "self_bleu": "BLEU: of each text against the others",
    "copy_rate": "copied: 5-grams that were learned; longest: copied span in tokens",
    "entropy": "nats: entropy on the texts; top-1: first choice's probability; ppl: perplexity",
    "agreement": "same: first choices as the first model's",
}


def open_ended(
    data: Annotated[
        Path, typer.Option("--data", help="Held-out texts whose beginnings are continued (.jsonl, .csv, .txt ...).")
    ],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="A model; repeat it to compare, the original first.")
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option(
            "--trained-on", help="A hyperfitted model's folder, or its texts: look for copies, and block them."
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="The first model also by top-p, repetition penalty and temperature.")
    ] = False,
    contexts: Annotated[int, typer.Option("--contexts", help="At most so many texts.")] = 16,
    context_length: Annotated[int, typer.Option("--context-length", help="Tokens that are continued.")] = 32,
    max_new_tokens: o.TokensOption = 96,
    let_end: Annotated[bool, typer.Option("--let-end", help="Texts may end early; short ones look varied.")] = False,
    bleu: Annotated[bool, typer.Option("--bleu/--no-bleu", help="Self-BLEU (needs sacrebleu).")] = True,
    texts: Annotated[int, typer.Option("--texts", help="Print so many continuations of each.")] = 2,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Contexts at once.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of drawn continuations.")] = 0,
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Continue held-out texts and measure variety, loops, copies, entropy and perplexity of one or more models."""
    from szilard.engines.loading import find
    from szilard.training.corpus import read_corpus, read_texts
    from szilard.training.hyperfitting.comparison import compare_open_ended
    from szilard.training.hyperfitting.data import first_tokens, read_sequences

    for name, value, least in (("contexts", contexts, 1), ("context-length", context_length, 2), ("texts", texts, 0)):
        check_number(name, value, low=least, integer=True)
    check_number("max-new-tokens", max_new_tokens, low=2, integer=True)
    check_number("batch-size", batch_size, low=1, integer=True)
    check_number("seed", seed, low=0, integer=True)
    read_texts(data)  # bad data is told before a model is loaded
    check_cited(trained_on)
    names: list[str | None] = [*model] if model else [None]
    for named in names:
        find(named)
    opened: dict[int, Any] = {0: load_engine(names[0], "transformers", device, dtype)}
    first = opened[0]
    if first.kind != "transformers":
        raise ValueError(f"{first.name} does not write from left to right: name a causal language model.")
    first.check_length({"attention_mask": _ones(context_length)}, max_new_tokens)
    corpus = (example.ids for example in read_corpus(data, first))
    rows = first_tokens(corpus, context_length + max_new_tokens, contexts)
    title, tokenizer = first.name, first.tokenizer
    known = None if trained_on is None else read_sequences(trained_on, tokenizer)
    for named in names[1:]:
        _check_words(named, tokenizer, title)
    del first, corpus  # so that each model goes when the next is loaded

    def opener(place: int) -> Any:
        def opens() -> tuple[Any, Any]:
            engine: Any = opened.pop(place, None) or load_engine(names[place], "transformers", device, dtype)
            return engine.model, engine.tokenizer

        return opens

    shown = [Path(name).name if name else title for name in names]
    shown = shown if len(set(shown)) == len(shown) else [str(name or title) for name in names]
    with errors.status("writing") as status:
        found = compare_open_ended(
            [(name, opener(place)) for place, name in enumerate(shown)],
            rows,
            context_length=context_length,
            max_new_tokens=max_new_tokens,
            trained_on=known,
            baselines=baselines,
            bleu=bleu,
            exact_length=not let_end,
            batch_size=batch_size,
            seed=seed,
            progress=lambda text: status.update(escape(text)),
        )
    if as_json:
        print(json.dumps([row.as_dict() for row in found], ensure_ascii=False))
        return
    console = Console()
    console.print(_table(found))
    for at in range(min(texts, len(rows))):
        console.print(f"\n[bold]{escape(tokenizer.decode(rows[at, :context_length]))}[/bold] ...")
        for row in found:
            console.print(f"[dim]{escape(row.model)}, {escape(row.decoding)}:[/dim] {escape(row.written.texts[at])}")


def _check_words(name: str | None, tokenizer: Any, first: str) -> None:
    """Refuse a model of another tokenizer before anything is written; its weights are not loaded for it."""
    from transformers import AutoTokenizer

    from szilard.engines.gguf import tokenizer_of
    from szilard.engines.loading import find

    path, shown = find(name)
    try:
        if path is not None and path.suffix == ".gguf":
            own = tokenizer_of(path).get_vocab()
        else:
            own = AutoTokenizer.from_pretrained(str(path or name)).get_vocab()
    except (OSError, KeyError) as error:
        raise ValueError(f"no tokenizer of {shown!r} can be read: {' '.join(str(error).split())[:200]}") from error
    if own != tokenizer.get_vocab():
        raise ValueError(f"{shown} has other tokens than {first}: compare models of one tokenizer.")


def _ones(length: int) -> Any:
    import torch

    return torch.ones(1, length)


def _table(found: list[Compared]) -> Table:
    """A line per model and way of decoding."""
    tokens = found[0].written.summary["tokens"]
    title = f"{len(found[0].written.texts)} contexts, {tokens:.0f} new tokens"
    rows = [row.as_dict() for row in found]
    columns = [name for name in _COLUMNS if any(row.get(name) is not None for row in rows)]
    legend = ". ".join(text for name, text in _LEGEND.items() if name in columns) + "."
    table = Table(title=title, title_justify="left", caption=legend, caption_justify="left", box=SIMPLE, padding=0)
    table.add_column("model, decoding", min_width=16)
    for name in columns:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    for row in rows:
        cells = ["" if row.get(name) is None else format(row[name], _COLUMNS[name][1]) for name in columns]
        table.add_row(escape(f"{row['model']}, {row['decoding']}"), *cells)
    return table
