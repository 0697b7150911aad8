"""`szilard train medusa`, `refrag`, `lud`, ...: parts for a model, or the model itself. Every setting is a flag."""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szilard.attention.first.config import FirstConfig
from szilard.cli import options as o
from szilard.cli.loading import errors, load_engine, needs, note, training_device
from szilard.compression.mean_pool.config import MeanPoolConfig
from szilard.compression.refrag.config import RefragConfig
from szilard.diffusion.training_config import MaskedDiffusionTraining
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.supervised_config import SupervisedConfig
from szilard.speculative import draft_config
from szilard.training.config import TrainingConfig
from szilard.training.hyperfitting.config import HyperfitConfig

_TRAINER = "szilard.speculative.draft_training"


class Trained(NamedTuple):
    """What a command trains.

    Attributes:
        config: its settings.
        module: where its training is.
        trains: in it, the objective's class or a training of its own.
        what: is trained, in words.
        reads: checks the data before a model is loaded.
        model: what becomes of the model, in a sentence.
        alone: it runs in one process.
        cached: it computes hidden states or labels of the texts beforehand, which `--cache` keeps.
    """

    config: type[TrainingConfig]
    module: str
    trains: str
    what: str
    reads: str = "szilard.training.corpus:read_texts"
    model: str = "The model stays as it is."
    alone: bool = False
    cached: bool = False


_ANEW = "The tuned model is written as a folder of its own."
REASONING = "szilard.reasoning.examples:read_reasoning"  # problems with a chain of thought and an answer
HEADS: dict[str, Trained] = {
    "chimera": Trained(
        draft_config.ChimeraConfig,
        "szilard.speculative.chimera.training",
        "ChimeraObjective",
        "Chimera's drafter: trigrams fused with the text's hidden states",
        cached=True,
    ),
    "cot": Trained(
        SupervisedConfig,
        "szilard.reasoning.cot_training",
        "train_cot",
        "a model that writes its chain of thought between <think> and </think>, and then the answer",
        REASONING,
        model=_ANEW,
    ),
    "first": Trained(
        FirstConfig,
        "szilard.attention.first.training",
        "train_first",
        "FiRST's routers, which choose the layers that a prompt's answer needs (--lora: and bridge the gaps)",
    ),
    "flash": Trained(
        draft_config.FlashConfig,
        "szilard.speculative.flash.training",
        "FlashObjective",
        "Flash's drafter: several features per forward, images compressed",
        cached=True,
    ),
    "hidden-transfer": Trained(
        draft_config.HiddenTransferConfig,
        "szilard.speculative.hidden_transfer.training",
        "HiddenTransferObjective",
        "Hidden Transfer's projections into pseudo hidden states",
    ),
    "hyperfitting": Trained(
        HyperfitConfig,
        "szilard.training.hyperfitting.training",
        "train_hyperfitting",
        "a model on very few texts until it knows them by heart, so that greedy text stops looping",
        model=_ANEW,
        alone=True,
    ),
    "latent-sft": Trained(
        LatentSFTConfig,
        "szilard.reasoning.latent_sft.training",
        "train_latent_sft",
        "a model that thinks in a few distributions over its vocabulary instead of many words",
        REASONING,
        model=_ANEW,
        cached=True,
    ),
    "lud": Trained(
        draft_config.LudConfig,
        "szilard.speculative.lud.training",
        "train_lud",
        "a model to write lexical units, several tokens at once",
        model="What was tuned of the model is written as an add-on to it.",
        cached=True,
    ),
    "masked-diffusion": Trained(
        MaskedDiffusionTraining,
        "szilard.diffusion.training",
        "train_masked_diffusion",
        "a model that fills in masked tokens anywhere instead of writing one after the other",
        model=_ANEW,
    ),
    "mean-pool": Trained(
        MeanPoolConfig,
        "szilard.compression.mean_pool.training",
        "train_mean_pool",
        "mean pooling's MLP, the baseline of soft compression",
    ),
    "medusa": Trained(
        draft_config.MedusaConfig,
        "szilard.speculative.medusa.training",
        "MedusaObjective",
        "Medusa's heads on the last hidden state",
        cached=True,
    ),
    "refrag": Trained(
        RefragConfig,
        "szilard.compression.refrag.training",
        "train_refrag",
        "one stage of REFRAG's parts, which read passages as one vector per chunk (--stage, --start)",
        model="Where a stage tunes the decoder, its changes or a tuned copy of it are written, too.",
    ),
}
DataOption = Annotated[
    Path,
    typer.Option("--data", help="Texts (.jsonl, .json, .csv, .parquet, .txt); for drafters the model's own answers."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for what is trained.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings in YAML; flags go before it.")]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Keep hidden states or labels of the texts here, for further trainings.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only the first so many texts.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Forget an earlier run in the folder.")]


