"""`szilard doctor`: what is installed, what is missing, and the line that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from szilard.cli.installing import as_installed, missing_by_extra
from szilard.cli.loading import errors, load_engine
from szilard.cli.options import DeviceOption, DtypeOption, EngineOption, JsonOption, ModelOption
from szilard.engines.cache import cache_folder

_CORE = ("torch", "transformers", "safetensors", "pyarrow")


def doctor_command(
    json_: JsonOption = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure what forwards of a model cost here; drafters choose by it.")
    ] = False,
    model: ModelOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Check the installation, or with --profile measure a model's forwards on this machine."""
    if profile:
        _profile(model, engine, device, dtype, json_)
        return
    import torch

    checks: list[dict[str, Any]] = []
    for package in _CORE:
        try:
            checks.append({"what": package, "ok": True, "found": importlib.metadata.version(package)})
        except importlib.metadata.PackageNotFoundError:
            checks.append({"what": package, "ok": False, "found": "not installed"})
    for extra, absent in missing_by_extra().items():
        found = f"missing: {', '.join(absent)}" if absent else "all there"
        mend = as_installed(f"pip install 'szilard[{extra}]'") if absent else None
        checks.append({"what": f"extra {extra}", "ok": True, "found": found, "mend": mend})
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        accelerators.append("mps")
    checks.append(
        {"what": "accelerator", "ok": True, "found": ", ".join(accelerators) or "none: models run on the CPU"}
    )
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    checks.append({"what": "python", "ok": True, "found": f"{platform.python_version()}, torch uses {threads}"})
    folder = cache_folder()
    probe = folder if folder.exists() else next(p for p in folder.parents if p.exists())
    free = shutil.disk_usage(probe).free / 2**30
    writable = os.access(probe, os.W_OK)
    checks.append(
        {
            "what": "cache",
            "ok": writable and free > 1,
            "found": f"{folder} ({free:.0f} GiB free{'' if writable else ', not writable'})",
            "mend": None if writable and free > 1 else "set SZILARD_CACHE to a folder with room",
        }
    )
    if json_:
        print(json.dumps(checks))
    else:
        console = Console()
        for check in checks:
            mark = "[green]ok[/green]" if check["ok"] and not check.get("mend") else "[yellow]--[/yellow]"
            mark = mark if check["ok"] else "[red]no[/red]"
            mend = f"  [dim]{escape(check['mend'])}[/dim]" if check.get("mend") else ""
            console.print(f" {mark}  {check['what']:<18} {check['found']}", end="", highlight=False)
            console.print(mend, highlight=False, soft_wrap=True)
    if not all(check["ok"] for check in checks):
        raise ValueError("the installation is not whole: see the lines marked 'no'.")


def _profile(model: str | None, engine: str, device: str | None, dtype: str, as_json: bool) -> None:
    from szilard.engines.step_profile import measure

    loaded = load_engine(model, engine, device, dtype)
    with Progress(TextColumn("forwards"), BarColumn(), TimeRemainingColumn(), console=errors, transient=True) as bar:
        line = bar.add_task("")
        found = measure(loaded, progress=lambda done, total: bar.update(line, completed=done, total=total))
    if as_json:
        print(json.dumps({"model": found.model, "tokens": found.tokens, "seconds": found.seconds}))
        return
    print(f"{found.model}: one forward over so many tokens")
    print("tokens      ms  in steps of one")
    for tokens, seconds in zip(found.tokens, found.seconds, strict=True):
        print(f"{tokens:>6} {1000 * seconds:>7.1f} {seconds / found.seconds[0]:>16.2f}")
