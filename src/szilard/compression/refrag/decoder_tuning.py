"""What of the decoder learns in a stage: nothing, low-rank changes, or all weights; and its way back."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

from szilard.engines.model_parts import weights_fingerprint
from szilard.training import low_rank
from szilard.training.low_rank import LowRank
from szilard.training.target import Target
from szilard.whole_folder import whole_folder


class DecoderTuning(nn.Module):
    """The decoder's weights that learn, as parameters. A context manager: behind it the decoder is what it was.

    Args:
        target: the decoder.
        what: "nothing", "changes" or "everything".
        rank: of changes.
        start: changes that the decoder already has.

    Raises:
        ValueError: all weights of a model in half precision, or changes of another rank than those that it has.
    """

    def __init__(self, target: Target, what: str, rank: int, start: LowRank | None) -> None:
        super().__init__()
        self.target, self.what, self.rank = target, what, rank
        self._start = [start]  # in a list: no part of this module
        if what == "everything" and target.model.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"tuning every weight in {target.model.dtype} loses small steps: load it with float32.")
        if what == "changes" and start is not None and any(s[2] != rank for s in start.shapes.values()):
            raise ValueError(f"the changes to go on from have rank {next(iter(start.shapes.values()))[2]}, not {rank}.")
        self.tuned = nn.ParameterList()
        self._open = contextlib.ExitStack()
        self._names: list[str] = []

    def __enter__(self) -> DecoderTuning:
        model, start = self.target.model, self._start[0]
        if self.what == "nothing":
            if start is not None:
                self._open.enter_context(start.applied(model))
            return self
        self._open.callback(low_rank.remove, model)  # it also stops gradients
        if self.what == "changes":
            tuned = low_rank.inject(model, self.rank)
            if start is not None:
                _give(start, tuned)
            self._names += tuned
            self.tuned.extend(tuned.values())
            return self
        for parameter in model.parameters():
            self._open.callback(setattr, parameter, "data", parameter.data)
            parameter.data = parameter.data.clone()
        if start is not None:
            with start.applied(model):
                merged = {name: model.get_parameter(name).data for name in start.shapes}
            for name, data in merged.items():
                model.get_parameter(name).data = data
        for name, parameter in model.named_parameters():
            self._names.append(name)
            self.tuned.append(parameter.requires_grad_(True))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def changes(self) -> LowRank | None:
        """The low-rank changes that the decoder has now."""
        if self.what == "nothing":
            return self._start[0]
        if self.what == "everything":
            return None
        tuned = dict(zip(self._names, self.tuned, strict=True))
        shapes, transposed = low_rank.described(self.target.model, tuned)
        kept = LowRank(shapes, 2.0, transposed)  # the scale of `inject`
        kept.take(tuned)
        return kept

    def written(self, folder: Path) -> dict[str, object]:
        """Write the whole decoder where all of it learned; what an add-on remembers of it."""
        base = self.target.base
        if self.what != "everything":
            return base
        model = self.target.model
        with whole_folder(folder) as scratch:
            model.save_pretrained(scratch)
            self.target.engine.tokenizer.save_pretrained(scratch)
        name = f"{base['name']}, trained on with refrag (the folder {folder.name!r} beside it)"
        return base | {"name": name, "fingerprint": weights_fingerprint(model)}


@torch.no_grad()
def _give(start: LowRank, tuned: dict[str, nn.Parameter]) -> None:
    """Adapters in a model begin as the changes of an earlier stage."""
    for name, down, up in zip(start.shapes, start.down, start.up, strict=True):
        module = name.removesuffix(".weight")
        tuned[f"{module}.lora_A.default.weight"].copy_(down)
        tuned[f"{module}.lora_B.default.weight"].copy_(up)
