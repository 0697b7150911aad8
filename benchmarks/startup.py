"""How long it takes until something happens: imports, the command line, loading. Every run is a fresh process.

python benchmarks/startup.py [--save]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

from results_store import Store

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import szilard": ["-c", "import szilard"],
    "import szilard; szilard.load": ["-c", "import szilard; szilard.load"],
    "szilard --help": ["-m", "szilard", "--help"],
    "szilard methods": ["-m", "szilard", "methods"],
    "szilard.load() of the embedded model": ["-c", "import szilard; szilard.load()"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the medians in results/startup.jsonl")
    arguments = parser.parse_args()
    store = Store("startup")
    for what, command in COMMANDS.items():
        seconds, memory = [], 0.0
        for _ in range(arguments.runs):
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, _, usage = _wait(process)
            seconds.append(time.perf_counter() - start)
            memory = usage.ru_maxrss / 1024
        values = {"seconds": round(statistics.median(seconds), 3), "megabytes": round(memory)}
        print(f"{what:<40} {values}", flush=True)
        if arguments.save:
            store.add({"what": what}, values)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    found = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(found[1])
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return found


if __name__ == "__main__":
    main()
