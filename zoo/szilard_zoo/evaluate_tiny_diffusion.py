"""How often `tiny-diffusion` is right on questions that it was not trained on, and its card.

python -m szilard_zoo.evaluate_tiny_diffusion zoo/szilard_zoo/tiny-diffusion --write-card
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import szilard_zoo
from szilard.diffusion.bidirectional import Bidirectional
from szilard.diffusion.masked_loss import canvases
from szilard.evaluation.parallelbench import FIRST_NAMES, TASKS, make_task, score
from szilard.whole_folder import write_whole
from szilard_zoo.train_tiny_diffusion import FAMILIES, STAGES
from szilard_zoo.written_tasks import WRITTEN, fits

ITEMS = 100  # questions of a task
SHOWN = ("replace_random", "latin_square", "sudoku", "chain", "story", "record")

CARD = """---
license: apache-2.0
library_name: transformers
---

# tiny-diffusion

A masked diffusion language model: it fills in an answer in any order, as many tokens at a time as one dares. Trained
from scratch for `szilard` on the compact tasks of ParallelBench and a few others, it is right when it takes one token
at a time, so that what goes wrong with more is the decoder's doing.

| | |
|---|---|
| architecture | stock `LlamaForCausalLM` without its causal mask, output matrix of its own |
| shape | {layers} layers, width {width}, {heads} heads of {head} |
| parameters | {size} (float32, {megabytes} MB) |
| vocabulary | {vocabulary} tokens, one per word; `[MASK]` is {mask}, `<eos>` {eos}, `<pad>` {pad} |
| answers | up to 64 tokens, filled up with `<eos>` |
| licence | Apache-2.0 |

`config.json` says under "masked_diffusion" which tokens mask and end; logits at a place are of the token at that place
(no shift).

## Use

```python
import szilard

engine = szilard.load("zoo/tiny-diffusion")
engine.generate("reverse - - Ada Boris Carla ->", max_new_tokens=16).text  # "Carla Boris Ada"
```

In plain transformers the causal mask goes by a 4-D mask, `attention_mask=torch.ones(rows, 1, n, n, dtype=torch.bool)`.

## Data

Questions are drawn anew for every batch. Prompts read "task index word item item ... ->", with "-" where there is
no index or word; answers "item item ...".

| family | tasks |
|---|---|
{families}

Items are first names alone, or first and last names, three to six of them. A sudoku has four to eight blanks; sums and
chains are written out step by step; stories and records are templated English of 35 to 60 words in which names, colours
and things come again.

## Recipe

```
python -m szilard_zoo.train_tiny_diffusion -o zoo/szilard_zoo/tiny-diffusion
python -m szilard_zoo.evaluate_tiny_diffusion zoo/szilard_zoo/tiny-diffusion --write-card
```

Seed 0; {steps} steps of AdamW on one CPU core ({stages}). The loss is that of
`szilard.diffusion.masked_loss`, each answer divided by its own length, end tokens included; the lengths of most batches
end just behind their longest answer, those of one in five anywhere up to 64 tokens. It begins with
four operations on lists of six ("six"): there the model finds out which items an answer has used already, which it did
not learn from all tasks and lengths at once. About twenty minutes in all. The metrics of every 50 steps are in
`metrics.jsonl`.

## Measured

{items} new questions of each task; the answer has 32 places (lists) or 64. One at a time: the surest open place is
filled, then the model is asked again. All at once: every place in one pass.

| task | items | one at a time | all at once |
|---|---|---|---|
{measured}

Some answers, one token at a time:

```
{shown}
```

## Limits

- It is right on lists of single words. Of two-word names, grids, sums and texts it has seen enough to fill them in, not
  enough to be right: there only the decoders' differences to one another say something.
