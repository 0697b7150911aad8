"""Add-ons: the small trained parts of methods. A folder or hub repository with safetensors, a config and a card."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from torch import nn

Self = TypeVar("Self", bound="AddOn")
_FILES = ("README.md", "config.json", "model.safetensors")  # the weights last: with them the add-on is whole


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

    def save_pretrained(self, save_directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Write the add-on; see huggingface_hub. What else lies in the folder stays."""
        push, repo = options.pop("push_to_hub", False), options.pop("repo_id", None)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        settings: Any = config or self._hub_mixin_config
        config = {"add_on": self.slug, **settings}
        card = {"model_card_kwargs": options.pop("model_card_kwargs", None)}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
            super().save_pretrained(scratch, config=config, **card)
            for name in _FILES:
                if name != "README.md" or not (folder / name).exists():  # a card that somebody wrote stays
                    os.replace(Path(scratch) / name, folder / name)
        return self.push_to_hub(repo or folder.name, config=config, **options) if push else None

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


def opened(kind: type[Self], where: str) -> Self:
    """The add-on in a folder or hub repository, opened once for each time it was written.

    Raises:
        ValueError: there is none, or it is broken.
    """
    weights = Path(where) / "model.safetensors"
    if not Path(where).is_dir() and "/" not in where:
        raise ValueError(
            f"there is no folder {where!r} with a {kind.slug} add-on; `szilard train {kind.slug} --model ... "
            "--data ... -o folder` makes one."
        )
    return _opened(kind, where, weights.stat().st_mtime_ns if weights.is_file() else 0)  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def _opened(kind: type[Self], where: str, written: int) -> Self:
    return kind.from_pretrained(where)
