"""Codecs by name, and a codec of a folder whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download

from szilard.codecs.hyperprior import MeanScaleHyperprior
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2
from szilard.options import check_choice

CODECS: dict[str, type[LearnedCodec]] = {one.name: one for one in (MLICv2, MeanScaleHyperprior)}


def open_codec(name: str | Path) -> LearnedCodec:
    """The codec of a folder or a hub repository, in eval mode.

    Raises:
        ValueError: there is none.
    """
    folder = Path(name)
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(str(name), "config.json"))
        kind = json.loads(file.read_text(encoding="utf-8"))["codec"]
    except Exception as error:
        raise ValueError(
            f"{str(name)!r} holds no learned codec ({type(error).__name__}): name a folder or a hub id."
        ) from None
    check_choice("codec", kind, tuple(CODECS))
    found: LearnedCodec = CODECS[kind].from_pretrained(str(name))
    return found
