"""`szilard chat`: a conversation in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from szilard.cli import options as o
from szilard.cli.facts import facts
from szilard.cli.following import follow
from szilard.cli.loading import load_engine, note
from szilard.decoding.heatmap import heat_text

_HELP = "/method NAME [option=value ...], /heat (colour the last answer by entropy), /reset, /quit"


def chat_command(
    method: o.MethodOption = None,
    set_: o.SetOption = None,
    model: o.ModelOption = None,
    max_new_tokens: o.TokensOption = 512,
    sample: o.SampleOption = False,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    system: o.SystemOption = None,
    engine: o.EngineOption = "auto",
    device: o.DeviceOption = None,
    dtype: o.DtypeOption = "auto",
    compile_: o.CompileOption = False,
    quantize: o.QuantizeOption = None,
) -> None:
    """Talk to a model; switch the method in mid-conversation."""
    chosen = o.method_from(method, set_)
    sampling = o.sampling_from(sample, temperature, top_p, top_k)
    loaded = load_engine(model, engine, device, dtype, compile_, quantize)
    console = Console()
    start: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    turns, last = list(start), None
    console.print(Text(f"{loaded.name} with {chosen or 'plain decoding'}. {_HELP}"))
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not line:
            continue
        try:
            if line.startswith("/"):
                command, *words = line[1:].split()
                if command in {"quit", "exit", "q"}:
                    return
                if command == "reset":
                    turns = list(start)
                elif command == "heat" and last is not None and last.trace is not None:
                    console.print(heat_text(last.trace))
                elif command == "method" and words:
                    chosen = o.method_from(words[0], words[1:])
                    console.print(Text(f"now {chosen}", style="dim"))
                else:
                    console.print(_HELP, highlight=False, markup=False)
                continue
            asked = [*turns, {"role": "user", "content": line}]
            pieces = loaded.stream(asked, chosen, max_new_tokens=max_new_tokens, seed=seed, **sampling)
            try:
                last = follow(pieces)
            except KeyboardInterrupt:
                pieces.close()  # type: ignore[attr-defined]
                console.print("\n[dim]stopped; this turn is forgotten[/dim]")
                continue
            turns = [*asked, {"role": "assistant", "content": last.text}]
            note(", ".join(f"{k} {v}" for k, v in facts(last).items()))
        except (ValueError, TypeError) as error:
            note(str(error), "red")
