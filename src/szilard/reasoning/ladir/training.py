"""LaDiR's three trainings, one after the other: the VAE, stage 1 on gold blocks, stage 2 on the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset

from szilard.engines.engine import Engine
from szilard.reasoning.examples import Reasoning, prompt_ids, read_reasoning, reasoning_digest
from szilard.reasoning.ladir.checkpoint import write_checkpoint
from szilard.reasoning.ladir.config import LadirConfig
from szilard.reasoning.ladir.evaluation import free_running, thoughts_of, with_gold_blocks
from szilard.reasoning.ladir.packing import Thought, ThoughtData, packer
from szilard.reasoning.ladir.reasoner import LaDiRReasoner
from szilard.reasoning.ladir.vae import SentenceVAE, as_engine, pad_ids
from szilard.reasoning.supervised import same_answer
from szilard.training.course import split
from szilard.training.loop import NOTHING, Batch, uses_fsdp
from szilard.training.recipe import Stage, StageResult, own_chance, run_recipe
from szilard.training.run_folder import check_ours, claim
from szilard.whole_folder import held, write_whole

VAE, STAGE_1, STAGE_2 = "vae", "stage-1", "stage-2"
_MADE_FOR = "# szilard ladir training for"
_FILES = ("training.yaml", "held-out.yaml", "config.json", "model.safetensors")
_LOSS_COUNTS = 1e-4  # of the held-out loss beside the accuracy, where the best weights are chosen
_BEYOND = 8  # tokens
_MOST_SENTENCES = 256  # that an evaluation of the VAE writes again


@dataclass(frozen=True)
class Trained:
    """What the trainings made.

    Attributes:
        vae, reasoner: trained.
        stages: what each training did, by its name.
    """

    vae: SentenceVAE
    reasoner: LaDiRReasoner
    stages: dict[str, StageResult]


class Sentences(Dataset[list[int]]):
    """Sentences in tokens."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[int]:
        return self.rows[index]

    @staticmethod
    def collate(rows: Sequence[list[int]]) -> Batch:
        """{"ids" int64, "real" bool}, [batch, width]."""
        ids, real = pad_ids(rows)
        return {"ids": ids, "real": real}


class _Objective(nn.Module):
    """A loss as the training loop takes it; parts that are new to the model have a learning rate of their own."""

    skips_parameters = True  # a batch whose questions are all kept leaves the null vector out

    def __init__(self, config: LadirConfig) -> None:
        super().__init__()
        self.settings = config

    def learning_rate_of(self, name: str) -> float:
        """Of a parameter."""
        rate, own = self.settings.learning_rate, self.settings.parts_learning_rate
        return own if own is not None and ".parts." in f".{name}" else rate


