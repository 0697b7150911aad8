"""A checkpoint's folder: its config.json, and weights from safetensors files into a model that has none yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(folder: Path) -> dict[str, Any]:
    """What a folder's config.json holds.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"the folder {str(folder)!r} holds no model (no config.json).")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(file)!r} is damaged: it holds a {type(config).__name__}.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those that an index lists, or the only one.

    Raises:
        ValueError: there are none, only pickles, or not all of them.
    """
    index = folder / _INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{str(index)!r} is damaged: download it again.") from error
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"{str(index)!r} names the file {name!r} outside its folder: it cannot be trusted.")
            if not (folder / name).is_file():
                raise ValueError(f"{str(folder)!r} lacks {name!r}, which its index names: download it again.")
        return [folder / name for name in names]
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ValueError(
            f"{str(folder)!r} holds its weights as {pickles[0]!r}, a pickle, which may run anything when it is read: "
            "get the safetensors files."
        )
    raise ValueError(f"{str(folder)!r} holds no weights (no {_WEIGHTS} and no {_INDEX}).")


def filled_model(
    kind: type[PreTrainedModel],
    config: PretrainedConfig,
    folder: Path,
    stock_name: Callable[[str], str | None],
    *,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A model with the weights of a folder. No second copy of them is ever held.

    Args:
        kind: its class; the rotary embedding is `model.rotary_emb` in it.
        config: its settings.
        folder: with safetensors files.
        stock_name: a name in the files -> the name in the model; None: unknown.
        dtype: of all weights; None: that of the stored embedding.
        device: where they go.

    Raises:
        ValueError: damaged files, or weights that are missing, unexpected, twice there, of another shape, or no floats.
    """
    with torch.device("meta"):
        model: Any = kind(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    files = weight_files(folder)
    found = _survey(files, stock_name, wanted)
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(
            f"the weights in {str(folder)!r} are incomplete: {missing[0]} is missing, and {len(missing) - 1} more are; "
            "download them again."
        )
    if dtype is None:
        where, own = found["model.embed_tokens.weight"]
        with safe_open(where, "pt") as stored:
            dtype = stored.get_tensor(own).dtype
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            for name, (where, own) in found.items():
                if where != file:
                    continue
                tensor = stored.get_tensor(own)
                if not tensor.is_floating_point() or tensor.element_size() < 2:
                    raise ValueError(f"{own} in {str(file)!r} is {tensor.dtype}: quantised checkpoints are not read.")
                weights[name] = tensor.to(device, dtype)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)  # its buffers were on no device
    config.dtype = model.dtype
    return model.eval()


def _survey(
    files: list[Path], stock_name: Callable[[str], str | None], wanted: dict[str, tuple[int, ...]]
) -> dict[str, tuple[Path, str]]:
    """Where each weight lies, (file, name in it); nothing is read but names and shapes."""
    found: dict[str, tuple[Path, str]] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as stored:
                shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{str(file)!r} is damaged ({error}): download it again.") from error
        for own, shape in shapes.items():
            name = stock_name(own)
            if name is None or name not in wanted:
                raise ValueError(
                    f"{str(file)!r} holds {own}, which this architecture has no place for: the checkpoint is of "
                    "another model than its config.json says."
                )
            if name in found:
                raise ValueError(f"{own} is in {str(found[name][0])!r} and in {str(file)!r}: remove one of them.")
            if shape != wanted[name]:
                raise ValueError(
                    f"{own} in {str(file)!r} has the shape {list(shape)}, but config.json makes it "
                    f"{list(wanted[name])}: the two do not belong together."
                )
            found[name] = (file, own)
    return found
