"""Codecs by name, and a codec of a folder whatever its kind."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from szilard.codecs.hyperprior import MeanScaleHyperprior
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2
from szilard.options import check_choice

CODECS: dict[str, type[LearnedCodec]] = {one.name: one for one in (MLICv2, MeanScaleHyperprior)}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def open_codec(name: str | Path) -> LearnedCodec:
    """The codec of a folder or a hub repository, in eval mode.

    Raises:
        ValueError: there is none.
    """
    folder = Path(name)
    if not folder.is_dir() and not _HUB_ID.fullmatch(str(name)):
        raise ValueError(
            f"{str(name)!r} holds no learned codec: there is no such folder, and a hub id is written owner/name."
        )
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(str(name), "config.json"))
        kind = json.loads(file.read_text(encoding="utf-8"))["codec"]
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ValueError(
            f"{str(name)!r} holds no learned codec that can be reached: no such folder, and the hub does not answer."
        ) from None
    except Exception as error:
        raise ValueError(
            f"{str(name)!r} holds no learned codec ({type(error).__name__}): name a folder or a hub id."
        ) from None
    check_choice("codec", kind, tuple(CODECS))
    found: LearnedCodec = CODECS[kind].from_pretrained(str(name))
    return found