def command(slug: str) -> Callable[..., None]:
    """The command of a training."""
    trained = HEADS[slug]

    def run(
        data: DataOption,
        output: OutputOption,
        model: o.ModelOption = None,
        config: ConfigOption = None,
        cache: CacheOption = None,
        limit: LimitOption = None,
        restart: RestartOption = False,
        device: o.DeviceOption = None,
        dtype: o.DtypeOption = "auto",
        **settings: Any,
    ) -> None:
        from szilard.training.config import read_config
        from szilard.whole_folder import check_folder

        chosen = read_config(trained.config, config, settings)
        if trained.alone and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError(f"`szilard train {slug}` runs in one process: start it without a launcher.")
        needs("accelerate", *(["peft"] if getattr(chosen, "lora", False) else []))
        checks, _, name = trained.reads.partition(":")
        getattr(import_module(checks), name)(data)  # bad data is told before the model is loaded
        for folder in (output, *([] if cache is None else [cache])):
            check_folder(folder)
        engine = load_engine(model, "transformers", training_device(device), dtype)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as bar:
            line = bar.add_task("hidden states", total=None, visible=False)

            def progress(done: int, total: int) -> None:
                bar.update(line, completed=done, total=total, visible=True)
                if done >= total:
                    bar.stop()  # the training shows its own

            part = getattr(import_module(trained.module), trained.trains)
            fit = partial(import_module(_TRAINER).train_heads, part) if isinstance(part, type) else part
            metrics = fit(
                engine,
                data,
                chosen,
                output,
                cache=cache,
                limit=limit,
                restart=restart,
                progress=progress,
            )
        if metrics:
            found = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name != "positions")
            note(f"held-out text: {found}; written to {output}")

    add_flags(run, trained.config, without=() if trained.cached else ("cache",))
    processes = "one." if trained.alone else "several: accelerate launch -m szilard train ..."
    run.__doc__ = (
        f"Train {trained.what}.\n\n{trained.model} A stopped run goes on from its last checkpoint when the command "
        f"is given again. Processes: {processes}"
    )
    return run


def add_flags(run: Callable[..., None], cls: type[TrainingConfig], without: Sequence[str] = ()) -> None:
    """Give a command a flag for every field of a config; what is not given stays None.

    Args:
        run: the command; gets its signature.
        cls: of the config.
        without: parameters of the command, with defaults, that get no flag.
    """
    hints = typing.get_type_hints(cls)
    parameters = inspect.signature(run, eval_str=True).parameters.values()
    own = [entry for entry in parameters if entry.name not in ("settings", *without)]
    flags = []
    for entry in dataclasses.fields(cls):
        text = f"{entry.metadata['help']} (default: {'none' if entry.default is None else entry.default})"
        kind = next(member for member in (*typing.get_args(hints[entry.name]), hints[entry.name]) if member is not None)
        flag = entry.name.replace("_", "-")
        names = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
        option = typer.Option(names, help=text, show_default=False)
        flags.append(
            inspect.Parameter(
                entry.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
            )
        )
    run.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {entry.name: entry.annotation for entry in (*own, *flags)}