- It knows these tasks in this form and its {vocabulary} words; anything else becomes `<unk>`.
- Stories count as right when they follow a template and keep their names and things; they mean nothing.
- Results on it say how decoders compare, not how much one gains on a large model.
"""


@torch.no_grad()
def fill_in(
    model: Any, tokenizer: Any, prompts: Sequence[str], length: int, *, at_once: bool = False
) -> tuple[list[str], int]:
    """Answers, and forwards: the surest open place of each row at a time, or all in one pass.

    Args:
        model: a bidirectional model with "masked_diffusion" in its config.
        tokenizer: of the model.
        prompts: questions.
        length: places of an answer.
        at_once: fill in everything at once.
    """
    mask, eos = (model.config.masked_diffusion[name] for name in ("mask_token_id", "eos_token_id"))
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    batch = canvases(ids, [[mask] * length] * len(ids), pad_token_id=mask, eos_token_id=eos, length=length)
    tokens, predict = batch["tokens"], Bidirectional(model, real=batch["real"])
    rows, passes = torch.arange(len(ids)), 0
    answers = tokens[:, -length:]  # a view
    while bool((answers == mask).any()):
        logits = predict(tokens, batch["answer"]).view(len(ids), length, -1)
        logits[..., mask] = -torch.inf
        chance, best = logits.softmax(-1).max(-1)
        passes += 1
        if at_once:
            answers.copy_(best)
            break
        place = chance.masked_fill(answers != mask, -1.0).argmax(1)
        answers[rows, place] = best[rows, place]
    ended = [row[: row.index(eos)] if eos in row else row for row in answers.tolist()]
    return [tokenizer.decode(row) for row in ended], passes


def questions(task: str, single: bool, count: int) -> list[tuple[str, Any]]:
    """Prompts of a task and what tells right answers; ParallelBench's own samples where it has the task."""
    if task in WRITTEN and task not in TASKS:
        rng = random.Random(f"evaluation {task}")
        drawn = [WRITTEN[task](rng)[0] for _ in range(count)]
        return [(prompt, lambda answer, prompt=prompt: fits(task, prompt, answer)) for prompt in drawn]
    made = make_task(task, num_samples=count, words=FIRST_NAMES if single else None, compact=True)
    return [(one.prompt, lambda answer, one=one: score(task, answer, one) == 1) for one in made]


def measure(folder: Path, count: int = ITEMS) -> tuple[list[dict[str, Any]], Any, Any]:
    """A row per task, the model and its tokenizer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for family, tasks in ((name, found) for name, found in FAMILIES.items() if name != "six"):
        for task in tasks:
            asked = questions(task, family == "items", count)
            row: dict[str, Any] = {"task": task, "items": family if family in ("items", "names") else "-"}
            for kind, at_once in (("one", False), ("all", True)):
                length = 32 if family in ("items", "names") else 64
                found, row[f"{kind}_passes"] = fill_in(
                    model, tokenizer, [prompt for prompt, _ in asked], length, at_once=at_once
                )
                row[kind] = sum(right(answer) for answer, (_, right) in zip(found, asked, strict=True)) / count
                if not at_once:
                    row["example"] = f"{asked[0][0]} {found[0]}"
            rows.append(row)
    return rows, model, tokenizer


def card(folder: Path, count: int = ITEMS) -> str:
    """What the checkpoint is, how it was made, and what it gets right."""
    rows, model, tokenizer = measure(folder, count)
    config = model.config
    kinds = {"items": "one word", "names": "first and last name", "-": ""}
    return CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        head=config.head_dim,
        size=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        megabytes=f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
        vocabulary=len(tokenizer),
        mask=tokenizer.mask_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        families="\n".join(f"| {family} | {', '.join(tasks)} |" for family, tasks in FAMILIES.items()),
        steps=f"{sum(stage.steps for stage in STAGES):,}",
        stages=", then ".join(
            f"{stage.steps:,} with " + ", ".join(f"{share:.0%} {name}" for name, share in stage.shares.items())
            for stage in STAGES
        ),
        items=count,
        measured="\n".join(
            f"| {row['task']} | {kinds[row['items']]} | {row['one']:.0%} | {row['all']:.0%} |" for row in rows
        ),
        shown="\n".join(row["example"] for row in rows if row["task"] in SHOWN and row["items"] != "items"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of the checkpoint; default: the zoo's")
    parser.add_argument("--items", type=int, default=ITEMS, help="questions of a task (default: %(default)s)")
    parser.add_argument("--write-card", action="store_true", help="write README.md there, too")
    given = parser.parse_args(arguments)
    folder = given.folder or szilard_zoo.path("tiny-diffusion")
    text = card(folder, given.items)
    print(text[text.index("## Measured") : text.index("## Limits")])
    if given.write_card:
        write_whole(folder / "README.md", text)


if __name__ == "__main__":
    main()
