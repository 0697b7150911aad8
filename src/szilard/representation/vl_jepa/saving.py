"""Folders of VL-JEPA's models: config.json, tokenizers, README.md, and model.safetensors, which is written last."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

TOKENIZERS = ("query_tokenizer", "answer_tokenizer", "tokenizer")
_WEIGHTS = "model.safetensors"
KINDS = {"VLJEPA": "vl-jepa", "YDecoder": "vl-jepa-decoder", "TokenTwin": "vl-jepa-twin"}


def save_folder(model: Any, directory: Any, save: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Write a model's folder, file by file whole; what else lies there stays.

    Args:
        model: with `settings` and `trained_on`.
        directory: the folder.
        save: huggingface_hub's `save_pretrained` of the model, which calls `write_parts`.
        options: of huggingface_hub.
    """
    push, repo = options.pop("push_to_hub", False), options.pop("repo_id", None)
    folder = Path(directory)
    settings = _settings(model)  # what cannot be written is told before anything is
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
        where = Path(scratch)
        save(where, config=settings)
        files = [path for path in where.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda path: path.name == _WEIGHTS):
            target = folder / file.relative_to(where)
            target.parent.mkdir(exist_ok=True)
            os.replace(file, target)
    return model.push_to_hub(repo or folder.name, config=settings, **options) if push else None


def write_parts(model: Any, folder: Path) -> None:
    """Weights, config, card and tokenizers into an empty folder."""
    settings = _settings(model)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(_once(state), folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    (folder / "README.md").write_text(card(model, settings), encoding="utf-8")
    for name in TOKENIZERS:
        if getattr(model, name, None) is not None:
            getattr(model, name).save_pretrained(folder / name)


def _settings(model: Any) -> dict[str, Any]:
    return {"format": KINDS[type(model).__name__], **model.settings, "trained_on": model.trained_on}


def _once(state: dict[str, Any]) -> dict[str, Any]:
    """Tied weights are written under one name; the model ties them again when it is built."""
    seen: set[int] = set()
    found = {}
    for name, value in state.items():
        if value.data_ptr() not in seen or not value.numel():
            seen.add(value.data_ptr())
            found[name] = value
    return found


class ReadFolder:
    """A folder, here or fetched from the hub."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tokenizer(self, name: str) -> Any:
        """The tokenizer under this name; None where the model was saved without."""
        if not (self.path / name).is_dir():
            return None
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.path / name))

    def fill(self, model: nn.Module) -> None:
        """Put the weights in.

        Raises:
            ValueError: damaged, or another model's.
        """
        try:
            weights = load_file(self.path / _WEIGHTS)
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"the weights in {str(self.path)!r} are damaged or of another model ({reason})."
            ) from error
        tied = {name for name in missing if name.endswith("lm_head.weight")}
        # A config does not tell that a model was made without its pooling layer; its weights do.
        pooled = {name for name in missing if ".pooler." in name}
        for place in {name.partition(".pooler.")[0] for name in pooled}:
            part: Any = model.get_submodule(place)
            part.pooler = None
        if wrong := sorted({*missing, *unexpected} - tied - pooled):
            raise ValueError(f"the weights in {str(self.path)!r} do not fit its config.json: see {wrong[0]!r}.")


def read_folder(model_id: str, kind: str, options: dict[str, Any]) -> tuple[ReadFolder, dict[str, Any]]:
    """The folder and its settings.

    Raises:
        ValueError: it holds no such model.
    """
    path = Path(model_id)
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        names = ("revision", "cache_dir", "token", "local_files_only", "force_download")
        path = Path(snapshot_download(model_id, **{name: options[name] for name in names if name in options}))
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict) or settings.get("format") != kind:
        raise ValueError(f"{model_id!r} holds no {kind} model: `szilard train vl-jepa` makes one.")
    return ReadFolder(path), settings


def card(model: Any, settings: dict[str, Any]) -> str:
    """What the model is, what it was trained on, and what it reaches."""
    kind = settings["format"]
    learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    every = sum(weight.numel() for weight in model.parameters())
    lines = ["---", "library_name: szilard", "tags: [szilard, vl-jepa]", "---", "", f"# {kind}", ""]
    lines += [f"{every:,} weights, of which {learned:,} learn. arXiv:2512.10942."]
    for name, value in model.trained_on.items():
        if isinstance(value, dict):
            lines += ["", f"## {name}", "", "| | |", "| --- | --- |"]
            shown = {key: f"{number:.4g}" if isinstance(number, float) else number for key, number in value.items()}
            lines += [f"| {key.replace('_', ' ')} | {number} |" for key, number in shown.items()]
        else:
            lines += ["", f"{name.replace('_', ' ').capitalize()}: {value}."]
    return "\n".join(lines) + "\n"
