"""The folder of a trained reasoner.

config.json, model.safetensors, tokenizer ...   the reasoner's language model, as transformers loads it
ladir/                                          what denoises: `LadirParts`
ladir/vae/                                      `VaeParts`, and the encoder's changes
ladir/base/                                     the pretrained model, which is the VAE's decoder
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from szilard.engines.engine import Engine
from szilard.engines.loading import load
from szilard.engines.model_parts import weights_fingerprint
from szilard.reasoning.ladir.parts import LadirParts
from szilard.reasoning.ladir.reasoner import LaDiRReasoner
from szilard.reasoning.ladir.tuned import TunedModel
from szilard.reasoning.ladir.vae import SentenceVAE, VaeParts
from szilard.training.add_on import opened
from szilard.training.model_folder import write_model

_PARTS, _VAE, _BASE = "ladir", "vae", "base"


def write_checkpoint(reasoner: LaDiRReasoner, vae: SentenceVAE, folder: Path, base: Engine | None) -> None:
    """Write a reasoner; its low-rank changes go into its model's weights.

    Args:
        reasoner, vae: trained.
        folder: of the checkpoint; what else lies there stays.
        base: the pretrained model, to be kept beside; None: it will be loaded by its name.
    """
    model = reasoner.tuned.fold()
    reasoner.parts.base.update(name=folder.name, fingerprint=weights_fingerprint(model))
    inside = folder / _PARTS
    vae.save(inside / _VAE)
    if base is not None:
        write_model(base.model, base.tokenizer, inside / _BASE)  # type: ignore[attr-defined]
    reasoner.parts.save_pretrained(inside)
    write_model(model, reasoner.tokenizer, folder)


def parts_folder(checkpoint: str) -> Path:
    """Where the parts of a checkpoint lie.

    Args:
        checkpoint: a folder that the training wrote, its `ladir/`, or a hub repository.

    Raises:
        ValueError: there are none.
    """
    where = Path(checkpoint).expanduser()
    if not where.is_dir():
        where = _downloaded(checkpoint)
    for folder in (where / _PARTS, where):
        if (folder / "config.json").is_file() and folder.name == _PARTS:
            return folder
    raise ValueError(
        f"there are no parts of LaDiR beside the model {checkpoint!r}: `szilard train ladir --model ... --data ... "
        "-o folder` makes a model with them."
    )


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[f"{_PARTS}/*"]))
    except Exception as error:  # a wrong name, no repository, no connection
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"there is no folder {name!r}, and the hub gives no such repository ({reason})") from error


def open_parts(checkpoint: str) -> LadirParts:
    """The parts of a checkpoint, opened once for each time they were written.

    Raises:
        ValueError: there are none.
    """
    return opened(LadirParts, str(parts_folder(checkpoint)))


def open_vae(checkpoint: str, *, encoder: bool = False, device: str | None = None) -> SentenceVAE:
    """The VAE of a checkpoint, with the pretrained model as its decoder; opened once for each time it was written.

    Args:
        checkpoint: as `parts_folder`.
        encoder: whether sentences are to be encoded, too.
        device: of the pretrained model.

    Raises:
        ValueError: there is none, or its pretrained model is gone.
    """
    folder = parts_folder(checkpoint)
    file = folder / _VAE / "model.safetensors"
    if not file.is_file():
        raise ValueError(f"the checkpoint {checkpoint!r} has no VAE, so its thoughts cannot be decoded.")
    return _opened_vae(folder, encoder, device, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _opened_vae(folder: Path, encoder: bool, device: str | None, written: int) -> SentenceVAE:
    base: str | Path = folder / _BASE
    if not Path(base).is_dir():
        base = opened(VaeParts, str(folder / _VAE)).base["source"]
    engine = load(base, engine="transformers", device=device)
    return SentenceVAE.open(folder / _VAE, engine, encoder=encoder).eval()


def open_reasoner(checkpoint: str | Path, *, device: str | None = None) -> LaDiRReasoner:
    """A trained reasoner with its VAE, to be run or trained on.

    Raises:
        ValueError: no such checkpoint.
    """
    engine: Any = load(checkpoint, engine="transformers", device=device)
    parts = open_parts(str(checkpoint)).to(engine.device)
    vae = open_vae(str(checkpoint), encoder=True, device=device)
    return LaDiRReasoner(TunedModel(engine.model), parts, engine.tokenizer, vae).eval()
