"""Add-ons: the small trained parts of methods. A folder or hub repository with safetensors, a config and a card."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from szilard.options import check_choice

Self = TypeVar("Self", bound="AddOn")
_WEIGHTS = "model.safetensors"
_SCALE = ".int8_scale"
_FILES = ("README.md", "config.json", _WEIGHTS)  # the weights last: with them the add-on is whole


class AddOn(nn.Module, PyTorchModelHubMixin, library_name="szilard", tags=["szilard"]):  # type: ignore[call-arg]
    """A small trained part that belongs to a method and a base model. Subclasses take `base` and plain numbers.

    `save_pretrained`, `from_pretrained` and `push_to_hub` are those of huggingface_hub; files are replaced whole.

    Args:
        base: what the add-on was made for: "name", "fingerprint", "hidden_size" and "vocab_size" of the model.
    """

    slug: ClassVar[str]

    def __init__(self, base: dict[str, Any]) -> None:
        super().__init__()
        self.base = base
        self.hidden_size, self.vocab_size = int(base["hidden_size"]), int(base["vocab_size"])

    @property
    def fingerprint(self) -> str:
        """A hash of the weights."""
        found = hashlib.sha256(self.slug.encode())
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return found.hexdigest()[:12]

    def save_pretrained(
        self, save_directory: Any, *, config: Any = None, storage: str = "float32", **options: Any
    ) -> Any:
        """Write the add-on; see huggingface_hub. What else lies in the folder stays.

        Args:
            save_directory: the folder.
            config: instead of the add-on's own.
            storage: how numbers are kept in the file: "float32", "float16", or "int8" (matrices: row by row in steps of
                a 127th of the row's largest number); loaded, they are float32 again.
            options: of huggingface_hub.
        """
        check_choice("storage", storage, ("float32", "float16", "int8"))
        push, repo = options.pop("push_to_hub", False), options.pop("repo_id", None)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        settings: Any = config or self._hub_mixin_config
        config = {"add_on": self.slug, **settings}
        card = {"model_card_kwargs": options.pop("model_card_kwargs", None)}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
            super().save_pretrained(scratch, config=config, **card)
            if storage != "float32":
                file = Path(scratch) / _WEIGHTS
                save_file(_packed(load_file(file), storage), file)
            for name in _FILES:
                if name != "README.md" or not (folder / name).exists():  # a card that somebody wrote stays
                    os.replace(Path(scratch) / name, folder / name)
        return self.push_to_hub(repo or folder.name, config=config, **options) if push else None

    @classmethod
    def from_pretrained(cls: type[Self], pretrained_model_name_or_path: Any, **options: Any) -> Self:  # type: ignore[override]
        """The add-on in a folder, a hub repository, or the zoo ("zoo/<name>"); see huggingface_hub.

        Raises:
            ValueError: there is none, or it is broken.
        """
        where = _folder(str(pretrained_model_name_or_path))
        try:
            return super().from_pretrained(where, **options)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where!r} holds no whole {cls.slug} add-on (its config.json is cut off).") from error
        except HFValidationError as error:
            raise ValueError(f"there is no folder {where!r}, and it is no name of a hub repository either.") from error
        except OSError as error:  # among them all that huggingface_hub says of repositories and connections
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"there is no folder {where!r}, and the hub gives no such repository ({reason})"
            ) from error

    @classmethod
    def _from_pretrained(
        cls: type[Self],
        *,
        model_id: str,
        config: dict[str, Any] | None = None,
        map_location: str = "cpu",
        strict: bool = True,
        **options: Any,
    ) -> Self:
        kind = (config or {}).get("add_on")
        if kind != cls.slug:
            found = f"a {kind} add-on" if kind else "no add-on"
            raise ValueError(f"{model_id!r} is {found}, but {cls.slug} is wanted: szilard train {cls.slug} makes one.")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints that it reads a folder
                made = super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **options)
        except (SafetensorError, RuntimeError, TypeError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{model_id!r} holds no whole {cls.slug} add-on ({reason}).") from error
        return made.eval()

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        tensors = load_file(model_file, device=map_location)
        if not any(name.endswith(_SCALE) for name in tensors):
            return super()._load_as_safetensor(model, model_file, map_location, strict)
        scales = {name.removesuffix(_SCALE): tensors.pop(name) for name in list(tensors) if name.endswith(_SCALE)}
        model.load_state_dict({name: t * scales[name] if name in scales else t for name, t in tensors.items()})
        return model

    def check_base(
        self, *, vocab_size: int, hidden_size: int | None, name: str, fingerprint: str | None = None
    ) -> None:
        """Refuse a model that the add-on was not made for.

        Args:
            fingerprint: of the model's weights; None: not looked at.

        Raises:
            ValueError: another vocabulary, width or other weights.
        """
        made_for = f"this {self.slug} add-on was trained for {self.base.get('name') or 'a model'}"
        for what, own, theirs in (
            ("a vocabulary of", self.vocab_size, vocab_size),
            ("hidden states of", self.hidden_size, hidden_size),
        ):
            if theirs is not None and own != theirs:
                raise ValueError(f"{made_for} with {what} {own}, but {name} has {theirs}: train one for this model.")
        weights = self.base.get("fingerprint")
        if fingerprint and weights and weights != fingerprint:
            raise ValueError(
                f"{made_for} (weights {weights}), but {name} has other weights ({fingerprint}): train one for it, or "
                "set the add-on's base['fingerprint'] to None to draft for a relative."
            )


def _packed(tensors: dict[str, torch.Tensor], storage: str) -> dict[str, torch.Tensor]:
    """Numbers in fewer bits; integers, and in "int8" all but matrices, stay as they are."""
    if storage == "float16":
        return {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dim() > 1 and tensor.shape[-1] > 64:
            scale = tensor.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
            packed |= {name: (tensor / scale).round().to(torch.int8), name + _SCALE: scale}
        else:
            packed[name] = tensor
    return packed


def opened(kind: type[Self], where: str) -> Self:
    """The add-on in a folder, a hub repository or the zoo, opened once for each time it was written.

    Raises:
        ValueError: there is none, or it is broken.
    """
    where = _folder(where)
    weights = Path(where) / _WEIGHTS
    if not Path(where).is_dir() and "/" not in where:
        raise ValueError(
            f"there is no folder {where!r} with a {kind.slug} add-on; `szilard train {kind.slug} --model ... "
            "--data ... -o folder` makes one."
        )
    return _opened(kind, where, weights.stat().st_mtime_ns if weights.is_file() else 0)  # type: ignore[arg-type]


def _folder(where: str) -> str:
    """A name of the zoo as its folder; others as they are."""
    if where.startswith("zoo/") and not Path(where).exists():
        from szilard.engines.loading import zoo_folder

        return str(zoo_folder(where.removeprefix("zoo/")))
    return where


@lru_cache(maxsize=4)
def _opened(kind: type[Self], where: str, written: int) -> Self:
    return kind.from_pretrained(where)
