"""What one decoder has of its own: a projector, <Cont> and <Rec>, and what is remembered of its model."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from szilard.engines.engine import Engine


class Side(nn.Module):
    """What one decoder has of its own.

    Args:
        encoder_size: d_e.
        bottleneck: b.
        hidden_size: d, of the decoder.

    Attributes:
        down, up: W_1 and W_2. # Paper: "slope 5" is Kaiming-uniform with a = sqrt(5), which is PyTorch's default.
        cont, rec: <Cont> and <Rec>, [d_e], ones at first.
    """

    def __init__(self, encoder_size: int, bottleneck: int, hidden_size: int) -> None:
        super().__init__()
        self.down = nn.Linear(encoder_size, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, hidden_size, bias=False)
        self.cont = nn.Parameter(torch.ones(encoder_size))
        self.rec = nn.Parameter(torch.ones(encoder_size))

    def forward(self, states: Tensor, special: Tensor | None) -> Tensor:
        """Vectors for the decoder, [m, d_e] -> [m + 1, d], or without a special token [m, d]."""
        rows = states if special is None else torch.cat([states, special[None].to(states.dtype)])
        return self.up(self.down(rows))


def check_name(name: str) -> None:
    """Refuse what cannot name a decoder in a file of weights.

    Raises:
        ValueError: dots, slashes or nothing.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"a decoder's name is made of letters, digits, - and _, not {name!r}.")


def usable_name(name: str) -> str:
    """An engine's name as the name of a decoder."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "decoder"


def entry_of(engine: Engine, bottleneck: int, specials: bool) -> dict[str, Any]:
    """What the add-on remembers of a decoder.

    Raises:
        ValueError: an engine that takes no vectors.
    """
    if "embeddings_in" not in engine.provides:
        raise ValueError(f"vectors are what {engine.name} on {engine.kind} does not take: load it with transformers.")
    config = engine.model.config.get_text_config()  # type: ignore[attr-defined]
    return {
        "name": engine.name,
        "fingerprint": engine.fingerprint,
        "hidden_size": int(config.hidden_size),
        "vocab_size": int(config.vocab_size),
        "bottleneck": int(bottleneck),
        "specials": bool(specials),
    }
