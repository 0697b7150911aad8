"""Every rule that fills a canvas, over its own knob, on ParallelBench's lists and puzzles.

    python benchmarks/diffusion_parallelbench.py [--filter FOLDER]     # zoo/tiny-diffusion, 32 answer columns
    python benchmarks/diffusion_parallelbench.py --model exact         # the true distributions

Compact questions. The tiny model answers lists of names (two tokens each) and of single words, Latin squares and
sudokus; the exact model lists of six words, the puzzles, and three distributions made to tell rules apart. `--only`
takes beginnings of curves' names, `--tasks` names of tasks. FOLDER is what `szilard train learn2pd` wrote. Lines go to
results/diffusion-parallelbench.jsonl; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusion_contestants import Contestant, block_study, chosen, end_study, learned_filter, rules
from diffusion_run import Filled, run, summary
from results_store import Store

import szilard
from szilard.diffusion.canvas_model import CanvasModel
from szilard.diffusion.learn2pd.oracle import EgpOracle
from szilard.evaluation.parallelbench import FIRST_NAMES, TASKS, ExactTaskModel, make_task, score

COLUMNS = 32  # of an answer of the tiny model
LISTS = tuple(name for name, kind in TASKS.items() if kind.group == "list")
PUZZLES = tuple(name for name, kind in TASKS.items() if kind.group == "puzzle")
SPECIAL = {"names_shuffle": (0, 1), "key_bits": (0, 1), "two_key_bits": (0, 1)}  # temperatures
TIE_NOISE = 1e-3  # of the exact model's logits


@dataclass(frozen=True)
class Questions:
    """A task's questions to a model.

    Attributes:
        task: its name.
        items: what lists are made of: "names" or "words"; "": no list.
        model: makes the model, the same one each time.
        prompts: token ids.
        right: whether the answer to a prompt, by number, is right.
        columns: of an answer.
        temperature: of what is committed.
    """

    task: str
    items: str
    model: Callable[[], CanvasModel]
    prompts: Sequence[Sequence[int]]
    right: Callable[[int, Filled], bool]
    columns: int = COLUMNS
    temperature: float = 0.0


def tiny_questions(engine: Any, samples: int) -> Iterator[Questions]:
    """What the trained model is asked."""
    asked = [(task, "words") for task in LISTS] + [(task, "names") for task in LISTS] + [(task, "") for task in PUZZLES]
    for task, items in asked:
        words = FIRST_NAMES if items == "words" else None
        made = make_task(task, num_samples=samples, words=words, compact=True)
        prompts = [engine.tokenizer.encode(sample.prompt, add_special_tokens=False) for sample in made]

        def right(number: int, answer: Filled, task: str = task, made: Any = made) -> bool:
            text = engine.tokenizer.decode(answer.tokens, skip_special_tokens=True)
            return score(task, text, made[number]) == 1

        yield Questions(task, items, lambda: engine.canvas_model, prompts, right)


def exact_questions(samples: int) -> Iterator[Questions]:
    """What true conditionals are asked; several prompts of a distribution that has but one differ in broken ties."""
    asked = [(task, 0) for task in (*LISTS, *PUZZLES)]
    asked += [(task, temperature) for task, temperatures in SPECIAL.items() for temperature in temperatures]
    for task, temperature in asked:

        def fresh(task: str = task) -> ExactTaskModel:
            return ExactTaskModel(task, tie_noise=TIE_NOISE)  # anew, so that its noise is that of every contestant

        model = fresh()
        if task in SPECIAL:
            texts = [f"{task} ->"] * samples
        else:
            options: dict[str, Any] = {"n": 6, "words": FIRST_NAMES} if task in LISTS else {}
            texts = [sample.prompt for sample in make_task(task, num_samples=samples, compact=True, **options)]
        prompts = [model.encode(text).tolist() for text in texts]

        def right(number: int, answer: Filled, model: Any = model, prompts: Any = prompts) -> bool:
            canvas = torch.tensor([[*prompts[number], *answer.canvas]])
            return bool(model.is_right(canvas, torch.ones_like(canvas, dtype=torch.bool)))

        items = "words" if task in LISTS else ""
        yield Questions(task, items, fresh, prompts, right, model.answer_length, temperature)


def measure(store: Store, name: str, asked: Questions, contestant: Contestant) -> None:
    """A record of one contestant on one task, unless there is one."""
    key = {"model": name, "task": asked.task, "items": asked.items, "curve": contestant.curve}
    key |= {"setting": contestant.setting, "samples": len(asked.prompts), "columns": asked.columns}
    key |= {"temperature": asked.temperature}
    if key in store:
        return
    start = time.perf_counter()
    found = run(asked.model(), asked.prompts, contestant.method, length=asked.columns, temperature=asked.temperature)
    right = [asked.right(number, answer) for number, answer in enumerate(found)]
    values: dict[str, Any] = {"accuracy": round(sum(right) / len(right), 4)} | summary(found, asked.columns)
    if contestant.curve == "threshold":  # what the oracle over its grid needs
        values |= {"sample_right": list(map(int, right)), "sample_rounds": [answer.rounds for answer in found]}
    store.add(key, values | {"options": contestant.options, "seconds": round(time.perf_counter() - start, 1)})
    print(
        f"{asked.task:14} {asked.items:5} T={asked.temperature:g} {contestant.curve:32} {contestant.setting!s:9} "
        f"right {values['accuracy']:6.1%} rounds {values['rounds']:6.2f} tokens/round {values['tokens_per_round']:6.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "exact"), default="tiny")
    parser.add_argument("--checkpoint", default="zoo/tiny-diffusion", help="in the place of the zoo's (tiny)")
    parser.add_argument("--filter", type=Path, help="folder of a filter of Learn2PD (tiny)")
    parser.add_argument("--samples", type=int, default=100, help="questions of a task (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="beginnings of curves' names")
    parser.add_argument("--tasks", nargs="*", help="names of tasks")
    parser.add_argument("--items", choices=("words", "names"), help="only lists of these (tiny)")
    given = parser.parse_args()
    learned = None
    if given.model == "exact":
        name, questions = "exact", exact_questions(given.samples)
    else:
        engine = szilard.load(given.checkpoint, dtype="float32")
        learned = learned_filter(given.filter)
        if learned is not None:
            learned.check(engine)
        name, questions = engine.name, tiny_questions(engine, given.samples)
    store = Store("diffusion-parallelbench")
    known = {*LISTS, *PUZZLES, *(SPECIAL if given.model == "exact" else ())}
    if unknown := [task for task in given.tasks or () if task not in known]:
        parser.error(f"there is no task {unknown[0]!r}; there are: {', '.join(sorted(known))}.")
    for asked in questions:
        if given.tasks and asked.task not in given.tasks:
            continue
        if given.items and asked.items != given.items:
            continue
        contestants = [*rules(asked.columns, learned), *block_study(asked.columns)]
        if asked.temperature:  # what is drawn anew cannot be compared with a reference
            contestants = [one for one in contestants if not isinstance(one.method, EgpOracle)]
        if given.model == "tiny":  # the exact model's answers fill their columns
            contestants += end_study(learned)
        try:
            contestants = chosen(contestants, given.only)
        except ValueError as error:
            parser.error(str(error))
        for contestant in contestants:
            measure(store, name, asked, contestant)


if __name__ == "__main__":
    main()
