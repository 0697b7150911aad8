"""New codecs from names and settings, and a student's sizes from its teacher's."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import PRESETS, MLICv2, MLICv2Config
from szilard.codecs.opening import CODECS
from szilard.options import check_choice, nearest

DEFAULT_PRESET = "mlicv2-small"
_CONFIGS: dict[str, type[Any]] = {"mlicv2": MLICv2Config, "mean-scale": HyperpriorConfig}


def new_codec(
    name: str = "mlicv2", preset: str | None = None, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> LearnedCodec:
    """An untrained codec.

    Args:
        name: mlicv2 or mean-scale.
        preset: of mlicv2's; None: "mlicv2-small".
        settings: fields that differ from it.
        seed: of its weights.

    Raises:
        ValueError: an unknown name, preset or field, or sizes that do not fit.
    """
    check_choice("codec", name, tuple(CODECS))
    given = dict(settings or {})
    names = [field.name for field in dataclasses.fields(_CONFIGS[name])]
    for field in given:
        if field not in names:
            raise ValueError(f"{name} has no setting {field!r}{nearest(field, names)} It has: {', '.join(names)}.")
    if name == "mlicv2":
        chosen = DEFAULT_PRESET if preset is None else preset
        check_choice("preset", chosen, tuple(PRESETS))
        config: Any = replace(PRESETS[chosen], **given)
    elif preset is not None:
        raise ValueError(f"presets are mlicv2's; {name} takes N and M.")
    else:
        config = HyperpriorConfig(**given)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLICv2(config) if name == "mlicv2" else MeanScaleHyperprior(config)


def parse_settings(name: str, assignments: Sequence[str]) -> dict[str, Any]:
    """`N=32 rope=false` as typed fields of a codec's configuration.

    Raises:
        ValueError: no `=`, or an unknown codec.
    """
    check_choice("codec", name, tuple(CODECS))
    hints = typing.get_type_hints(_CONFIGS[name])
    found = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"a setting is written name=value, not {assignment!r}.")
        field = field.strip()
        found[field] = text.strip() if hints.get(field) is str else yaml.safe_load(text)  # YAML takes `off` for false
    return found


def read_settings(file: Path) -> tuple[str, str | None, dict[str, Any]]:
    """A codec's name, preset and settings from a file: `codec: mlicv2`, `preset: ...`, and fields beside them.

    Args:
        file: .toml (Python 3.11), .yaml or .json.

    Raises:
        ValueError: no such file, or something else in it.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {str(file)!r}.")
    try:
        text = file.read_text(encoding="utf-8")
        found = _toml(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{str(file)!r} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{str(file)!r} must hold settings by name, as `N = 32`.")
    found = {str(name): (value if value is not False else _off(str(name))) for name, value in found.items()}
    preset = found.pop("preset", None)
    return str(found.pop("codec", "mlicv2")), preset, found


def _off(name: str) -> Any:
    """What YAML's `off` means: a word where the field is one."""
    return "off" if typing.get_type_hints(MLICv2Config).get(name) is str else False


def _toml(text: str) -> Any:
    try:
        import tomllib
    except ModuleNotFoundError:
        raise ValueError("TOML needs Python 3.11 or newer: write it as YAML or JSON.") from None
    return tomllib.loads(text)


def smaller(teacher: LearnedCodec, seed: int = 0) -> LearnedCodec:
    """A student of the teacher's kind: two thirds of N, three fifths of M, no attention, one block a stage.

    Of the preset "mlicv2" it has N = 128, M = 192; nothing else is published of a student's sizes (inferred).

    Raises:
        ValueError: a codec of another kind.
    """
    own = getattr(teacher, "settings", None)
    if isinstance(own, MLICv2Config):
        slices = max(1, round(own.slices * 0.6))
        sizes: dict[str, Any] = {"N": max(8, own.N * 2 // 3), "M": own.width * slices, "slices": slices}
        sizes |= {"blocks": 1, "attention": False}
        return new_codec("mlicv2", settings=dataclasses.asdict(own) | sizes, seed=seed)
    if isinstance(own, HyperpriorConfig):
        sizes = {"N": max(8, own.N * 2 // 3), "M": max(8, own.M * 3 // 10 * 2)}
        return new_codec("mean-scale", settings=sizes, seed=seed)
    raise ValueError(f"there is no smaller {type(teacher).__name__}: say which codec the student is.")
