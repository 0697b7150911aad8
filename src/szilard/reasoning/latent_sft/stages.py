"""The stages of Latent-SFT around one model: what learns in each, what it is measured by, and what it hands on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from szilard.reasoning.examples import Reasoning
from szilard.reasoning.latent_sft.config import SUB_STEPS, LatentSFTConfig
from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.generate import latent_generate
from szilard.reasoning.latent_sft.labels import forget_labels, generate_soft_labels
from szilard.reasoning.latent_sft.method import LatentSFT
from szilard.reasoning.latent_sft.samples import Sample, Stage1Data, Stage2Data, as_samples
from szilard.reasoning.latent_sft.stage1 import LatentSFTStage1
from szilard.reasoning.latent_sft.stage2 import LatentSFTStage2
from szilard.reasoning.latent_sft.superposition import VocabularySpace
from szilard.reasoning.latent_sft.warm_start import WORDS, WarmStart
from szilard.reasoning.supervised import same_answer
from szilard.training import low_rank
from szilard.training.loop import Batch, planned_steps
from szilard.training.recipe import Stage, StageResult, own_chance, run_recipe

CHAIN = "chain"  # stage 2
BEST = "accuracy_then_loss"  # what checkpoints are chosen by: among equally many right answers, the smaller loss
_LOSS_COUNTS = 1e-5  # less than one answer


class LatentTraining:
    """The stages of one training, around one model; open as a context, behind which the model has its own weights.

    Args:
        model: a causal language model; tuned in place while this is open.
        tokenizer: its own.
        learned, held: problems to learn, and to choose checkpoints by.
        config: the settings.
        labels: folder that keeps the encoder's labels.
        device: None: what there is.
        progress: is told (done, total) of labelled problems.

    Raises:
        ValueError: no problem, one that is too long for the model, a delimiter the tokenizer lacks, weights in half
            precision that are to be tuned whole.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        learned: Sequence[Reasoning],
        held: Sequence[Reasoning],
        config: LatentSFTConfig,
        *,
        labels: Path,
        device: torch.device | str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not learned:
            raise ValueError("there is no problem to learn from.")
        if not config.lora and model.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"tuning every weight in {model.dtype} loses small steps: load it with float32.")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.held, self.labels, self.device, self.progress = held[: config.evaluation_limit], labels, device, progress
        self.learned = as_samples(learned, tokenizer, config)
        self.measured = as_samples(self.held, tokenizer, config)
        _check_lengths(self.learned, self.measured, model, config)
        self._wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
        keep = (lambda weight: weight) if config.lora else torch.Tensor.clone  # adapters leave the old tensors alone
        self._before = {name: keep(weight.data) for name, weight in model.named_parameters()}
        self._merged = False
        try:
            model.requires_grad_(False)
            space = VocabularySpace(model, config.readout, config.top_k)
            self.encoder = LatentTokenEncoder(model.get_decoder(), space, config)
            if config.lora:  # what is frozen in both lies there once
                own = dict(model.get_decoder().named_parameters())
                for name, weight in self.encoder.backbone.named_parameters():
                    weight.data = own[name].data
            self._open_weights(model, 0)
            self._open_weights(self.encoder.backbone, 1, everything=True)
            self.encoder.compress.requires_grad_(True)
        except BaseException:
            self.restore()
            raise

    def __enter__(self) -> LatentTraining:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _open_weights(self, model: Any, number: int, everything: bool = False) -> None:
        """Choose what learns: adapters, or the weights; of the decoder not the input embeddings, in which labels are
        read out and latent tokens are written."""
        config = self.config
        if config.lora:
            with own_chance(config.seed + number):
                low_rank.inject(model, config.rank, config.lora_dropout)
        else:
            model.requires_grad_(True)
            model.get_input_embeddings().weight.requires_grad_(everything)

    def restore(self) -> None:
        """Give the model its own layers and weights back."""
        low_rank.remove(self.model)
        for name, weight in self.model.named_parameters():
            weight.data = self._before[name]
            weight.requires_grad_(self._wanted[name])

    def stages(self) -> list[Stage]:
        """Encoder, decoder, both, and the chain; before them, where it is asked for, the words."""
        config = self.config
        first = dataclasses.replace(
            config, epochs=config.stage_1_epochs, steps=config.stage_1_steps, learning_rate=config.stage_1_learning_rate
        )
        data = Stage1Data(self.learned, config.compression_rate)
        best = BEST if self.held else None
        found = [
            Stage(
                name=part,
                config=first,
                objective=lambda part=part: LatentSFTStage1(self.encoder, self.model, config, part),  # type: ignore[misc]
                data=lambda: data,
                collate=data.collate,
                learns=self._learns(part),
                evaluate=self._measure_stage_1 if self.held else None,
                evaluate_every=self._every(first),
                best=best,
            )
            for part in SUB_STEPS
        ]
        chain = Stage(
            name=CHAIN,
            config=config,
            objective=self._stage_2,
            data=self._labelled,
            collate=Stage2Data.collate,
            evaluate=self._measure_stage_2 if self.held else None,
            evaluate_every=self._every(config),
            best=best,
        )
        if not config.warm_start_steps:
            return [*found, chain]
        words = Stage(
            name=WORDS,
            config=dataclasses.replace(first, steps=config.warm_start_steps),
            objective=lambda: WarmStart(self.encoder, len(self.learned[0].close)),
            data=lambda: data,
            collate=data.collate,
            learns=self._learns("encoder"),
        )
        return [words, *found, chain]

    def _learns(self, part: str) -> Callable[[str], bool]:
        probe = LatentSFTStage1(self.encoder, self.model, self.config)
        names = {name for name, weight in probe.named_parameters() if weight.requires_grad}
        return lambda name: name in names and (part == "both" or name.startswith(f"{part}."))

    def _every(self, config: LatentSFTConfig) -> int | None:
        """Steps between evaluations: checkpoints' steps times a whole number."""
        if not self.held:
            return None
        between = planned_steps(len(self.learned), config) / self.config.evaluations
        return config.save_every * max(1, math.ceil(between / config.save_every))

    def _stage_2(self) -> nn.Module:
        """The decoder goes on alone, from stage 1's best weights."""
        if self.config.lora:
            low_rank.merge(self.model)
            self._open_weights(self.model, 2)
        return LatentSFTStage2(self.model, self.config, self.learned[0].close[0])

    def _labelled(self) -> Stage2Data:
        """The problems with the encoder's labels. Neither it nor the embeddings changed since stage 1; it goes."""
        processes = PartialState()
        with processes.main_process_first():
            labels = generate_soft_labels(
                self.encoder,
                [*self.learned, *self.measured],
                self.labels,
                batch_size=self.config.label_batch,
                progress=self.progress if processes.is_main_process else None,
            )
        self.encoder.to("meta")
        self._unseen = Stage2Data(self.measured, labels[len(self.learned) :])
        return Stage2Data(self.learned, labels[: len(self.learned)])

    @torch.no_grad()
    def _measure_stage_1(self, objective: nn.Module) -> dict[str, float]:
        """On held-out problems: share of right answers from the encoder's latent tokens, and the loss."""
        data = Stage1Data(self.measured, self.config.compression_rate)
        return _chosen_by(self._means(objective, data, data.collate, ("answers", "loss")))

    @torch.no_grad()
    def _measure_stage_2(self, objective: nn.Module) -> dict[str, float]:
        """On held-out problems: see `answer`, and the losses, with the encoder's latent tokens put in."""
        found = self._means(objective, self._unseen, Stage2Data.collate, ("loss", "kl", "ce"))
        return _chosen_by(self.answer() | found)

    def _means(
        self, objective: nn.Module, data: Any, collate: Callable[[list[Any]], Batch], names: Sequence[str]
    ) -> dict[str, float]:
        """Of what an objective measures, over problems."""
        size = self.config.label_batch
        sums = dict.fromkeys(names, 0.0)
        for start in range(0, len(data), size):
            rows = [data[index] for index in range(start, min(start + size, len(data)))]
            batch = {name: values.to(self.model.device) for name, values in collate(rows).items()}
            found = objective(**batch)
            for name in names:
                sums[name] += len(rows) * float(found[name])
        return {"accuracy" if name == "answers" else name: total / len(data) for name, total in sums.items()}

    def answer(self) -> dict[str, float]:
        """On held-out problems: share of right answers from chains of the model's own, and their latent steps."""
        config = self.config
        method = LatentSFT(
            top_k=config.top_k,
            feedback=config.feedback,
            think_open=config.think_open,
            think_close=config.think_close,
            max_latent_steps=config.max_latent_steps,
            max_answer_tokens=config.max_answer_tokens,
        )
        answers = latent_generate(
            self.model,
            self.tokenizer,
            [one.problem for one in self.held],
            method=method,
            instruction=config.instruction,
            batch_size=config.label_batch,
        )
        right = [same_answer(one.text, wanted.answer) for one, wanted in zip(answers, self.held, strict=True)]
        return {
            "accuracy": sum(right) / len(right),
            "latent_steps": sum(one.latent_steps for one in answers) / len(answers),
        }

    def run(self, folder: Path, *, resume: bool = True) -> dict[str, StageResult]:
        """All stages; afterwards the model holds the chain's best weights, adapters folded in.

        Args:
            folder: a folder per stage.
            resume: go on with what is there.
        """
        if not resume:
            forget_labels(self.labels)
        results = run_recipe(self.stages(), folder, resume=resume, device=self.device)
        if self.config.lora:
            low_rank.merge(self.model)
        return results


def _chosen_by(found: dict[str, float]) -> dict[str, float]:
    return found | {BEST: found["accuracy"] - _LOSS_COUNTS * found["loss"]}


def _check_lengths(learned: Sequence[Sample], measured: Sequence[Sample], model: Any, config: LatentSFTConfig) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not longest:
        return
    answered = max((len(one.prefix) + len(one.close) for one in measured), default=0)
    if measured and (most := answered + config.max_latent_steps + config.max_answer_tokens) > longest:
        raise ValueError(
            f"a held-out problem with max_latent_steps={config.max_latent_steps} and max_answer_tokens="
            f"{config.max_answer_tokens} may need {most} tokens, and the model reads {longest}: lower one of them."
        )
    most = max(
        len(one.prefix) + len(one.chain) + -(-len(one.chain) // config.compression_rate) + len(one.after)
        for one in (*learned, *measured)
    )
    if most > longest:
        raise ValueError(
            f"a problem with its chain, latent tokens and answer has {most} tokens, and the model reads {longest}: "
            "leave out the longest, or take another model."
        )


def best_row(result: StageResult) -> dict[str, float]:
    """The evaluation whose weights were handed on."""
    return next(row for row in result.evaluations if row["step"] == result.best_step)
