"""FiRST: whether routing by the prompt beats fixed sets of skipped layers, and what skipping is worth in time.

    python benchmarks/first_layers.py tasks                     a tiny model of two tasks, trained on the spot
    python benchmarks/first_layers.py text --data FILE          the embedded model: nats per token at equal rates
    python benchmarks/first_layers.py text --data FILE --lora   the same with tuned bridges
    python benchmarks/first_layers.py speed                     time per token against the share of layers kept

Lines go to results/first.jsonl. In `tasks` and `text` all methods skip the same number of layers.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import szilard
from szilard.attention.first.config import FirstConfig
from szilard.attention.first.routers import LayerRouters
from szilard.attention.first.training import RouterObjective, cross_entropy, train_first
from szilard.attention.layer_skip import LayerSkip
from szilard.attention.method import AttentionMethod
from szilard.engines import TransformersEngine
from szilard.training.corpus import Example, read_corpus
from szilard.training.course import split
from szilard.training.hidden_states import Tokens, Windows
from szilard.training.target import Target

SYMBOLS, LENGTH, LAYERS = 10, 7, 8
REVERSE, SUMS, EQUALS = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2
TASKS = {"reverse": REVERSE, "sums": SUMS}


# ---- two synthetic tasks ---------------------------------------------------------------------------------------------


def examples(rows: int, generator: torch.Generator, task: str | None = None) -> dict[str, torch.Tensor]:
    """Tag, symbols, "=", and the symbols reversed or their running sums modulo 10; [rows, 2 LENGTH + 2]."""
    symbols = torch.randint(SYMBOLS, (rows, LENGTH), generator=generator)
    reverses = torch.rand(rows, generator=generator) < 0.5
    if task is not None:
        reverses[:] = task == "reverse"
    tag = torch.where(reverses, REVERSE, SUMS)[:, None]
    answer = torch.where(reverses[:, None], symbols.flip(1), symbols.cumsum(1) % SYMBOLS)
    ids = torch.cat([tag, symbols, torch.full((rows, 1), EQUALS), answer], dim=1)
    written = (torch.arange(ids.shape[1]) > LENGTH + 1).expand_as(ids)
    return {"ids": ids, "answer": written, "valid": torch.ones_like(written)}


def words() -> PreTrainedTokenizerFast:
    """A word per token, which is all that an engine needs to know."""
    names = [*map(str, range(SYMBOLS)), *TASKS, "="]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="="))
    )


def fitted(steps: int, generator: torch.Generator) -> LlamaForCausalLM:
    """A small model of both tasks."""
    shape: dict[str, Any] = {"vocab_size": SYMBOLS + 3, "hidden_size": 64, "intermediate_size": 128}
    shape |= {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**shape, pad_token_id=None, bos_token_id=None, eos_token_id=None))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        batch = examples(64, generator)
        loss = cross_entropy(model(batch["ids"]).logits, batch["ids"], batch["answer"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def tasks(arguments: argparse.Namespace) -> None:
    """FiRST, unified, random and block-influence sets, and the best fixed sets there are, on both tasks."""
    store = Store("first")
    generator = torch.Generator().manual_seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    model = fitted(arguments.model_steps, generator)
    target = Target(TransformersEngine(model, words(), name="two tasks"))
    held = {task: examples(256, generator, task) for task in TASKS}
    for skipped in arguments.skipped:
        config = FirstConfig(target_rate=skipped / LAYERS, learning_rate=0.02, alpha=0.1, alpha_step=0.02)
        routers = LayerRouters(target.base, LAYERS)
        objective = RouterObjective(target, routers, config, arguments.router_steps)
        optimiser = torch.optim.AdamW(routers.parameters(), lr=config.learning_rate, weight_decay=0.0)
        for _ in range(arguments.router_steps):
            optimiser.zero_grad()
            objective(**examples(64, generator))["loss"].backward()
            optimiser.step()
        objective.eval()

        def loss(
            task: str, layers: tuple[int, ...] | None, objective: RouterObjective = objective
        ) -> tuple[float, torch.Tensor]:
            batch = held[task]
            prompt = ~batch["answer"]
            if layers is None:
                keep = objective.decide(batch["ids"], prompt)
            else:
                keep = torch.tensor([layer not in layers for layer in range(LAYERS)])[:, None].expand(-1, 256)
            with torch.no_grad():
                logits = objective.routed(batch["ids"], keep)
            return float(cross_entropy(logits, batch["ids"], batch["answer"])), keep

        sets = list(itertools.combinations(range(1, LAYERS - 1), skipped))
        every = {layers: {task: loss(task, layers)[0] for task in TASKS} for layers in sets}
        texts = [row for task in TASKS for row in held[task]["ids"][:64]]
        influence = LayerSkip.block_influence(model, texts, skipped).layers
        together = min(sets, key=lambda layers: sum(every[layers].values()))
        for task in TASKS:
            routed, keep = loss(task, None)
            chosen: dict[str, int] = {}
            for row in keep.T.tolist():
                name = ",".join(str(layer) for layer, kept in enumerate(row) if not kept)
                chosen[name] = chosen.get(name, 0) + 1
            values = {
                "none skipped": loss(task, ())[0],
                "first": routed,
                "unified": every[LayerSkip.unified(LAYERS, skipped).layers][task],
                "random, mean of all sets": statistics.mean(each[task] for each in every.values()),
                "block influence": every[influence][task],
                "best fixed set of both tasks": every[together][task],
                "best fixed set of this task": min(each[task] for each in every.values()),
            }
            key = {"part": "tasks", "task": task, "skipped": skipped, "seed": arguments.seed}
            key |= {"model_steps": arguments.model_steps, "router_steps": arguments.router_steps}
            print(key, values, chosen)
            if key not in store:
                store.add(key, {"nats": values, "sets": chosen, "alpha": float(objective.alpha)})


# ---- text ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def nats(model: Any, method: AttentionMethod, texts: list[Example]) -> tuple[float, float]:
    """Mean nats per answer token under a method as in decoding, and the share of layers run meanwhile.

    The prompt is read (of a text without one, its first third), then the answer is given token by token in one go.
    """
    total, count = 0.0, 0
    with method(model) as run:
        for text in texts:
            ids = torch.tensor([text.ids])
            first = text.answer.index(True) if True in text.answer else 0
            first = first or len(text.ids) // 3
            read = model(input_ids=ids[:, :first], use_cache=True, logits_to_keep=1)
            logits, past = [read.logits], read.past_key_values
            for part in (ids[:, first : first + 1], ids[:, first + 1 : -1]):  # a single token ends the prompt
                if part.shape[1]:
                    logits.append(model(input_ids=part, past_key_values=past).logits)
            scores = torch.cat(logits, dim=1)[0, : ids.shape[1] - first].float()
            total += float(torch.nn.functional.cross_entropy(scores, ids[0, first:], reduction="sum"))
            count += len(scores)
    return total / count, run.summary()["layers_run_share"]


def text(arguments: argparse.Namespace) -> None:
    """The embedded model on texts that its routers did not learn from."""
    store = Store("first")
    engine = szilard.load(engine="transformers")
    layers = len(engine.model.get_decoder().layers)  # type: ignore[attr-defined]
    skipped = round(arguments.rate * layers)
    config = FirstConfig(
        target_rate=arguments.rate,
        lora=arguments.lora,
        steps=arguments.steps,
        batch_size=arguments.batch,
        window=arguments.window,
        max_length=arguments.window,
        held_out=arguments.held_out,
        learning_rate=arguments.learning_rate,
    )
    folder = arguments.output or Path(tempfile.mkdtemp())
    started = time.perf_counter()
    metrics = train_first(engine, arguments.data, config, folder, limit=arguments.limit)
    seconds = time.perf_counter() - started
    corpus = Tokens(Target(engine), list(read_corpus(arguments.data, engine, limit=arguments.limit)))
    cut = Tokens(Target(engine), corpus.examples, max_length=config.max_length)
    windows = Windows(cut, config.window)
    learned, held = split(windows.texts, config.held_out, config.seed)
    test = [cut.examples[windows.texts[index]] for index in held][: arguments.test]
    known = [torch.tensor(cut.examples[windows.texts[index]].ids) for index in learned[:32]]
    model = engine.model  # type: ignore[attr-defined]
    options = {"rate": arguments.rate}
    methods: dict[str, AttentionMethod] = {"none skipped": LayerSkip()}
    if arguments.lora:
        methods["first, with bridges"] = szilard.First(LayerRouters.from_pretrained(folder), **options)
        methods["bridges, none skipped"] = szilard.First(LayerRouters.from_pretrained(folder), threshold=0)
        folder = folder / "routers"
    methods |= {
        "first": szilard.First(LayerRouters.from_pretrained(folder), **options),
        "unified": LayerSkip.unified(layers, skipped),
        "block influence": LayerSkip.block_influence(model, known, skipped),
        **{f"random {seed}": LayerSkip.random(layers, skipped, seed) for seed in range(arguments.random)},
    }
    for name, method in methods.items():
        key = {"part": "text", "method": name, "data": arguments.data.name, "rate": arguments.rate}
        key |= {"steps": arguments.steps, "limit": arguments.limit, "lora": arguments.lora, "window": arguments.window}
        if key in store:
            continue
        found, share = nats(model, method, test)
        sets = list(method.layers) if isinstance(method, LayerSkip) else None
        store.add(key, {"nats": found, "layers_run": share, "layers": sets, "training": metrics, "seconds": seconds})
        print(f"{name}: {found:.4f} nats per token, {share:.3f} of the layers {sets or ''}")


# ---- time ------------------------------------------------------------------------------------------------------------


def speed(arguments: argparse.Namespace) -> None:
    """Seconds per generated token with so many layers skipped, all counts in turn in every round."""
    store = Store("first")
    engine = szilard.load(engine="transformers")
    layers = len(engine.model.get_decoder().layers)  # type: ignore[attr-defined]
    methods = {skipped: LayerSkip.unified(layers, skipped) for skipped in arguments.skipped}
    taken: dict[int, list[float]] = {skipped: [] for skipped in methods}
    prompt = "Write a long story about a lighthouse keeper."
    for number in range(arguments.rounds + 1):  # the first warms up
        for skipped, method in methods.items():
            start = time.perf_counter()
            result = engine.generate(
                prompt, attention=method, max_new_tokens=arguments.tokens, min_new_tokens=arguments.tokens
            )
            if number:
                taken[skipped].append((time.perf_counter() - start) / len(result.tokens))
    whole = statistics.median(taken[0]) if 0 in taken else None
    for skipped, seconds in taken.items():
        key = {"part": "speed", "skipped": skipped, "layers": layers, "tokens": arguments.tokens}
        values: dict[str, Any] = {"kept": 1 - skipped / layers, "milliseconds": 1000 * statistics.median(seconds)}
        if whole is not None:
            values["time"] = statistics.median(seconds) / whole
        print(key, values)
        if key not in store:
            store.add(key, values | {"rounds": arguments.rounds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("tasks")
    one.add_argument("--model-steps", type=int, default=3000)
    one.add_argument("--router-steps", type=int, default=600)
    one.add_argument("--skipped", type=int, nargs="+", default=[1, 2, 3])
    one.add_argument("--seed", type=int, default=0)
    two = parts.add_parser("text")
    two.add_argument("--data", type=Path, required=True, help="texts, as `szilard train` takes them")
    two.add_argument("--output", type=Path, help="folder of the training; a stopped one goes on there")
    two.add_argument("--rate", type=float, default=0.1)
    two.add_argument("--steps", type=int, default=200)
    two.add_argument("--batch", type=int, default=4)
    two.add_argument("--window", type=int, default=128)
    two.add_argument("--limit", type=int, default=1000)
    two.add_argument("--held-out", type=float, default=0.1)
    two.add_argument("--learning-rate", type=float, default=1e-2)
    two.add_argument("--test", type=int, default=100, help="held-out texts that are measured")
    two.add_argument("--random", type=int, default=5, help="random sets")
    two.add_argument("--lora", action="store_true")
    three = parts.add_parser("speed")
    three.add_argument("--skipped", type=int, nargs="+", default=[0, 3, 6, 9, 12, 15])
    three.add_argument("--tokens", type=int, default=48)
    three.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    {"tasks": tasks, "text": text, "speed": speed}[arguments.part](arguments)


if __name__ == "__main__":
    main()
