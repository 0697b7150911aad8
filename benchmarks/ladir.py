"""LaDiR on problems that make themselves, with a small language model trained on the spot.

    python benchmarks/ladir.py --part chains --seed 0 -o build/ladir
    python benchmarks/ladir.py --part countdown --seed 0 -o build/ladir [--data FOLDER]

chains: arithmetic read from left to right. The base is a language model trained on spelled-out chains (which makes it the
AR CoT-SFT baseline, too); a copy is trained on answers alone (no CoT). Then the VAE, stage 1 and stage 2. Measured:
what the VAE writes again; accuracy with gold blocks and free-running, after stage 1 and after stage 2, against the number
of denoising steps and the initial noise; forward passes and time.

countdown: three numbers, a goal, several chains that reach it. pass@k of parallel trajectories with initial noise 1 and 2,
without guidance and with it (both signs), against sampling from the AR model as often.

A part that was stopped goes on where it was. Records go to results/ladir.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from transformers import AutoModelForCausalLM, LlamaConfig

from szilard.engines import TransformersEngine
from szilard.reasoning.examples import Reasoning
from szilard.reasoning.ladir.config import LadirConfig
from szilard.reasoning.ladir.diversity import DiversityGuidance
from szilard.reasoning.ladir.evaluation import answer_problems, thoughts_of, with_gold_blocks
from szilard.reasoning.ladir.training import STAGE_1, STAGE_2, VAE, ReasonerObjective, Trained, train_reasoner
from szilard.reasoning.supervised import SupervisedConfig, answers, same_answer, train_supervised
from szilard.reasoning.tasks import arithmetic_chains, countdown, number_tokenizer, solves_countdown
from szilard.training.learned import load_learned

STEPS = (1, 2, 5, 10, 20, 50)
TRAJECTORIES = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a part."""

    largest: int  # number that the tokenizer knows
    problems: int
    tested: int
    layers: int
    width: int
    base: SupervisedConfig
    direct: SupervisedConfig | None
    ladir: LadirConfig


VAE_SETTINGS: dict[str, Any] = {
    "vae_batch_size": 64,
    "vae_learning_rate": 2e-3,
    # The paper's k = 3 and p = 0.3 are for sentences with words to spare; an equation of five words has none.
    "latent_noise": 1.0,
    "token_sub_prob": 0.1,
    "latent_tokens": 2,
    "latent_dim": 16,
}
COMMON: dict[str, Any] = {"save_every": 100, "log_every": 50, "warmup": 0.05}
PLANS = {
    "chains": Plan(
        largest=6,
        problems=20_000,
        tested=300,
        layers=2,
        width=128,
        base=SupervisedConfig(steps=700, batch_size=32, learning_rate=2e-3, max_new_tokens=32, **COMMON),
        direct=SupervisedConfig(steps=1000, batch_size=32, learning_rate=1e-3, max_new_tokens=4, chain=False, **COMMON),
        ladir=LadirConfig(
            vae_steps=1000,
            steps=1000,  # enough to read gold blocks, not to make its own: what stage 2 is for
            batch_size=64,
            learning_rate=2e-3,
            noise_draws=2,
            stage2_steps=400,
            stage2_batch_size=16,
            stage2_learning_rate=5e-4,
            rollout_steps=5,
            evaluate_every=200,
            eval_problems=64,
            max_new_tokens=4,
            **VAE_SETTINGS,
            **(COMMON | {"save_every": 100}),
        ),
    ),
    "countdown": Plan(
        largest=80,
        problems=30_000,
        tested=150,
        layers=2,
        width=128,
        base=SupervisedConfig(steps=3000, batch_size=32, learning_rate=2e-3, max_new_tokens=24, **COMMON),
        direct=None,
        ladir=LadirConfig(
            vae_steps=1500,
            steps=3000,
            batch_size=64,
            learning_rate=2e-3,
            noise_draws=2,
            stage2_steps=300,
            stage2_batch_size=16,
            stage2_learning_rate=5e-4,
            rollout_steps=5,
            evaluate_every=500,
            eval_problems=64,
            max_new_tokens=24,
            **VAE_SETTINGS,
            **COMMON,
        ),
    ),
}
NUMBERS, GOAL = 3, 20  # of a countdown: numbers, and the largest number given or reached


def chains(plan: Plan, seed: int) -> tuple[list[Reasoning], list[Reasoning]]:
    """Problems to learn from, and others to be asked."""
    made = arithmetic_chains(plan.problems + plan.tested, seed=seed, steps=(2, 4), modulus=plan.largest + 1)
    return made[: plan.problems], made[plan.problems :]


