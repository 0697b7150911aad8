"""Which tokens of a prompt a method may act on: the places of its pictures, or a span of its text.

Pictures enter a model as runs of one placeholder id in `input_ids`, which the decoder never sees: it gets embeddings.
So a hook on the outer model reads the ids before they are gone.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from szilard.attention.layers import EvictingLayer
from szilard.sessions.call import Call, attend_to_all, causal_prompt
from szilard.sessions.session import Session

_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
Span = tuple[int, int] | tuple[tuple[int, int], ...]


class SlidingColumns(EvictingLayer):
    """An `EvictingLayer` in the place of a sliding window: it stores every token, and whoever attends heeds the window.

    Attributes:
        sliding_window: positions that a token looks back, its own included.
    """

    is_sliding = True

    def __init__(self, window: int) -> None:
        super().__init__()
        self.sliding_window = window


class PromptSpanSession(Session):
    """A session that knows, while a prompt runs, which of its tokens it may act on.

    Attributes:
        places: of the prompt that runs, the tokens to act on, bool [batch, new]; None: no prompt, or none in it.
        real: of that prompt, tokens that are no padding, bool [batch, new].
        ids: of that prompt, int64 [batch, new]; None if it came as embeddings.
        acts: whether anything is looked for.
        windows: per layer, the positions that it looks back; None: all of them.

    Args:
        method: for messages.
        model: a transformers model.
        span: (start, length) in every row's own tokens, or one such pair per row; None: where the pictures are.
        acts: False: nothing is looked for, and no span is needed.

    Raises:
        ValueError: neither a span nor a picture model.
    """

    def __init__(self, method: Any, model: Any, *, span: Span | None, acts: bool = True) -> None:
        super().__init__(method, model)
        config = model.config
        found = [getattr(config, name, None) for name in _PLACEHOLDERS]
        self.placeholders = sorted({token for token in found if isinstance(token, int)})
        self.spans: Any = None if span is None else (span,) if isinstance(span[0], int) else span
        if acts and span is None and not self.placeholders:
            raise ValueError(
                f"{type(model).__name__} names no image placeholder: give '{method.slug}' the tokens that it may act "
                "on as span=(start, length)."
            )
        window = getattr(self.decoder.config, "sliding_window", None)
        self.windows = [None if full else window for full in self.full]
        self.acts = acts
        self.places: torch.Tensor | None = None
        self.real: torch.Tensor | None = None
        self.ids: torch.Tensor | None = None
        self._given: dict[str, Any] = {}

    def own_from(self, first: int) -> None:
        """Make attention and cache of the layers from `first` on ours even where they slide over a window."""
        self.full = [full or index >= first for index, full in enumerate(self.full)]

    # ---- the prompt ------------------------------------------------------------------------------------------

    def enter(self, stack: contextlib.ExitStack) -> None:
        super().enter(stack)
        if self.acts and self.model is not self.decoder:
            stack.callback(self.model.register_forward_pre_hook(self._read_ids, with_kwargs=True).remove)

    def _read_ids(self, model: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._given = {
            "ids": options.get("input_ids", arguments[0] if arguments else None),
            "mask": options.get("attention_mask"),
            "pictures": any(value is not None for name, value in options.items() if name.startswith("pixel_values")),
        }

    def _before(self, decoder: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        given, self._given = self._given, {}
        out = super()._before(decoder, arguments, options)
        own = options.get("input_ids", arguments[0] if arguments else None)
        self.places = self.real = None
        self.ids = given.get("ids", own)
        entering = options.get("inputs_embeds")
        entering = own if entering is None else entering
        begins = not self._filled or given.get("pictures")  # what comes after the prompt is never touched
        if not self.acts or self.cache is None or entering is None or not begins:
            return out
        batch, new = entering.shape[:2]
        mask = given.get("mask", options.get("attention_mask"))
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            real = mask[:, -new:].bool()
        else:
            real = torch.ones(batch, new, dtype=torch.bool, device=entering.device)
        places = self._span_places(real) if self.spans is not None else self._picture_places(real)
        if places is not None:
            places &= real & (real.cumsum(1) < real.sum(1, keepdim=True))  # the next token is chosen from the last one
            if bool(places.any()):
                self.places, self.real = places, real
        return out

    def _span_places(self, real: torch.Tensor) -> torch.Tensor | None:
        if self._filled:
            return None
        batch, spans = len(real), self.spans
        if batch % len(spans):
            raise ValueError(f"'{self.method.slug}' has spans for {len(spans)} rows, but the batch has {batch}.")
        pairs = torch.tensor(spans, device=real.device).repeat_interleave(batch // len(spans), dim=0)
        start, end = pairs[:, :1], pairs.sum(1, keepdim=True)
        short = (real.sum(1, keepdim=True) < end).nonzero()[:, 0].tolist()
        if short:
            row = short[0]
            raise ValueError(
                f"the span {tuple(pairs[row].tolist())} of '{self.method.slug}' (start, length) ends beyond the "
                f"{int(real[row].sum())} tokens of the prompt in row {row}."
            )
        order = real.cumsum(1) - 1
        return (order >= start) & (order < end)

    def _picture_places(self, real: torch.Tensor) -> torch.Tensor | None:
        if self.ids is None:
            raise ValueError(
                f"the prompt came as embeddings, in which '{self.method.slug}' cannot tell pictures from text: give "
                "span=(start, length)."
            )
        wanted = torch.tensor(self.placeholders, device=self.ids.device)
        return torch.isin(self.ids, wanted).to(real.device)

    # ---- attention -------------------------------------------------------------------------------------------

    def cache_layer(self, index: int) -> EvictingLayer:
        window = self.windows[index]
        return EvictingLayer() if window is None else SlidingColumns(window)

    def _take_over(self, past: Any) -> None:
        for index, layer in enumerate(past.layers[: len(self.full)]):
            if self.full[index] and type(layer) is DynamicSlidingWindowLayer and not layer.is_initialized:
                past.layers[index] = DynamicLayer()
        super()._take_over(past)

    def attend(self, call: Call) -> torch.Tensor:
        return self.dense(call)

    def dense(self, call: Call, at: torch.Tensor | None = None) -> torch.Tensor:
        """Attention to all that is stored, [batch, new, heads, head size].

        Args:
            call: the attention call.
            at: the columns of the new tokens, int64 [batch, new], -1: no token; None: those that follow what is there.
        """
        alone = call.mask is None and not call.before and self.windows[call.index] is None
        if alone and call.new > 1 and (at is None or bool((at[:, 0] >= 0).all())):
            return causal_prompt(call)
        return attend_to_all(call, self.visible(call, at))

    def visible(self, call: Call, at: torch.Tensor | None = None) -> torch.Tensor | None:
        """Who may see whom, bool [batch, 1, new, slots]; None: every new token sees every slot."""
        layer, window, mask = call.cache, self.windows[call.index], call.mask
        if at is None and mask is None and window is None and call.new == 1 and not layer.holes:
            return None
        batch, device = call.query.shape[0], call.query.device
        slots = layer.all_columns()[:, :1]  # [batch, 1, slots]: alike in all heads
        if at is None:
            at = (call.before + torch.arange(call.new, device=device)).expand(batch, -1)
        row, column = at[:, None, :, None], slots[:, :, None]  # [batch, 1, new, 1], [batch, 1, 1, slots]
        if mask is None or mask.dim() == 2:
            seen = (column <= row) & (column >= 0)
            if window is not None:
                seen &= row - column < window
            if mask is None:
                return seen
            return seen & mask.gather(1, slots[:, 0].clamp(min=0))[:, None, None]
        if mask.shape[3] < layer.seen:  # of a window that another layer's cache holds
            mask = F.pad(mask, (layer.seen - mask.shape[3], 0), value=False)
        mask = mask.expand(batch, -1, -1, -1)
        rows = (row - call.before).clamp(min=0).expand(-1, mask.shape[1], -1, mask.shape[3])
        mask = mask.gather(2, rows)
        return (column >= 0) & mask.gather(3, column.clamp(min=0).expand(-1, mask.shape[1], mask.shape[2], -1))
