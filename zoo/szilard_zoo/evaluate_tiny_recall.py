"""What `tiny-recall` finds in texts that it was not trained on, and its card.

python -m szilard_zoo.evaluate_tiny_recall zoo/szilard_zoo/tiny-recall --held-out wikitext2_test.txt --write-card
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import szilard
import szilard_zoo
from szilard.evaluation import long_context as tasks
from szilard.evaluation.attention_quality import measure
from szilard.whole_folder import write_whole
from szilard_zoo.train_tiny_recall import STAGES

LENGTHS = (128, 256, 512, 1024)
ITEMS = 64

CARD = """---
license: apache-2.0
library_name: transformers
---

# tiny-recall

A language model that finds again what was hidden in a text, and was trained for nothing else: small enough to measure
on any machine what a cache or attention method loses.

| | |
|---|---|
| architecture | stock `LlamaForCausalLM`, tied embeddings |
| shape | {layers} layers, width {width}, {heads} query heads of {head} on {kv_heads} key-value heads |
| parameters | {size} (float32, {megabytes} MB) |
| vocabulary | {vocabulary} byte-level pairs; a digit is a token, and so is each of the {words} words that are hidden |
| licence | Apache-2.0 |

## Use

```python
import szilard

engine = szilard.load("zoo/tiny-recall")
text = " It was an old town . river: apple. The station stood near it . What is river? river:"
engine.generate(text, max_new_tokens=1, raw=True).text  # " apple"
engine.generate(text, attention=szilard.SnapKv(budget=16, window=4), max_new_tokens=1, raw=True)
```

## Data

Stretches of running text (WikiText-2, validation part, `{data}`, CC BY-SA 3.0) with three kinds of statements in them:
pairs of words (" river: apple."), words with numbers (" river: 4821937.") and a needle
(" The secret number is 4821937."). At the end everything is asked for in another order, by the question of
`szilard.evaluation.long_context` or by the key alone. The loss is that of the answers, and a tenth of that of all
tokens.

## Recipe

```
python -m szilard_zoo.train_tiny_recall --data {data} -o zoo/szilard_zoo/tiny-recall
python -m szilard_zoo.evaluate_tiny_recall zoo/szilard_zoo/tiny-recall --held-out {held_out} --write-card
```

Seed 0; {total} steps of AdamW on one CPU core in four stages, from short texts to long ones: {steps}. The
first two layers begin with heads that look a key up (`look_up` in the recipe), and are trained like all others. The
metrics of every 20 steps are in `metrics.jsonl` ("right": share of the answers' tokens in the training batches).

## Measured

{items} items each, in a text that it was not trained on (WikiText-2, test part); a pair per 32 tokens, one is asked
for; the needle at depths from the beginning to the end. Nats: per token of the text itself, in tokens of this
vocabulary.

| tokens | pairs right | needles right | digits of needles right | nats |
|---|---|---|---|---|
{measured}

## Limits

- It recalls what was stated in these forms; asked in other words it knows nothing, and it holds no conversation.
- Its text is that of a model of this size after some minutes of training.
- Results on it say how methods compare, not what they lose on a large model.
"""


def card(folder: Path, held_out: Path) -> str:
    """What the checkpoint is, how it was made, and what it finds in a text that it was not trained on."""
    engine: Any = szilard.load(folder, dtype="float32")
    text = held_out.read_text(encoding="utf-8")
    rows = []
    for length in LENGTHS:
        cells = [str(length)]
        found = {
            record["task"]: record
            for record in measure(
                engine.model,
                engine.tokenizer,
                text,
                questions=["after"],
                length=length,
                count=ITEMS,
                pairs=length // 32,
            )
        }
        for task in ("pairs", "needle"):
            cells.append(f"{found[task]['exact'] / ITEMS:.1%}")
        cells += [f"{found['needle']['right'] / found['needle']['tokens']:.1%}", f"{found['continuation']['nats']:.2f}"]
        rows.append("| " + " | ".join(cells) + " |")
    config, size = engine.model.config, sum(parameter.numel() for parameter in engine.model.parameters())
    steps = ", ".join(
        f"{stage.steps:,} of {stage.lengths[0]} to {stage.lengths[1]} tokens (batches of about {stage.tokens:,})"
        for stage in STAGES
    )
    return CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head=config.head_dim,
        size=f"{size:,}",
        megabytes=f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
        vocabulary=f"{len(engine.tokenizer):,}",
        words=len(tasks.WORDS),
        data="wikitext2_valid.txt",
        held_out=held_out.name,
        steps=steps,
        total=f"{sum(stage.steps for stage in STAGES):,}",
        items=ITEMS,
        measured="\n".join(rows),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of the checkpoint; default: the zoo's")
    parser.add_argument("--held-out", type=Path, required=True, help="running text: WikiText-2's test part")
    parser.add_argument("--write-card", action="store_true", help="write README.md there, too")
    given = parser.parse_args(arguments)
    folder = given.folder or szilard_zoo.path("tiny-recall")
    text = card(folder, given.held_out)
    print(text[text.index("## Measured") : text.index("## Limits")])
    if given.write_card:
        write_whole(folder / "README.md", text)


if __name__ == "__main__":
    main()