def puzzles(plan: Plan, seed: int, data: Path | None) -> tuple[list[Reasoning], list[Reasoning]]:
    """Puzzles to learn from, and others to be asked (of a file those with numbers small enough); the answer is the chain."""
    made = countdown(plan.problems + plan.tested, seed=seed, numbers=NUMBERS, largest=GOAL)
    made = [dataclasses.replace(one, answer=one.cot) for one in made]
    learned, asked = made[: plan.problems], made[plan.problems :]
    if data is not None:
        known = {one.problem for one in learned}
        asked = []
        for line in (data / "puzzles" / "cd3_test.jsonl").read_text(encoding="utf-8").splitlines():
            *given, goal = json.loads(line)["input"].split(",")
            problem = f"{' , '.join(given)} -> {goal}"
            if max(map(int, [*given, goal])) <= GOAL and problem not in known:
                asked.append(Reasoning(problem, "1 + 1 = 2 ; 2 + 1 = 3", "3"))  # only the problem is asked
        asked = asked[: plan.tested]
        if not asked:
            raise ValueError(f"{str(data)!r} has no puzzle with numbers up to {GOAL}: leave --data out.")
    return learned, asked


def train(
    plan: Plan,
    learned: Sequence[Reasoning],
    kept: Sequence[Reasoning],
    right: Callable[[str, str], bool],
    folder: Path,
    seed: int,
) -> tuple[TransformersEngine, Any, Trained]:
    """The base (AR CoT-SFT), the model that learned answers alone, and LaDiR's parts."""
    tokenizer = number_tokenizer(plan.largest)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=3 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    few = kept[:64]
    settings = dataclasses.replace(plan.base, seed=seed)
    train_supervised(model, tokenizer, learned, few, settings, folder / "base", device="cpu", right=right)
    direct = None
    if plan.direct is not None:
        direct = AutoModelForCausalLM.from_config(config).eval()
        direct.load_state_dict(model.state_dict())
        settings = dataclasses.replace(plan.direct, seed=seed)
        train_supervised(direct, tokenizer, learned, few, settings, folder / "direct", device="cpu", right=right)
    engine = TransformersEngine(model, tokenizer, name="small")
    trained = train_reasoner(
        engine, learned, kept, dataclasses.replace(plan.ladir, seed=seed), folder / "ladir", right=right
    )
    return engine, direct, trained


def run_chains(seed: int, folder: Path, store: Store, plan: Plan) -> None:
    """The part of the arithmetic chains."""
    learned, asked = chains(plan, seed)
    engine, direct, trained = train(plan, learned, asked[: plan.ladir.eval_problems], same_answer, folder, seed)
    tokenizer, key = engine.tokenizer, {"part": "chains", "seed": seed}
    problems = [one.problem for one in asked]
    for name, model, config in (("AR CoT-SFT", engine.model, plan.base), ("no CoT", direct, plan.direct)):
        own = key | {"model": name}
        if own not in store:
            start = time.process_time()
            found = answers(model, tokenizer, problems, config, batch_size=100)
            good = [same_answer(one.answer, other.answer) for one, other in zip(found, asked, strict=True)]
            passes = sum(max(one.passes for one in found[at : at + 100]) for at in range(0, len(found), 100))
            record(store, own, accuracy=mean(good), forward_passes=passes, cpu_seconds=time.process_time() - start)
    own = {"part": "chains: the VAE", "seed": seed}
    if own not in store:
        last = trained.stages[VAE].evaluations[-1]
        record(store, own, **{name: last[name] for name in ("right", "exact", "ce", "kl")})
    for stage in (STAGE_1, STAGE_2):
        load_learned(
            ReasonerObjective(trained.reasoner, plan.ladir, rollout=False),
            folder / "ladir" / stage / "best.safetensors",
        )
        own = key | {"model": f"LaDiR {stage}", "blocks": "gold"}
        if own not in store:
            gold = with_gold_blocks(trained.reasoner, thoughts_of(trained.vae, tokenizer, asked))
            record(store, own, accuracy=gold)
        for noise in (1.0, 2.0):
            for steps in STEPS:
                own = key | {
                    "model": f"LaDiR {stage}",
                    "blocks": "its own",
                    "initial_noise": noise,
                    "denoising_steps": steps,
                }
                if own in store:
                    continue
                measure_chain(trained, asked, store, own, num_steps=steps, initial_noise=noise)
        for tolerance in (0.1, 0.03):
            own = key | {
                "model": f"LaDiR {stage}",
                "blocks": "its own",
                "initial_noise": 1.0,
                "denoising_steps": f"50, tolerance {tolerance}",
            }
            if own not in store:
                measure_chain(trained, asked, store, own, num_steps=50, initial_noise=1.0, tolerance=tolerance)


