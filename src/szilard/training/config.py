"""Typed settings of a training: a dataclass, a YAML file, and a flag for every key."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from szilard.options import check_choice, check_number, nearest

Config = TypeVar("Config", bound="TrainingConfig")


def setting(default: Any, help: str) -> Any:
    """A field with its default and the sentence that `--help` shows."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingConfig:
    """What every training takes; methods add their own fields. Fields describe themselves in `--help`."""

    least_epochs: typing.ClassVar[float] = 1e-6  # fewer train nothing, by mistake

    epochs: float = setting(2.0, "Passes over the data.")
    steps: int | None = setting(None, "Optimiser steps, instead of epochs.")
    batch_size: int = setting(8, "Sequences per step and process.")
    gradient_accumulation: int = setting(1, "Batches whose gradients are added before a step.")
    learning_rate: float = setting(1e-3, "Largest learning rate of AdamW.")
    schedule: str = setting("cosine", "cosine, linear or constant, after the warm-up.")
    warmup: float = setting(0.01, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(0.0, "Of AdamW.")
    beta_2: float = setting(0.999, "Second momentum of AdamW.")
    max_grad_norm: float = setting(1.0, "Gradients are scaled down to this norm; 0: never.")
    max_grad_value: float = setting(0.0, "Gradients are cut to this size, each number; 0: never.")
    precision: str = setting("float32", "float32, bfloat16 or float16: of the products, not of the weights.")
    seed: int = setting(0, "Of initial weights, order of the data and draws.")
    save_every: int = setting(100, "Steps between checkpoints: what a kill costs at most.")
    log_every: int = setting(10, "Steps that a line of metrics averages; divides save_every.")

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, low=self.least_epochs)
        for name in ("batch_size", "gradient_accumulation", "save_every", "log_every"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("steps", self.steps, low=1, integer=True, optional=True)
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "max_grad_value"):
            check_number(name, getattr(self, name), low=0)
        check_number("warmup", self.warmup, low=0, high=1)
        check_number("beta_2", self.beta_2, low=0, high=1)
        check_number("seed", self.seed, low=0, high=2**31 - 1, integer=True)
        check_choice("schedule", self.schedule, ("cosine", "linear", "constant"))
        check_choice("precision", self.precision, ("float32", "bfloat16", "float16"))
        if self.precision == "float16" and self.max_grad_value and not self.max_grad_norm:
            raise ValueError(
                "precision float16 scales its gradients, so max_grad_value would cut them all: set max_grad_norm, too, "
                "or take bfloat16."
            )
        if self.save_every % self.log_every:
            raise ValueError(
                f"save_every={self.save_every} must be a multiple of log_every={self.log_every}, so that a resumed run "
                "writes the same metrics."
            )

    def to_yaml(self) -> str:
        """As a file that `--config` reads."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


@dataclass(frozen=True)
class CorpusConfig(TrainingConfig):
    """Settings of trainings on texts."""

    max_length: int = setting(1024, "Longer texts are cut, in tokens.")
    window: int = setting(256, "Texts are trained on in stretches of so many tokens.")
    held_out: float = setting(0.05, "Share of the texts kept for measuring.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_length", self.max_length, low=8, integer=True)
        check_number("window", self.window, low=8, integer=True)
        check_number("held_out", self.held_out, low=0, high=0.9)


def read_config(cls: type[Config], file: Path | None, given: Mapping[str, Any]) -> Config:
    """A config from a YAML file and, before it, what was given on the command line.

    Raises:
        ValueError: no such file, no mapping in it, an unknown key (the nearest is suggested), or a value out of range.
        TypeError: a value of another type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            raise ValueError(f"there is no file {str(file)!r}.")
        try:
            read = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(file)!r} is not YAML: {' '.join(str(error).split())}") from error
        if read is not None and not isinstance(read, dict):
            raise ValueError(f"{str(file)!r} must hold settings as `name: value`, not a {type(read).__name__}.")
        values = {str(name).replace("-", "_"): value for name, value in (read or {}).items()}
    values |= {name: value for name, value in given.items() if value is not None}
    hints = typing.get_type_hints(cls)
    names = [entry.name for entry in dataclasses.fields(cls)]
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"there is no setting {name!r}{nearest(name, names)} Settings: {', '.join(names)}.")
        members = typing.get_args(hints[name]) or (hints[name],)
        if isinstance(value, str) and float in members:  # YAML reads 1e-4 as text
            try:
                values[name] = value = float(value)
            except ValueError:
                raise TypeError(f"{name} must be a number, not {value!r}.") from None
        if isinstance(value, int) and not isinstance(value, bool) and float in members and int not in members:
            values[name] = value = float(value)
        if not isinstance(value, members):
            kinds = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in members)
            raise TypeError(f"{name} must be {kinds}, not {value!r}.")
    return cls(**values)
