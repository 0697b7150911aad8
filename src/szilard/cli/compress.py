"""`szilard compress`: a context in fewer tokens, printed, or kept for later prompts."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from szilard.cli import options as o
from szilard.cli.loading import load_engine, note
from szilard.options import parse_option
from szilard.registry import compressor_class, make_compressor

BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget", "-b", help="A share of the tokens (0.33) or a number of them (200); default: the method's."
    ),
]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Folder that keeps compressed contexts by id.")]


def compress_command(
    contexts: Annotated[
        list[Path] | None, typer.Argument(help="Files of text; '-' or nothing: standard input.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="A compressor from `szilard methods`.")] = "llmlingua2",
    set_: o.SetOption = None,
    budget: BudgetOption = None,
    model: o.ModelOption = None,
    store: StoreOption = None,
    id_: Annotated[str | None, typer.Option("--id", help="With --store: the entry's name; default: file name.")] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="With --store: also keep the model's keys and values of the context.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the text to this file.")] = None,
    html: o.HtmlOption = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    json_: o.JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the text.")] = False,
) -> None:
    """Shorten contexts: drop words (text for any model), or make vectors for one model.

    A text is printed; vectors go into a --store, from which `szilard generate --store DIR --context ID` takes them.
    """
    from szilard.compression.door import compress
    from szilard.compression.method import check_budget
    from szilard.compression.store import ContextStore, check_id, check_stores
    from szilard.compression.text import CompressedText

    cls = compressor_class(method)
    chosen = make_compressor(cls, dict(parse_option(cls, text) for text in set_ or ()))
    share = _budget(budget)
    check_budget(share)
    for file in (output, html):
        o.check_writable(file)
    names, texts = _read(contexts)
    soft = chosen.gives == "soft prompt"
    if soft and store is None:
        raise ValueError(f"{chosen.slug} makes vectors, which cannot be printed: give --store FOLDER to keep them.")
    if soft and (output is not None or html is not None):
        raise ValueError(f"{chosen.slug} makes vectors: --output and --html are for compressors that give text.")
    if store is None and (id_ is not None or cache):
        raise ValueError("--id and --cache belong to --store FOLDER.")
    if id_ is not None and len(texts) > 1:
        raise ValueError(f"--id names one entry, but there are {len(texts)} contexts: leave it out.")
    shelf = None if store is None else ContextStore(store)
    ids = [] if store is None else [id_] if id_ is not None else _ids(names)
    for one in filter(None, ids):
        check_id(one)
    needs_model = soft or cache or model is not None or bool(chosen.needs)
    if not chosen.needs or soft:  # a compressor that asks a language model is checked with it
        chosen.check()
    loaded = load_engine(model, engine, device, dtype) if needs_model else None
    if cache and loaded is not None:
        check_stores(loaded)
    made: list[Any] = compress(texts, chosen, share, engine=loaded)  # type: ignore[assignment]
    rows = []
    for place, (name, found) in enumerate(zip(names, made, strict=True)):
        row: dict[str, Any] = {"context": name, "method": chosen.slug}
        if isinstance(found, CompressedText):
            row |= found.to_dict()
        else:
            row |= {"positions": found.positions, "original_tokens": found.original_tokens, "rate": found.rate}
        if shelf is not None:
            row["id"] = shelf.put(found, ids[place], engine=loaded if cache else None)
        rows.append(row)
    text = "\n\n".join(found.text for found in made if isinstance(found, CompressedText))
    if output is not None:
        o.write_text(output, text)
    if html is not None:
        from szilard.compression.page import compression_page

        o.write_text(html, compression_page(made))
    if json_:
        print(json.dumps(rows if len(rows) > 1 else rows[0], ensure_ascii=False))
        return
    if output is None and shelf is None:
        print(text)
    if not quiet:
        for row in rows:
            shown = "positions" if "positions" in row else "compressed_tokens"
            kept = f" kept as {row['id']!r} in {store}" if shelf is not None else ""
            note(
                f"{chosen.slug}: {row['original_tokens']} -> {row[shown]} {shown.rpartition('_')[2]} "
                f"({row['rate']:.0%}){kept}"
            )


def _ids(names: list[str]) -> list[str | None]:
    """What entries are called after their files: characters that no id has become dashes; None: by their contents.

    Raises:
        ValueError: two files would be one entry.
    """
    found = [
        None if name == "-" else re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).lstrip("._-")[:128] or None
        for name in names
    ]
    named = [one for one in found if one is not None]
    if twice := sorted({one for one in named if named.count(one) > 1}):
        raise ValueError(f"two files would be kept as {twice[0]!r}: give them one by one, each with its --id.")
    return found


def context_from(context: list[str] | None, store: Path | None) -> Any:
    """What `engine.generate` takes for `--context FILE` or, with a store, `--context ID`; None: nothing given.

    Raises:
        ValueError: no such file or entry.
    """
    if not context:
        if store is not None:
            raise ValueError("--store needs --context ID, the entry to use.")
        return None
    if store is not None:
        from szilard.compression.store import ContextStore

        shelf = ContextStore(store)
        return [shelf.get(name) for name in context]
    return _read([Path(name) for name in context])[1]


def _budget(text: str | None) -> float | int | None:
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"--budget is a share in (0, 1] or a whole number of tokens, not {text!r}.")


def _read(files: list[Path] | None) -> tuple[list[str], list[str]]:
    from szilard.records import read_text

    names, texts = [], []
    for file in files or [Path("-")]:
        if str(file) == "-":
            if not files and sys.stdin.isatty():
                raise ValueError("give files of text, as in: szilard compress notes.txt --budget 0.33")
            text = sys.stdin.read()
        elif not file.is_file():
            raise ValueError(f"there is no file {str(file)!r}.")
        else:
            text = read_text(file)
        if not text.strip():
            raise ValueError(f"{'standard input' if str(file) == '-' else repr(str(file))} holds no text.")
        names.append(str(file))
        texts.append(text)
    return names, texts
