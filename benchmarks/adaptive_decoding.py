"""The claims of EAD, AdaDec, CAAD and the latent methods, each against its baselines and controls, on real tasks.

Results go to a Parquet store per part, `results/ead` and so on, from which the reproduction page is written; a run that was
killed goes on where it was. Programs that the models write are executed in a sandbox.

python benchmarks/adaptive_decoding.py ead --models MODELS --data DATA
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import szilard
from szilard import AdaDec, BeamSearch, Caad, Ead, Greedy, Lead, Sampling, SoftThinking, SwiReasoning
from szilard.decoding.adadec_threshold import fit_threshold
from szilard.decoding.grounding import GroundingSpace
from szilard.decoding.grounding_examples import read_examples
from szilard.decoding.sentence_encoder import load_encoder
from szilard.evaluation.runner import evaluate
from szilard.evaluation.store import ResultStore
from szilard.evaluation.tasks import make_task

SMALL, LARGE = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
FILES = {
    "humaneval": "HumanEval.jsonl.gz",
    "mbpp": "mbpp.jsonl",
    "gsm8k": "gsm8k_test.jsonl",
    "truthfulqa-mc": "TruthfulQA.csv",
    "truthfulqa-gen": "TruthfulQA.csv",
}
THRESHOLDS = (0.05, 0.2, 0.5, 1.0, 1.5)  # bits
CONTROLS = (0.2, 0.5, 1.0)  # whose switching rates the random control takes
STRIDES = {"truthfulqa-mc": 6, "truthfulqa-gen": 6}  # that file is sorted by category
LIMITS = {"gsm8k": 200, "mbpp": 200}


class Experiment:
    """Where models, data and results are, and how much of them is used."""

    def __init__(self, part: str, arguments: argparse.Namespace) -> None:
        self.data = arguments.data
        self.store = ResultStore(arguments.output / part)
        self.limit, self.shard, self.tasks = arguments.limit, arguments.shard, arguments.tasks
        self.size = arguments.size

    def run(self, engine: Any, slug: str, methods: dict[str, Any], *, batch_size: int = 1, tokens: int = 256) -> None:
        """Answer one task with these methods."""
        if self.tasks and slug not in self.tasks:
            return
        options: dict[str, Any] = {"allow_code_execution": True} if slug in ("humaneval", "mbpp") else {}
        if slug.startswith("truthfulqa"):
            options["split"] = "test"
        task = make_task(slug, options)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn()) as bar:
            line = bar.add_task(f"{slug}, {engine.name}")
            failed = evaluate(
                engine,
                task,
                list(methods.items()),
                self.store,
                items=task.items(self.data / FILES[slug])[:: STRIDES.get(slug, 1)],
                limit=self.limit or LIMITS.get(slug),
                shard=self.shard,
                max_new_tokens=tokens,
                batch_size=batch_size,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )
        for item, label, error in failed:
            print(f"{item} with {label} failed: {error}")

    def counts(self, slug: str, model: str, label: str) -> dict[str, float]:
        """Totals of a method's counters over its items."""
        totals: dict[str, float] = {}
        for row in self.store.table().to_pylist():
            if (row["task"], row["model"], row["method"]) == (slug, model, label):
                for name, value in json.loads(row["counters"]).items():
                    totals[name] = totals.get(name, 0) + value
        return totals

    def begun(self, slug: str, model: str, label: str) -> dict[str, Any] | None:
        """The options with which this method's results were begun: a control keeps its rates as more items come."""
        for row in self.store.table().to_pylist():
            if (row["task"], row["model"], row["method"]) == (slug, model, label):
                return json.loads(row["options"])
        return None


def ead(experiment: Experiment) -> None:
    """Both models alone, EAD at every threshold, and random switching with the rates of three of them."""
    small = szilard.load(SMALL, engine="llama.cpp")
    for slug in ("humaneval", "gsm8k"):
        methods: dict[str, Any] = {"greedy": Greedy()}
        methods |= {f"ead-{tau}": Ead(threshold=tau, large=LARGE) for tau in THRESHOLDS}
        methods["large-alone"] = Ead(threshold=0.0, start="large", large=LARGE)
        # These models explain at length: 256 tokens cut nearly every answer to a word problem.
        size, tokens = (16, 512) if slug == "gsm8k" else (8, 256)
        experiment.run(small, slug, methods, batch_size=size, tokens=tokens)
        controls = {}
        for tau in CONTROLS:
            seen = experiment.counts(slug, small.name, f"ead-{tau}")
            if not seen:
                continue
            rates = {
                "switch_up": round(seen["switches_up"] / max(seen["decisions_small"], 1e-9), 3),
                "switch_down": round(seen["switches_down"] / max(seen["decisions_large"], 1e-9), 3),
            }
            begun = experiment.begun(slug, small.name, f"random-{tau}")
            if begun is not None:
                rates = {name: begun[name] for name in rates}
            controls[f"random-{tau}"] = Ead(control="random", large=LARGE, **rates)
        experiment.run(small, slug, controls, batch_size=size, tokens=tokens)