class VaeObjective(_Objective):
    """Reconstruction of sentences; see `SentenceVAE.loss`."""

    def __init__(self, vae: SentenceVAE, config: LadirConfig) -> None:
        super().__init__(config)
        self.vae = vae

    def forward(self, ids: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch, int64 and bool [batch, width]."""
        return self.vae.loss({"ids": ids, "real": real})


class ReasonerObjective(_Objective):
    """Stage 1's loss, or stage 2's."""

    def __init__(self, reasoner: LaDiRReasoner, config: LadirConfig, *, rollout: bool) -> None:
        super().__init__(config)
        self.reasoner, self.rollout = reasoner, rollout

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch; see `packing.packer`."""
        if not self.rollout:
            return self.reasoner.stage1_loss(batch)
        config = self.settings
        return self.reasoner.stage2_loss(
            batch, config.rollout_steps, initial_noise=config.rollout_noise, checkpointing=config.checkpointing
        )


def check_problems(engine: Engine, examples: Sequence[Reasoning], config: LadirConfig) -> None:
    """Refuse problems that would stop a training half-way.

    Args:
        engine: the pretrained model.
        examples: problems, chains and answers.
        config: the settings.

    Raises:
        ValueError: a chain without any step, or more positions than the model has: for question, blocks and answer, or
            for a sentence beside its thought tokens.
    """
    tokenizer, window = engine.tokenizer, engine.context_window
    for example in examples:
        problem = f"the problem {example.problem[:60]!r}"
        if not example.steps:
            raise ValueError(f"{problem} has a chain without any step, {example.cot[:60]!r}: give it one, or drop it.")
        if window is None:
            continue
        asked = len(prompt_ids(tokenizer, example.problem, config.instruction))
        answer = len(tokenizer.encode(example.answer, add_special_tokens=False)) + 1
        whole = asked + len(example.steps) * (config.latent_tokens + 2) + answer
        if whole > window:
            raise ValueError(
                f"{problem} takes {whole} positions (question {asked}, {len(example.steps)} blocks of "
                f"{config.latent_tokens + 2}, answer {answer}), but {engine.name} has {window}: shorten or drop it."
            )
        if asked + config.max_new_tokens > window:
            raise ValueError(
                f"{problem} of {asked} tokens leaves no room for max_new_tokens={config.max_new_tokens} in the "
                f"{window} positions of {engine.name}: lower it, or drop the problem."
            )
        sentence = max(len(tokenizer.encode(step, add_special_tokens=False)) for step in example.steps)
        if sentence + config.latent_tokens + 1 + _BEYOND > window:
            raise ValueError(
                f"{problem} has a sentence of {sentence} tokens, too long beside {config.latent_tokens} thought tokens "
                f"for the {window} positions of {engine.name}: cut it in two, or drop the problem."
            )


def train_reasoner(
    engine: Engine,
    learned: Sequence[Reasoning],
    kept: Sequence[Reasoning],
    config: LadirConfig,
    folder: Path,
    *,
    resume: bool = True,
    right: Callable[[str, str], bool] = same_answer,
) -> Trained:
    """Train a VAE and a reasoner; stopped trainings go on.

    Args:
        engine: the pretrained model; it stays as it is.
        learned: problems to learn.
        kept: problems for the evaluations.
        config: the settings.
        folder: gets a folder per stage.
        resume: False: forget earlier trainings in the folder.
        right: compares an answer with the wanted one.

    Raises:
        ValueError: no problems, one that does not fit (see `check_problems`), or other settings than an unfinished
            training's in the folder.
    """
    if uses_fsdp():
        raise ValueError("LaDiR trains weights inside a model, which FSDP would take apart: train it with DDP.")
    if not learned or not kept:
        raise ValueError(NOTHING)
    engine = as_engine(engine)
    check_problems(engine, [*learned, *kept], config)
    with own_chance(config.seed):
        return _train(engine, learned, kept, config, folder, resume, right)


def _train(
    engine: Engine,
    learned: Sequence[Reasoning],
    kept: Sequence[Reasoning],
    config: LadirConfig,
    folder: Path,
    resume: bool,
    right: Callable[[str, str], bool],
) -> Trained:
    rank = config.rank if config.lora else None
    vae = SentenceVAE.from_pretrained(
        engine,
        latent_tokens=config.latent_tokens,
        latent_dim=config.latent_dim,
        beta=config.beta,
        latent_noise=config.latent_noise,
        token_sub_prob=config.token_sub_prob,
        ae_token=config.ae_token,
        lora_rank=rank,
    )
    reasoner = LaDiRReasoner.from_pretrained(
        engine,
        vae=vae,
        objective=config.objective,
        lambdas=(config.lambda_flow, config.lambda_answer, config.lambda_special),
        cond_dropout=config.cond_dropout,
        span=config.span,
        lora_rank=rank,
        sample_latents=config.sample_latents,
    )
    sentences = [step for example in learned for step in example.steps]
    tested = list(dict.fromkeys(step for example in kept for step in example.steps))[:_MOST_SENTENCES]
    few = kept[: config.eval_problems]
    pack = packer(config.latent_tokens, config.latent_dim, config.span, config.noise_draws)
    encoded: dict[str, list[Thought]] = {}

    def latents() -> dict[str, list[Thought]]:
        """Of all problems, once the VAE is trained; the same in a run that was stopped."""
        if not encoded:
            vae.eval()
            vae.fit_normaliser(sentences, config.normalise)
            for name, examples in (("learned", learned), ("kept", few)):
                encoded[name] = thoughts_of(vae, engine.tokenizer, examples, config.instruction)
        return encoded

    def reconstructs(_: nn.Module) -> dict[str, float]:
        ids, real = vae.tokens(tested)
        found = vae.loss({"ids": ids, "real": real})
        room = ids.shape[1] + _BEYOND  # a sentence that does not end is none
        again = vae.decode(vae.encode(tested), max_new_tokens=room)
        wanted = engine.tokenizer.batch_decode(Sentences(engine.tokenizer, tested).rows, skip_special_tokens=True)
        exact = [one == other.strip() for one, other in zip(again, wanted, strict=True)]
        return {name: float(found[name]) for name in ("ce", "kl", "right")} | {"exact": sum(exact) / len(exact)}

    def reasons(_: nn.Module) -> dict[str, float]:
        settings = {"num_steps": config.eval_steps, "initial_noise": config.eval_noise}
        found = free_running(
            reasoner,
            few,
            right,
            instruction=config.instruction,
            max_new_tokens=config.max_new_tokens,
            generator=torch.Generator().manual_seed(config.seed),
            **settings,
        )
        batch = {name: value.to(reasoner.model.device) for name, value in pack(latents()["kept"]).items()}
        loss = float(reasoner.stage1_loss(batch)["loss"])
        gold = with_gold_blocks(reasoner, latents()["kept"])
        # Weights that answer nothing yet are told apart by their loss.
        return found | {"with_gold": gold, "loss": loss, "score": found["accuracy"] - _LOSS_COUNTS * loss}

    def stage(name: str, settings: LadirConfig, *, rollout: bool) -> Stage:
        def objective() -> nn.Module:
            latents()
            if config.read_as_decoder and not rollout:
                reasoner.read_as_decoder()
            return ReasonerObjective(reasoner, settings, rollout=rollout)

        return Stage(
            name=name,
            config=settings,
            objective=objective,
            data=lambda: ThoughtData(latents()["learned"]),
            collate=pack,
            evaluate=reasons,
            evaluate_every=config.evaluate_every,
            best="score",
        )

    stages = [
        Stage(
            name=VAE,
            config=config.of_vae(),
            objective=lambda: VaeObjective(vae, config.of_vae()),
            data=lambda: Sentences(engine.tokenizer, sentences),
            collate=Sentences.collate,
            evaluate=reconstructs,
            evaluate_every=config.evaluate_every,
            best="ce",
            higher_is_better=False,
        ),
        stage(STAGE_1, config, rollout=False),
    ]
    if config.stage2:
        stages.append(stage(STAGE_2, config.of_stage2(), rollout=True))
    done = run_recipe(stages, folder, resume=resume, device=engine.device.type)  # type: ignore[attr-defined]
    for module in (vae, reasoner):
        module.eval().requires_grad_(False)
    return Trained(vae, reasoner, done)


def train_ladir(
    engine: Engine,
    data: Path,
    config: LadirConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train a reasoner and write it to a folder that `szilard.load` opens; a stopped run goes on.

    Args:
        engine: the pretrained model, on transformers; it stays as it is.
        data: problems with chains and answers, as `read_reasoning` takes them.
        config: the settings.
        folder: gets the reasoner's model and tokenizer; in `ladir/` what belongs to it; `training.yaml`,
            `held-out.yaml`, and per stage metrics and evaluations.
        cache, progress: not used; latents are encoded in moments.
        limit: only the first so many problems.
        restart: forget an earlier run in the folder.

    Returns:
        On held-out problems: "accuracy", "blocks", "as_many", "with_gold", "loss" (of stage 1), and "exact": sentences
        that the VAE writes again.

    Raises:
        ValueError: unusable data, another model than the folder's, or other settings than its unfinished run's.
    """
    examples = read_reasoning(data, limit)
    chosen, kept = split(range(len(examples)), config.held_out, config.seed)
    if not chosen or not kept:
        raise ValueError(
            f"{len(examples)} problems with held_out={config.held_out} leave none to learn, or to measure."
        )
    check_problems(as_engine(engine), examples, config)  # before the folder belongs to these data
    text = f"{_MADE_FOR} {engine.name} ({engine.fingerprint})\n# data: {reasoning_digest(examples)}\n{config.to_yaml()}"
    process = PartialState(**({"cpu": True} if engine.device.type == "cpu" else {}))  # type: ignore[attr-defined]
    stages = (VAE, STAGE_1, STAGE_2)
    check_ours(folder, _MADE_FOR, (*stages, "ladir", *_FILES))
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f".lock-{process.process_index}", f"the folder {str(folder)!r}"):
        if process.is_main_process:
            other = "settings or data, or of another model"
            claim(folder, text, folders=(*stages, "ladir"), files=_FILES, restart=restart, other=other)
        process.wait_for_everyone()
        to_learn, to_ask = ([examples[index] for index in rows] for rows in (chosen, kept))
        trained = train_reasoner(engine, to_learn, to_ask, config, folder)
        last = trained.stages[STAGE_2 if config.stage2 else STAGE_1]
        metrics = _at(last) | {"exact": _at(trained.stages[VAE])["exact"]}
        if process.is_main_process:
            write_checkpoint(trained.reasoner, trained.vae, folder, engine if config.store_base else None)
            write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
        process.wait_for_everyone()
    return metrics if process.is_main_process else {}


def _at(result: StageResult) -> dict[str, float]:
    """The evaluation of the weights that a stage handed on."""
    rows = [row for row in result.evaluations if row["step"] == result.best_step]
    return {name: value for name, value in rows[-1].items() if name not in ("step", "score")}
