"""What methods share that leave out whole layers: who runs what, the caches of skipped layers, and the counts.

The prompt decides, and the decision stays: a layer that is skipped for one token has no keys and values of it, so no
later token of the row may run it. A prompt may come in parts; it is over with the first forward of a single token, or
of a draft tree. Without a cache every forward is a prompt.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from szilard.attention.layer_calls import around_layers
from szilard.attention.skippable import SkippableLayer, skippable
from szilard.sessions.session import OpenMethod

PREFILL = ("full", "skip")


class SkippingSession(OpenMethod):
    """An open method that skips layers. Subclasses decide which.

    Attributes:
        kept: the latest decision: of each row, whether it runs each layer, bool [batch, layers]; None: none yet.
        layer_calls: how often each layer was run, prompts included.
    """

    def __init__(self, method: Any, model: Any) -> None:
        super().__init__(method, model)
        self.kept: torch.Tensor | None = None
        self.layer_calls = [0] * len(self.layers)
        self._prompt = True  # whether the forward that runs reads a prompt, or a part of one
        self._real: torch.Tensor | None = None  # its tokens that are no padding, bool [batch, new]; None: all
        self._rows: dict[tuple[tuple[bool, ...], torch.device], torch.Tensor] = {}  # decisions, on the layers' devices

    # ---- what a method implements ----------------------------------------------------------------------------

    @abstractmethod
    def look(self, index: int, hidden: torch.Tensor, real: torch.Tensor | None, state: SkippableLayer) -> None:
        """See what enters a layer while a prompt is read.

        Args:
            index: the layer.
            hidden: [batch, new, hidden].
            real: which tokens are no padding, bool [batch, new]; None: all.
            state: its `evidence` is what remembers.
        """

    @abstractmethod
    def decide_one(self, index: int, batch: int, states: list[SkippableLayer]) -> tuple[bool, ...]:
        """Which rows run a layer, from what was seen at it and the decisions on the layers before it."""

    @abstractmethod
    def decide_all(self, batch: int, states: list[SkippableLayer]) -> list[tuple[bool, ...]]:
        """Which rows run each layer, from what was seen at all of them."""

    # ---- the runtime -----------------------------------------------------------------------------------------

    @property
    def skip_rate(self) -> float:
        """Share of the layers that the rows of the latest decision skip."""
        return 0.0 if self.kept is None else 1 - float(self.kept.double().mean())

    def enter(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(around_layers(self.layers, self._around))

    def _take_over(self, past: Any) -> None:
        for index, layer in enumerate(past.layers):
            ours = skippable(layer)
            if ours is None:
                raise self._foreign(layer)
            past.layers[index] = ours

    def _before(self, decoder: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        given = super()._before(decoder, arguments, options)
        ids = options.get("input_ids")
        if ids is None:
            ids = arguments[0] if arguments else options["inputs_embeds"]
        batch, new = ids.shape[:2]
        mask = options.get("attention_mask")
        if isinstance(mask, dict):
            mask = mask.get("full_attention", next(iter(mask.values())))
        if self.cache is None:
            self._states, filled = [SkippableLayer() for _ in self.layers], 0
        else:
            self._states, filled = list(self.cache.layers), self._filled
        own_mask = mask is not None and mask.dim() == 4
        state = self._states[0]
        self._prompt = not filled or not (state.generating or new == 1 or own_mask)
        self._real = _real(mask, filled, new) if self._prompt else None
        if self._prompt:
            self._rows.clear()
        if not self._prompt and not state.generating:
            if state.keep is None:
                self.unseen(batch, filled)
            for each in self._states:
                each.generating = True
        self._batch = batch
        return given

    def unseen(self, batch: int, filled: int) -> None:
        """A cache comes whose prompt was read before the method was open."""
        for state, keep in zip(self._states, self.decide_all(batch, self._states), strict=True):
            state.keep = keep
        self._tell()

    def _around(self, index: int, hidden: torch.Tensor, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        state, batch = self._states[index], hidden.shape[0]
        if self._prompt:
            early = self.method.prefill == "skip"
            if not (early and state.keep is not None):
                self.look(index, hidden, self._real, state)
                if early:
                    state.keep = self.decide_one(index, batch, self._states)
            keep = state.keep if early else (True,) * batch
        else:
            keep = state.keep
        assert keep is not None
        out = self._run(state, keep, hidden, run)
        self._count(index, state, hidden, any(keep))
        if self._prompt and index == len(self.layers) - 1:
            if self.method.prefill == "full" and self.cache is not None:
                for each, decided in zip(self._states, self.decide_all(batch, self._states), strict=True):
                    each.keep = decided
            self._tell()
        return out

    def _run(
        self, state: SkippableLayer, keep: tuple[bool, ...], hidden: torch.Tensor, run: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """A layer runs for the whole batch where some row needs it; rows that skip it keep what they had."""
        if all(keep):
            return run()
        if not any(keep):
            state.leave(hidden)
            return hidden
        key = keep, hidden.device
        if key not in self._rows:
            self._rows[key] = torch.tensor(keep, device=hidden.device)[:, None, None]
        return torch.where(self._rows[key], run(), hidden)

    def _tell(self) -> None:
        keeps = [state.keep for state in self._states]
        if None not in keeps:
            self.kept = torch.tensor(keeps).T

    def _count(self, index: int, state: SkippableLayer, hidden: torch.Tensor, runs: bool) -> None:
        batch, new = hidden.shape[:2]
        self.layer_calls[index] += runs
        when = "prompt_" if self._prompt else ""
        self.reads.count(f"{when}layers_run", batch * new * runs)
        self.reads.count(f"{when}layers_all", batch * new)
        if self.cache is None or not self.full[index]:
            return
        rows, seen = batch * self.kv_heads, state.get_seq_length()
        self.reads.held[index], self.reads.seen[index] = rows * state.stored, rows * seen
        if not self._prompt:
            self.reads.read += rows * seen * runs
            self.reads.full += rows * seen

    def summary(self) -> dict[str, float]:
        """What was read and kept, and `layers_run`, layers run times tokens (rows that others made run included).

        `layers_run_share` is their share of all layers, while generating; with "prompt_" before it, in prompts.
        """
        found = self.reads.summary()
        for when in ("", "prompt_"):
            everything = found.pop(f"{when}layers_all", 0.0)
            run = found.setdefault(f"{when}layers_run", 0.0)
            found[f"{when}layers_run_share"] = run / everything if everything else 1.0
        return found


def _real(mask: torch.Tensor | None, filled: int, new: int) -> torch.Tensor | None:
    """Which of the new tokens are no padding, bool [batch, new]; None: all."""
    if mask is None:
        return None
    if mask.dim() == 4:  # what the last token sees
        row = mask[:, 0, -1]
        mask = row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
    return mask[:, filled : filled + new].bool()
