"""Kill -9 in the middle of each recipe, again and again: is what comes out what comes out undisturbed?

    python benchmarks/resume_demonstration.py [--only latent-sft] [--kills 3]

Every recipe of several stages or with texts on the way runs four times on a tiny model through `szilard train`:
undisturbed; killed several times (SIGKILL, at other points of its way each time) and given again; and in two processes
(torchrun) with half the batch each. Compared are all rows of all `metrics.jsonl` and `evaluations.jsonl`, and every
tensor that was written.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from results_store import Store
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.reasoning.tasks import arithmetic_chains, number_tokenizer

SMALL = "--save-every 4 --log-every 2 --batch-size 8"


class Recipe(NamedTuple):
    """A training: its flags, its data, whether it takes a model, and whether it may run in two processes."""

    flags: str
    data: str
    model: bool = True
    parallel: bool = True


RECIPES = {
    "latent-sft": Recipe(
        f"{SMALL} --steps 12 --stage-1-steps 8 --warm-start-steps 6 --gradient-accumulation 1 --no-lora "
        "--learning-rate 1e-3 --stage-1-learning-rate 1e-3 --max-latent-steps 12 --max-answer-tokens 3 --evaluations 2",
        "chains.jsonl",
    ),
    "ladir": Recipe(
        f"{SMALL} --vae-steps 10 --steps 12 --stage2-steps 8 --stage2-batch-size 8 --rollout-steps 2 --noise-draws 2 "
        "--latent-tokens 2 --latent-dim 8 --max-new-tokens 3 --evaluate-every 8 --learning-rate 1e-3",
        "chains.jsonl",
    ),
    "hyperfitting": Recipe(
        f"{SMALL} --num-sequences 24 --seq-len 40 --epochs 8 --learning-rate 1e-3 --validation-freq 6 "
        "--validation-sequences 6 --validation-generations 4 --context-length 12",
        "texts.jsonl",
        parallel=False,
    ),
    "entropy-guided-attention": Recipe(
        f"{SMALL} --steps 24 --layers 2 --heads 2 --width 16 --context 24 --learning-rate 1e-3 --evaluate-every 6",
        "texts.jsonl",
        model=False,
    ),
}


def prepare(folder: Path) -> None:
    """A tiny model and data for it."""
    tokenizer = number_tokenizer(12)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    examples = arithmetic_chains(64, seed=0, steps=(2, 3), modulus=13)
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in examples]
    (folder / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = [" ; ".join(f"{one.problem} {one.answer}" for one in examples[at : at + 8]) for at in range(0, 64, 2)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def command(slug: str, work: Path, output: Path, processes: int = 1) -> list[str]:
    """The command line of a training."""
    recipe = RECIPES[slug]
    flags, launcher = recipe.flags.split(), [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        for name in ("--batch-size", "--stage2-batch-size"):
            if name in flags:
                at = flags.index(name) + 1
                flags[at] = str(int(flags[at]) // processes)
    model = ["--model", str(work / "model")] if recipe.model else []
    known = ["-m", "szilard", "train", slug, *model, "--data", str(work / recipe.data), "-o", str(output)]
    return [*launcher, *known, "--device", "cpu", *flags]


def finish(line: list[str]) -> float:
    """Run to the end; seconds."""
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stderr[-3000:]}")
    return time.perf_counter() - start


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every log below a folder."""
    found = {}
    for file in sorted([*folder.rglob("metrics.jsonl"), *folder.rglob("evaluations.jsonl")]):
        found[str(file.relative_to(folder))] = [json.loads(line) for line in file.read_text().splitlines()]
    return found


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of every safetensors file below a folder."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= {f"{file.relative_to(folder)}: {name}": tensor for name, tensor in load_file(file).items()}
    return found


def killed(line: list[str], kills: int, seconds: float, progressed: Callable[[], int]) -> list[int]:
    """Start, kill and start again; how many rows of logs there were at each kill."""
    at = []
    for number in range(kills):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        wanted = progressed() + 2 + 3 * number  # so many more rows, then the end
        limit = time.perf_counter() + 3 * seconds + 60
        while process.poll() is None and progressed() < wanted and time.perf_counter() < limit:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            at.append(progressed())
        process.wait()
    finish(line)
    return at


def demonstrate(slug: str, kills: int) -> dict[str, Any]:
    """One recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        prepare(work)
        seconds = finish(command(slug, work, work / "whole"))
        expected, weights = rows_of(work / "whole"), weights_of(work / "whole")

        def progressed() -> int:
            logs = [*(work / "cut").rglob("metrics.jsonl"), *(work / "cut").rglob("evaluations.jsonl")]
            return sum(file.read_text().count("\n") for file in logs if file.is_file())

        at = killed(command(slug, work, work / "cut"), kills, seconds, progressed)
        found, again = rows_of(work / "cut"), weights_of(work / "cut")
        same = set(weights) == set(again) and all(torch.equal(weights[name], again[name]) for name in weights)
        reached = {
            "rows": sum(map(len, expected.values())),
            "killed at row": at,
            "rows equal": found == expected,
            "tensors": len(weights),
            "tensors equal": same,
        }
        if RECIPES[slug].parallel:
            finish(command(slug, work, work / "two", processes=2))
            reached |= apart(expected, rows_of(work / "two"))
        return reached


def apart(one: dict[str, list[dict[str, Any]]], two: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """How far the losses of two processes are from those of one, as a share: of the first row, and in the mean."""
    shares = [
        abs(row["loss"] - other["loss"]) / abs(row["loss"])
        for name, rows in one.items()
        for row, other in zip(rows, two[name], strict=True)
        if "loss" in row and row["step"] > 0
    ]
    return {"two processes, first loss apart": shares[0], "two processes, losses apart": sum(shares) / len(shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(RECIPES))
    parser.add_argument("--kills", type=int, default=3)
    arguments = parser.parse_args()
    store = Store("resume")
    for slug in [arguments.only] if arguments.only else RECIPES:
        found = demonstrate(slug, arguments.kills)
        print(slug, found)
        store.add({"recipe": slug, "kills": arguments.kills}, found)


if __name__ == "__main__":
    main()