def adadec(experiment: Experiment) -> None:
    """Greedy, AdaDec with the threshold that it learns on MBPP's training part, random pauses as often, and beams."""
    for name in (SMALL, LARGE):
        if experiment.size not in (None, "small" if name == SMALL else "large"):
            continue
        engine = szilard.load(name, engine="llama.cpp")
        file = experiment.store.folder.parent / f"adadec-{Path(name).stem}.json"
        if not file.is_file():
            train = make_task("mbpp", {"split": "train"}).items(experiment.data / FILES["mbpp"])
            fit_threshold(engine, [(item.prompt, item.reference["solution"]) for item in train], raw=True).save(file)
        threshold = round(json.loads(file.read_text())["threshold"], 4)
        for slug in ("humaneval", "mbpp"):
            methods: dict[str, Any] = {"greedy": Greedy(), "adadec": AdaDec(threshold=threshold)}
            experiment.run(engine, slug, methods, batch_size=8)
            seen = experiment.counts(slug, engine.name, "adadec")
            rate = round(seen["pauses"] / seen["steps"], 3) if seen else 0.07
            rate = (experiment.begun(slug, engine.name, "adadec-random") or {"random_rate": rate})["random_rate"]
            methods = {"adadec-random": AdaDec(pause="random", random_rate=rate)}
            methods |= {"beam-3": BeamSearch(beams=3), "beam-5": BeamSearch(beams=5)}
            experiment.run(engine, slug, methods, batch_size=8)


def caad(experiment: Experiment) -> None:
    """Greedy, CAAD grounded in ten questions, and the same retrieval with the stored logits shuffled."""
    engine = szilard.load(LARGE, engine="llama.cpp")
    folder = Path("caad-10")
    if not folder.is_dir():
        # The file is sorted by category: every 40th of the first 400 questions.
        examples = read_examples(experiment.data / FILES["truthfulqa-mc"], limit=400)[::40]
        GroundingSpace.build(engine, examples=examples, encoder=load_encoder("all-MiniLM-L6-v2")).save(folder)
    if not Path("caad-10-shuffled").is_dir():
        GroundingSpace.load(folder).shuffled().save("caad-10-shuffled")
    methods: dict[str, Any] = {"greedy": Greedy(), "caad": Caad("caad-10")}
    methods |= {f"caad-{threshold}": Caad("caad-10", similarity_threshold=threshold) for threshold in (0.5, 0.3)}
    methods["caad-0.3-shuffled"] = Caad("caad-10-shuffled", similarity_threshold=0.3)
    for slug in ("truthfulqa-mc", "truthfulqa-gen"):
        experiment.run(engine, slug, methods, tokens=64)


def latent(experiment: Experiment) -> None:
    """Greedy and sampling against LEAD, Soft Thinking and SwiReasoning."""
    engine = szilard.load(LARGE, engine="llama.cpp")
    methods = {
        "greedy": Greedy(),
        "sampling": Sampling(temperature=0.6, top_p=0.95, top_k=20),
        "lead": Lead(),
        "lead-discrete-start": Lead(initial_mode="discrete"),
        "lead-released": Lead.released(),
        "soft-thinking": SoftThinking(),
        "swi-reasoning": SwiReasoning(),
    }
    experiment.run(engine, "gsm8k", methods, batch_size=16, tokens=512)


PARTS = {"ead": ead, "adadec": adadec, "caad": caad, "latent": latent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument(
        "--models", type=Path, required=True, help=f"folder with {SMALL}, {LARGE} and all-MiniLM-L6-v2/"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help=f"folder with {', '.join(sorted(set(FILES.values())))}"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "results")
    parser.add_argument("--limit", type=int, help="only the first so many items")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--size", choices=("small", "large"), help="only this model (adadec)")
    parser.add_argument("--shard", default="0/1", help="i/n: only items i, i+n, ...")
    arguments = parser.parse_args()
    index, count = map(int, arguments.shard.split("/"))
    arguments.shard = (index, count)
    arguments.data, arguments.output = arguments.data.resolve(), arguments.output.resolve()
    os.chdir(arguments.models)  # so that the results name models, not folders of this machine
    for part in arguments.parts:
        PARTS[part](Experiment(part, arguments))


if __name__ == "__main__":
    main()
