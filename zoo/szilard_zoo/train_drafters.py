"""The recipe of the drafters for SmolLM2-135M-Instruct: the model answers a thousand prompts, heads learn from that.

    python -m szilard_zoo.train_drafters --data FOLDER [--only medusa chimera] [--work build/drafters]

FOLDER holds gsm8k_train.jsonl, mbpp.jsonl, TruthfulQA.csv and wikitext2_valid.txt (WikiText-2, validation part). A
stopped run goes on where it was. Nothing of Spec-Bench is in the prompts.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import szilard
from szilard.evaluation.bulk import answer_all
from szilard.speculative import draft_config
from szilard.speculative.chimera.training import ChimeraObjective
from szilard.speculative.draft_training import train_heads
from szilard.speculative.flash.training import FlashObjective
from szilard.speculative.hidden_transfer.training import HiddenTransferObjective
from szilard.speculative.lud.adapter import LudAdapter
from szilard.speculative.lud.training import train_lud
from szilard.speculative.medusa.training import MedusaObjective
from szilard.training.loop import read_metrics

FOLDER = Path(__file__).parent
TOKENS, BATCH = 192, 32
LIMIT = 6_000_000  # bytes; larger drafters are kept in eight bits
COMMON = {"precision": "bfloat16", "batch_size": 8, "max_length": 512, "save_every": 50, "log_every": 10}
RECIPES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "medusa": (MedusaObjective, draft_config.MedusaConfig, {"steps": 1200, "heads": 3}),
    "chimera": (ChimeraObjective, draft_config.ChimeraConfig, {"steps": 1200, "learning_rate": 1e-3, "heads": 3}),
    "hidden-transfer": (
        HiddenTransferObjective,
        draft_config.HiddenTransferConfig,
        {"steps": 800, "positions": 64, "transfer_steps": 3},
    ),
    "flash": (FlashObjective, draft_config.FlashConfig, {"steps": 1200, "learning_rate": 5e-4, "draft_tokens": 3}),
    "lud": (None, draft_config.LudConfig, {"steps": 600, "batch_size": 4}),
}
METHODS = {
    "medusa": "Medusa",
    "chimera": "Chimera",
    "hidden-transfer": "HiddenTransfer",
    "flash": "Flash",
    "lud": "Lud",
}
WIKI_TASKS = (
    "Summarize the following text in two sentences.\n\n{}",
    "Read the text and answer: what is it about, and which facts does it give?\n\n{}",
    "Rewrite the following text in simple words.\n\n{}",
    "Write three questions that the following text answers, with their answers.\n\n{}",
)


def prompts(data: Path, seed: int = 0) -> list[str]:
    """A thousand prompts of four kinds, in a fixed order."""
    found = [prompt for kind in kinds(data, seed).values() for prompt in kind]
    random.Random(seed).shuffle(found)
    return found


def kinds(data: Path, seed: int = 0) -> dict[str, list[str]]:
    """Word problems, small programs, questions of general knowledge, and work on given texts."""
    problems = [record for record in _lines(data / "mbpp.jsonl") if record["task_id"] > 600]  # its training part
    with (data / "TruthfulQA.csv").open(encoding="utf-8", newline="") as file:
        questions = [row["Question"] for row in csv.DictReader(file)][::4]
    lines = (data / "wikitext2_valid.txt").read_text(encoding="utf-8").split("\n")
    paragraphs = [_plain(" ".join(line.split()[:160])) for line in lines if len(line.split()) > 60]
    chosen = enumerate(random.Random(seed).sample(paragraphs, 300))
    return {
        "word problems": [record["question"] for record in _lines(data / "gsm8k_train.jsonl")[:300]],
        "programs": [f"{record['text']} Explain your solution." for record in problems[:200]],
        "questions": questions[:200],
        "texts": [WIKI_TASKS[number % len(WIKI_TASKS)].format(paragraph) for number, paragraph in chosen],
    }


def _plain(text: str) -> str:
    """WikiText's tokens as ordinary writing."""
    text = re.sub(r" @([-,.])@ ", r"\1", text.replace("<unk>", "Unger"))
    text = re.sub(r" ([,.;:!?)%'])", r"\1", text)
    return re.sub(r"([($]) ", r"\1", text)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def answers(data: Path, work: Path) -> Path:
    """The model's greedy answers, in bfloat16: on a CPU that has it, four times as fast."""
    output = work / "answers.jsonl"
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        line = bar.add_task("")
        answer_all(
            szilard.load(engine="transformers", dtype="bfloat16"),
            prompts(data),
            output,
            batch_size=BATCH,
            max_new_tokens=TOKENS,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    return output


def train(slug: str, data: Path, work: Path) -> None:
    """Train one drafter in its own folder under `work`; hidden states are shared. What is finished is left alone."""
    objective, config, settings = RECIPES[slug]
    if (work / slug / "minutes.txt").is_file():
        return
    chosen = config(**(COMMON | settings))
    engine = szilard.load(engine="transformers")
    start = time.perf_counter()
    if objective is None:
        train_lud(engine, data, chosen, work / slug, cache=work / "probabilities")
    else:
        train_heads(objective, engine, data, chosen, work / slug, cache=work / "features")
    (work / slug / "minutes.txt").write_text(f"{(time.perf_counter() - start) / 60:.0f}", encoding="utf-8")


def export(slug: str, work: Path, folder: Path) -> None:
    """The trained part in few bits, with its card."""
    source = work / slug
    kind: Any = LudAdapter if slug == "lud" else getattr(szilard, METHODS[slug]).add_on
    add_on = kind.from_pretrained(source)
    target = folder / f"smollm2-{slug}"
    target.mkdir(parents=True, exist_ok=True)
    (target / "README.md").write_text(card(slug, source, add_on), encoding="utf-8")
    size = sum(parameter.numel() for parameter in add_on.parameters())
    add_on.save_pretrained(target, storage="float16" if 2 * size < LIMIT else "int8")
    (target / "training.yaml").write_text((source / "training.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copyfile(source / "metrics.jsonl", target / "metrics.jsonl")


def card(slug: str, source: Path, add_on: Any) -> str:
    """What it is, how it was made, what it reaches on held-out text, and what it is not."""
    metrics = yaml.safe_load((source / "held-out.yaml").read_text(encoding="utf-8"))
    minutes = (source / "minutes.txt").read_text(encoding="utf-8")
    rows = read_metrics(source / "metrics.jsonl")
    size = sum(parameter.numel() for parameter in add_on.parameters())
    option = "adapter" if slug == "lud" else "drafter"
    lines = [
        "---\nlicense: apache-2.0\nlibrary_name: szilard\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n---\n",
        f"# smollm2-{slug}\n",
        f"The trained part of szilard's `{METHODS[slug]}` for SmolLM2-135M-Instruct (the embedded model, weights "
        f"{add_on.base['fingerprint']}): {size / 1e6:.1f} M parameters, kept in "
        f"{'float16' if 2 * size < LIMIT else 'int8'}.\n",
        f'```python\nengine = szilard.load()\nengine.generate("Why is the sky blue?", '
        f'szilard.{METHODS[slug]}({option}="zoo/smollm2-{slug}"))\n```\n',
        "**Data.** 1,000 prompts (300 word problems of GSM8K's training part, 200 questions of TruthfulQA, 200 small "
        "programs of MBPP, 300 tasks on paragraphs of WikiText-2's validation part) and the model's own greedy answers "
        f"of up to {TOKENS} tokens. Nothing of Spec-Bench.\n",
        f"**Recipe.** `python -m szilard_zoo.train_drafters --data FOLDER --only {slug}`; settings in `training.yaml`, "
        f"seed 0, {minutes} minutes on one CPU core that has bfloat16.\n",
        "**Held-out text.** " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()) + ".\n",
        "| step | " + " | ".join(shown := [name for name in ("loss", "tokens_per_pass") if name in rows[-1]]) + " |",
        "|---" * (len(shown) + 1) + "|",
        *(
            f"| {row['step']:.0f} | " + " | ".join(f"{row[name]:.3f}" for name in shown) + " |"
            for row in [*rows[:: max(1, len(rows) // 8)], rows[-1]]
        ),
        "\n**Limits.** A small model, a small corpus, English; drafts for other precisions of the weights are as good, "
        'but are refused unless `base["fingerprint"]` is None.\n',
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/drafters"), help="checkpoints and caches")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=list(RECIPES))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    made = answers(arguments.data, arguments.work)
    for slug in arguments.only:
        train(slug, made, arguments.work)
        export(slug, arguments.work, arguments.output)


if __name__ == "__main__":
    main()
