"""UnComp's stages: while a prompt is read, deeper layers run on fewer of its tokens.

Through hooks on the decoder's layers: where a stage begins, hidden states, positions and rotations of the tokens that
stay are gathered; before the final norm every token gets back its place. A token that left keeps the state it left
with, whose logits mean nothing; the last tokens of a row always stay.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch

from szilard.attention.eviction import Slots
from szilard.attention.token_subset import TokenSubset, taken
from szilard.attention.uncomp.plan import kept_tokens
from szilard.sessions.call import Call
from szilard.sessions.session import Session

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


class HiddenStages:
    """Which tokens of the prompt are alive in the layer that runs.

    Args:
        session: of the open method.
        stage: of every layer.
        min_tokens: S_min.
        window: last tokens that stay, and whose attention says what the others are worth.

    Attributes:
        columns: places in the padded prompt of the tokens that are alive, ascending int64 [batch, alive]; None: all.
        length: tokens of the padded prompt.

    Raises:
        ValueError: a model whose decoder cannot be entered between two layers.
    """

    def __init__(self, session: Session, stage: list[int], min_tokens: int, window: int) -> None:
        name, slug, text = type(session.model).__name__, session.method.slug, session.decoder.config
        norms = [getattr(session.decoder, entry, None) for entry in _NORMS]
        norm = next((found for found in norms if found is not None), None)
        if norm is None or getattr(text, "hidden_size_per_layer_input", None):
            raise ValueError(f"the layers of {name} cannot be entered in the middle, which stages of '{slug}' need.")
        if getattr(session.model.config, "vision_config", None) is not None:
            raise ValueError(f"{name} reads pictures, which stages of '{slug}' cannot drop: leave stages out.")
        if not all(session.full):
            raise ValueError(f"layers of {name} slide over a window, which stages of '{slug}' would empty: leave them.")
        self.session, self.norm = session, norm
        self.stage, self.stages = stage, stage[-1] + 1
        self.min_tokens, self.window = min_tokens, window
        self.begin(acts=False)

    def begin(self, *, acts: bool) -> None:
        """A forward begins; `acts`: it reads a prompt from its first token on."""
        self.acts = acts
        self.columns: torch.Tensor | None = None
        self.length = 0
        self._real: torch.Tensor | None = None  # tokens of every row, [batch]
        self._next: torch.Tensor | None = None  # which of those alive live on, [batch, kept]
        self._subset: TokenSubset | None = None  # those alive, as the layers of a stage get them
        self._states: torch.Tensor | None = None  # of all tokens, as they left, [batch, length, hidden]

    def enter(self, stack: contextlib.ExitStack) -> None:
        """The hooks; the stack takes them away."""
        first = self.stage.index(1) if self.stages > 1 else len(self.stage)
        for index, layer in enumerate(self.session.layers):
            if index >= first:
                stack.callback(layer.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        stack.callback(self.norm.register_forward_pre_hook(self._leave).remove)

    def alive(self, call: Call) -> Call:
        """The call as it is among the tokens that are alive: slot = place among them."""
        if not self.acts:
            return call
        if self._real is None:
            self.length = call.new
            batch = call.query.shape[0]
            if call.mask is not None and call.mask.dim() == 4:
                raise ValueError("stages of UnComp take a padding mask [batch, tokens] and no 4-dimensional one.")
            full = torch.full((batch,), call.new, device=call.query.device)
            self._real = full if call.mask is None else call.mask.sum(1)
        if self.columns is None or call.mask is None:
            return call
        return replace(call, mask=call.mask.gather(1, self.columns))

    def ends(self, index: int) -> bool:
        """Whether the next layer runs on fewer tokens."""
        last = index + 1 == len(self.stage) or self.stage[index + 1] == self.stage[index]
        return self.acts and not last and self.length > self.min_tokens

    def choose(self, slots: Slots) -> None:
        """Rank the tokens that are alive by the attention of the last ones, before anything is evicted."""
        assert self._real is not None
        new = slots.call.new
        kept = torch.tensor(
            [
                kept_tokens(length, self.stage[slots.index + 1], self.stages, self.min_tokens)
                for length in self._real.tolist()
            ],
            device=slots.keys.device,
        )[:, None]
        width = min(int(kept.max()), new)
        rows = slice(max(0, new - self.window), None)
        real = slots.real[:, 0]  # [batch, new]
        mass = slots.probabilities(rows) * real[:, None, None, rows, None]
        # Paper: also summed over the batch, which is 1 there; here: per row.
        worth = mass.sum((1, 2, 3)).masked_fill(slots.order[:, 0] >= real.sum(1, keepdim=True) - self.window, torch.inf)
        worth = worth.masked_fill(~real, -torch.inf)
        rank = worth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        lives = (rank < kept) & real
        # A shorter row may keep fewer tokens: padding fills it up, which it has more of than a longer one.
        tier = 2 * lives.long() + (~real).long()
        self._next = tier.sort(dim=1, descending=True, stable=True).indices[:, :width].sort(1).values

    def _before(self, module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not self.acts:
            return None
        hidden, *rest = arguments
        if self._next is not None:
            if self.columns is None:
                self._states, self.columns = hidden, self._next
            else:
                self._store(hidden)
                self.columns = self.columns.gather(1, self._next)
            hidden, self._subset = taken(hidden, self._next, 1), TokenSubset(self.columns)
            self._next = None
        if self._subset is None:
            return None
        return (hidden, *rest), self._subset.options(options)

    def _leave(self, module: Any, arguments: tuple[Any, ...]) -> Any:
        if self.columns is None:
            return None
        self._store(arguments[0])
        self._subset = None
        assert self._states is not None
        return (self._states, *arguments[1:])

    def _store(self, hidden: torch.Tensor) -> None:
        assert self._states is not None and self.columns is not None
        index = self.columns[..., None].expand(-1, -1, hidden.shape[2])
        self._states = self._states.scatter(1, index, hidden)
