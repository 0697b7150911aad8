"""How long it takes until something happens: imports, the command line, loading. Every run is a fresh process.

python benchmarks/startup.py [--save]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from results_store import Store

COMMANDS = {
    "python": "pass",
    "import torch": "import torch",
    "import szilard": "import szilard",
    "import szilard; szilard.load": "import szilard; szilard.load",
    "szilard --help": "import sys; sys.argv = ['szilard', '--help']; from szilard.cli.main import run; run()",
    "szilard methods": "import sys; sys.argv = ['szilard', 'methods']; from szilard.cli.main import run; run()",
    "szilard.load() of the embedded model": "import szilard; szilard.load()",
}
PEAK = """
try:
    {}
finally:
    import sys
    print("peak", *[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")], file=sys.stderr)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the medians in results/startup.jsonl")
    arguments = parser.parse_args()
    store = Store("startup")
    for what, code in COMMANDS.items():
        seconds, memory = [], []
        for _ in range(arguments.runs):
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", PEAK.format(code)], capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - start)
            memory.append(int(done.stderr.split("peak")[-1]) / 1024)
        values = {"seconds": round(statistics.median(seconds), 3), "megabytes": round(statistics.median(memory))}
        print(f"{what:<40} {values}", flush=True)
        if arguments.save:
            store.add({"what": what}, values)


if __name__ == "__main__":
    main()