def measure_chain(
    trained: Trained, asked: Sequence[Reasoning], store: Store, own: dict[str, Any], **options: Any
) -> None:
    """Accuracy, right thoughts, forwards and time of one setting."""
    start = time.process_time()
    outputs = answer_problems(
        trained.reasoner,
        [one.problem for one in asked],
        batch_size=100,
        max_blocks=6,
        max_new_tokens=4,
        decode_thoughts=False,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    seconds = time.process_time() - start
    said = [answer for output in outputs for answer in output.answers]
    blocks = [own for output in outputs for own in output.blocks]
    texts = iter(trained.vae.decode(torch.cat(blocks), max_new_tokens=12))
    thoughts = [[next(texts) for _ in range(len(own))] for own in blocks]
    record(
        store,
        own,
        accuracy=mean([same_answer(one, other.answer) for one, other in zip(said, asked, strict=True)]),
        whole_chain_right=mean([tuple(one) == other.steps for one, other in zip(thoughts, asked, strict=True)]),
        forward_passes=sum(output.num_forward_passes for output in outputs),
        steps_per_block=mean([taken for output in outputs for row in output.steps for taken in row]),
        cpu_seconds=seconds,
    )


def run_countdown(seed: int, folder: Path, store: Store, plan: Plan, data: Path | None) -> None:
    """The part of the puzzles."""
    learned, asked = puzzles(plan, seed, data)
    kept = puzzles(plan, seed, None)[1][: plan.ladir.eval_problems]
    asks = {one.answer: one.problem for one in (*learned, *kept)}

    def right(said: str, wanted: str) -> bool:
        return solves_countdown(asks.get(wanted, wanted), said)

    engine, _, trained = train(plan, learned, kept, right, folder, seed)
    problems = [one.problem for one in asked]
    key: dict[str, Any] = {"part": "countdown", "seed": seed, "puzzles": "made" if data is None else "cd3_test"}
    repeated = [problem for problem in problems for _ in range(TRAJECTORIES)]
    for temperature in (0.7, 1.0):
        own = key | {"model": "AR CoT-SFT, sampled", "temperature": temperature}
        if own not in store:
            torch.manual_seed(seed)
            options = {"do_sample": True, "temperature": temperature, "top_k": 0}
            found = [one.chain for one in answers(engine.model, engine.tokenizer, repeated, plan.base, **options)]
            record(store, own, **pass_at(problems, found))
    for stage in (STAGE_1, STAGE_2):
        load_learned(
            ReasonerObjective(trained.reasoner, plan.ladir, rollout=False),
            folder / "ladir" / stage / "best.safetensors",
        )
        for noise in (1.0, 2.0):
            for gamma, sign in ((0.0, "none"), (0.1, "repulsive"), (0.3, "repulsive"), (0.3, "official")):
                own = key | {"model": f"LaDiR {stage}", "initial_noise": noise, "gamma_max": gamma, "guidance": sign}
                if own in store:
                    continue
                guidance = DiversityGuidance(gamma, guidance_sign=sign) if gamma else None
                outputs = answer_problems(
                    trained.reasoner,
                    problems,
                    batch_size=25,
                    num_trajectories=TRAJECTORIES,
                    num_steps=20,
                    initial_noise=noise,
                    diversity=guidance,
                    max_blocks=3,
                    max_new_tokens=24,
                    generator=torch.Generator().manual_seed(seed),
                )
                record(store, own, **pass_at(problems, [answer for output in outputs for answer in output.answers]))


def pass_at(problems: Sequence[str], said: Sequence[str]) -> dict[str, Any]:
    """pass@k without bias, and different right chains per puzzle; `said` holds TRAJECTORIES chains per problem."""
    rights = []
    different = []
    for row, problem in enumerate(problems):
        own = said[row * TRAJECTORIES : (row + 1) * TRAJECTORIES]
        good = [chain for chain in own if solves_countdown(problem, chain)]
        rights.append(len(good))
        different.append(len(set(good)))
    n = TRAJECTORIES
    found = {f"pass@{k}": mean([1 - math.comb(n - c, k) / math.comb(n, k) for c in rights]) for k in (1, 2, 4, 8)}
    return found | {"different_right_chains": mean(different), "different_chains": distinct(said)}


def distinct(said: Sequence[str]) -> float:
    """Different texts per puzzle."""
    return mean([len(set(said[at : at + TRAJECTORIES])) for at in range(0, len(said), TRAJECTORIES)])


def mean(values: Sequence[float]) -> float:
    """Of numbers or truths."""
    return float(sum(values) / max(1, len(values)))


def record(store: Store, key: dict[str, Any], **values: Any) -> None:
    """Keep and show."""
    store.add(key, values)
    print({name: value for name, value in key.items() if name != "part"}, values, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PLANS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder with puzzles/cd3_test.jsonl; else puzzles are made")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/ladir"), help="for models and checkpoints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    folder = arguments.output / f"{arguments.part}-{arguments.seed}"
    store, plan = Store("ladir"), PLANS[arguments.part]
    if arguments.part == "chains":
        run_chains(arguments.seed, folder, store, plan)
    else:
        run_countdown(arguments.seed, folder, store, plan, arguments.data)
    print(f"{(time.process_time() - start) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
