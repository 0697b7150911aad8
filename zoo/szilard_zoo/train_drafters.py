"""The recipes of the drafters: a model answers a thousand prompts, heads learn from that.

    python -m szilard_zoo.train_drafters --data FOLDER [--only smollm2-medusa ...] [--work build/drafters]

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

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
from szilard.whole_folder import write_whole
from szilard_zoo import scenes

FOLDER = Path(__file__).parent
TOKENS, BATCH = 192, 32
LIMIT = 6_000_000  # bytes; larger drafters are kept in eight bits
COMMON = {"precision": "bfloat16", "batch_size": 8, "max_length": 512, "save_every": 50, "log_every": 10}


@dataclass(frozen=True)
class Recipe:
    """How one drafter is trained: of which method, for which model, with which settings."""

    method: str
    base: str
    objective: Any
    config: Any
    settings: dict[str, Any]

    @property
    def model(self) -> str | None:
        """As `szilard.load` takes it; None: the embedded SmolLM2."""
        return None if self.base == "smollm2" else f"zoo/{self.base}"


RECIPES = {
    "smollm2-medusa": Recipe(
        "Medusa", "smollm2", MedusaObjective, draft_config.MedusaConfig, {"steps": 1200, "heads": 3}
    ),
    "smollm2-chimera": Recipe(
        "Chimera",
        "smollm2",
        ChimeraObjective,
        draft_config.ChimeraConfig,
        {"steps": 1200, "learning_rate": 1e-3, "heads": 3},
    ),
    "smollm2-hidden-transfer": Recipe(
        "HiddenTransfer",
        "smollm2",
        HiddenTransferObjective,
        draft_config.HiddenTransferConfig,
        {"steps": 800, "positions": 64, "transfer_steps": 3},
    ),
    "smollm2-flash": Recipe(
        "Flash",
        "smollm2",
        FlashObjective,
        draft_config.FlashConfig,
        {"steps": 1200, "learning_rate": 5e-4, "draft_tokens": 3},
    ),
    "smollm2-lud": Recipe("Lud", "smollm2", None, draft_config.LudConfig, {"steps": 600, "batch_size": 4}),
    "tiny-vlm-flash": Recipe(
        "Flash",
        "tiny-vlm",
        FlashObjective,
        draft_config.FlashConfig,
        {"steps": 1500, "learning_rate": 1e-3, "draft_tokens": 4, "latents": 16, "precision": "float32"},
    ),
}
PICTURES = 2000
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


def picture_answers(work: Path) -> Path:
    """What tiny-vlm says of scenes of its training split, and the pictures beside it."""
    output = work / "pictures" / "answers.jsonl"
    if output.is_file():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    engine = szilard.load("zoo/tiny-vlm")
    samples = list(scenes.dataset("train", PICTURES, seed=1))
    lines = []
    for start in track(range(0, PICTURES, BATCH), description="pictures"):
        batch = samples[start : start + BATCH]
        names = [f"{start + index}.png" for index in range(len(batch))]
        for name, sample in zip(names, batch, strict=True):
            sample.image.save(output.parent / name)
        pictures = [[str(output.parent / name)] for name in names]
        results = engine.generate([sample.question for sample in batch], images=pictures, max_new_tokens=64)
        for name, sample, result in zip(names, batch, results, strict=True):
            lines.append(json.dumps({"image": name, "prompt": sample.question, "answer": result.text}) + "\n")
    write_whole(output, "".join(lines))
    return output


def train(name: str, data: Path, work: Path) -> None:
    """Train one drafter in its own folder under `work`; hidden states are shared. What is finished is left alone."""
    recipe, folder = RECIPES[name], work / name
    if (folder / "minutes.txt").is_file():
        return
    settings = recipe.config(**(COMMON | recipe.settings))
    engine = szilard.load(recipe.model, engine="transformers")
    start = time.perf_counter()
    if recipe.objective is None:
        train_lud(engine, data, settings, folder, cache=work / "probabilities")
    else:
        train_heads(recipe.objective, engine, data, settings, folder, cache=work / f"features-{recipe.base}")
    write_whole(folder / "minutes.txt", f"{(time.perf_counter() - start) / 60:.0f}")


def export(name: str, work: Path, output: Path) -> None:
    """The trained part in few bits, with its card."""
    recipe, source, target = RECIPES[name], work / name, output / name
    kind: Any = LudAdapter if recipe.method == "Lud" else getattr(szilard, recipe.method).add_on
    add_on = kind.from_pretrained(source)
    size = sum(parameter.numel() for parameter in add_on.parameters())
    eight_bits = 2 * size >= LIMIT and recipe.method != "Lud"  # whose narrow matrices gain little by it
    storage = "int8" if eight_bits else "float16"
    target.mkdir(parents=True, exist_ok=True)
    (target / "README.md").write_text(card(name, source, add_on.base, size, storage), encoding="utf-8")
    add_on.save_pretrained(target, storage=storage)
    for file in ("training.yaml", "metrics.jsonl", "held-out.yaml"):
        shutil.copyfile(source / file, target / file)


def card(name: str, source: Path, base: dict[str, Any], size: int, storage: str) -> str:
    """What it is, how it was made, what it reaches on held-out text, and what it is not."""
    recipe = RECIPES[name]
    metrics = yaml.safe_load((source / "held-out.yaml").read_text(encoding="utf-8"))
    minutes = (source / "minutes.txt").read_text(encoding="utf-8")
    rows = read_metrics(source / "metrics.jsonl")
    shown = [column for column in ("loss", "tokens_per_pass") if column in rows[-1]]
    option = "adapter" if recipe.method == "Lud" else "drafter"
    if recipe.base == "smollm2":
        model, hub, load = "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "szilard.load()"
        question = '"Why is the sky blue?"'
        data = (
            "1,000 prompts (300 word problems of GSM8K's training part, 200 questions of TruthfulQA, 200 small "
            "programs of MBPP's training part, 300 tasks on paragraphs of WikiText-2's validation part) and the "
            f"model's own greedy answers of up to {TOKENS} tokens. Nothing of Spec-Bench."
        )
    else:
        model, hub, load = recipe.base, recipe.base, f'szilard.load("zoo/{recipe.base}")'
        question = '"is there a red circle ?", images=["scene.png"]'
        data = f"{PICTURES:,} scenes of the model's training split, one question each, and its own greedy answers."
    return "\n".join(
        [
            f"---\nlicense: apache-2.0\nlibrary_name: szilard\nbase_model: {hub}\n---\n",
            f"# {name}\n",
            f"The trained part of szilard's `{recipe.method}` for {model} (weights {base['fingerprint']}): "
            f"{size / 1e6:.1f} M parameters, kept in {storage}.\n",
            f'```python\nengine = {load}\nmethod = szilard.{recipe.method}({option}="zoo/{name}")\n'
            f"engine.generate({question}, method=method)\n```\n",
            f"**Data.** {data}\n",
            f"**Recipe.** `python -m szilard_zoo.train_drafters --data FOLDER --only {name}`; settings in "
            f"`training.yaml`, seed 0, {minutes} minutes on one CPU core.\n",
            "**Held-out text.** " + ", ".join(f"{key} {value:.3f}" for key, value in metrics.items()) + ".\n",
            "| step | " + " | ".join(shown) + " |",
            "|---" * (len(shown) + 1) + "|",
            *(
                f"| {row['step']:.0f} | " + " | ".join(f"{row[column]:.3f}" for column in shown) + " |"
                for row in [*rows[: -1 : max(1, len(rows) // 8)], rows[-1]]
            ),
            "\n**Limits.** A small model, a small corpus, English. For the same model in another precision it drafts "
            'as well, but is refused unless `base["fingerprint"]` is None.\n',
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/drafters"), help="checkpoints and caches")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the zoo")
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=list(RECIPES))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        pictures = RECIPES[name].base == "tiny-vlm"
        made = picture_answers(arguments.work) if pictures else answers(arguments.data, arguments.work)
        train(name, made, arguments.work)
        export(name, arguments.work, arguments.output)


if __name__ == "__main__":
    main()
