"""EntropyPrune on a stock model: the prompt grows shorter between two layers, and nobody outside sees it.

Hooks before the layers from K on gather hidden states, positions and rotations of the tokens that stay; a hook after
the last layer puts them back to their places, so that what the model returns has a row for every token (a dropped one
leaves with what layer K-1 gave it). The caches of these layers hold the tokens that stay, each with its column: its
place in the padded text. So masks, draft trees, rewinds and joins know what is missing.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any

import torch

from szilard.attention.layers import EvictingLayer
from szilard.attention.prompt_span import PromptSpanSession
from szilard.attention.token_budget import layer_flops
from szilard.attention.token_subset import TokenSubset, taken
from szilard.information.token_entropy import token_matrix_entropy
from szilard.sessions.call import Call

if TYPE_CHECKING:
    from szilard.attention.entropy_prune import EntropyPrune


class EntropyPruneSession(PromptSpanSession):
    """An open EntropyPrune.

    Attributes:
        after: K, layers that run on all tokens.
        kept: of the last prompt, per row the tokens that stay after layer K, counted from the row's first token, int64.
        kept_visual: of these the visual ones, counted among the row's visual tokens (the patches of a picture, row by
            row), int64, ascending; empty for a row without any.
        scores: of the last prompt, per row what its visual tokens are worth, float64; of "stride": none.

    Args:
        method: its settings.
        model: a transformers model.

    Raises:
        ValueError: the model has no such layer or too few heads, or its layers cannot be entered with fewer tokens; a
            text model without a span.
    """

    method: EntropyPrune

    def __init__(self, method: EntropyPrune, model: Any) -> None:
        name = type(model).__name__
        super().__init__(method, model, span=method.span, acts=method.prunes)
        text, count = self.decoder.config, len(self.layers)
        self.after = count
        if method.prunes:
            self.after = method.prune_after(count, name)
            self.own_from(self.after - 1)
            self._check(model, name)
        hidden = int(text.hidden_size)
        width = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
        self._size = hidden, int(width if isinstance(width, int) else width[0])
        self.kept: list[torch.Tensor] = []
        self.kept_visual: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []
        self._at: torch.Tensor | None = None  # which tokens of this forward stay, [batch, kept], -1 for none
        self._uneven = False  # whether some are none
        self._whole: torch.Tensor | None = None  # hidden states of all of them, before layer K
        self._subset: TokenSubset | None = None

    def _check(self, model: Any, name: str) -> None:
        method, text = self.method, self.decoder.config
        if getattr(text, "hidden_size_per_layer_input", None):
            raise ValueError(f"the layers of {name} take an input per token beside the hidden states: none can leave.")
        deep = getattr(getattr(model.config, "vision_config", None), "deepstack_visual_indexes", None) or ()
        if self.after < len(deep):
            raise ValueError(
                f"{name} adds picture features up to layer {len(deep)}: set layer to {len(deep)} or more, not "
                f"{self.after}."
            )
        heads = int(text.num_attention_heads) if method.states == "query" else self.kv_heads
        if heads < 3 and method.score in ("entropy", "low-entropy"):
            raise ValueError(
                f"{name} has {heads} {method.states} heads, and with fewer than three the matrix entropy of every "
                "token is 0: choose other states, or another score."
            )

    def enter(self, stack: contextlib.ExitStack) -> None:
        super().enter(stack)
        if not self.method.prunes:
            return
        for index in range(self.after, len(self.layers)):
            hook = self.layers[index].register_forward_pre_hook(self._shorten, with_kwargs=True)
            stack.callback(hook.remove)
        stack.callback(self.layers[-1].register_forward_hook(self._restore).remove)

    def begin(self) -> None:
        self._at = self._whole = self._subset = None

    # ---- attention -------------------------------------------------------------------------------------------

    def attend(self, call: Call) -> torch.Tensor:
        layer: EvictingLayer = call.cache
        columns = None
        if self._at is not None and call.index >= self.after:
            columns = torch.where(self._at >= 0, self._at + call.before, -1)
            self._place(layer, columns, call)
        out = self.dense(call, columns)
        rows = call.query.shape[0] * call.keys.shape[1]
        if call.before and (call.new == 1 or call.tree):
            layer.generating = True
        if layer.generating:
            self.reads.read += rows * layer.stored
            self.reads.full += rows * layer.seen
        self.reads.held[call.index], self.reads.seen[call.index] = rows * layer.stored, rows * layer.seen
        if self.places is not None and call.index == self.after - 1:
            self._choose(call)
        return out

    def _place(self, layer: EvictingLayer, columns: torch.Tensor, call: Call) -> None:
        """Tell a layer, which has just stored the tokens that stay, where in the text they stand."""
        assert self.places is not None and self._at is not None
        before, new = call.before, self.places.shape[1]
        old = layer.all_columns()[..., : layer.stored - columns.shape[1]]
        fresh = columns[:, None].expand(-1, call.keys.shape[1], -1)
        layer.columns = torch.cat([old, fresh], dim=2)
        layer.holes = layer.holes or self._uneven
        layer.seen = before + new
        # the text behind the last place from which a token left may be taken back
        left = torch.ones_like(self.places).scatter(1, self._at.clamp(min=0), False)
        layer._fresh = int(left.flip(1).long().argmax(1).min())

    # ---- the choice ------------------------------------------------------------------------------------------

    def _choose(self, call: Call) -> None:
        """Which tokens of the prompt stay: all text, and of every row's visual tokens the best."""
        places, real = self.places, self.real
        assert places is not None and real is not None
        method, count = self.method, len(self.layers)
        stays = real & ~places
        self.kept, self.kept_visual, self.scores = [], [], []
        for row in range(len(places)):
            visual = places[row].nonzero()[:, 0]
            chosen = visual[:0]
            if len(visual):
                keep = method.kept_of(len(visual), count, self.after)
                chosen = self._best(call, row, visual, keep)
                stays[row, visual[chosen]] = True
                run = self.after * layer_flops(len(visual), *self._size)
                run += (count - self.after) * layer_flops(keep, *self._size)
                self.reads.count("prunable_tokens", len(visual))
                self.reads.count("prunable_tokens_kept", keep)
                self.reads.count("prunable_flops", run)
                self.reads.count("prunable_flops_full", count * layer_flops(len(visual), *self._size))
            self.kept_visual.append(chosen)
            self.kept.append((real[row].cumsum(0) - 1)[stays[row]])
        if bool((places & ~stays).any()):
            self._at = _right_aligned(stays)
            self._uneven = bool((self._at < 0).any())

    def _best(self, call: Call, row: int, visual: torch.Tensor, keep: int) -> torch.Tensor:
        """Which of a row's visual tokens stay, ascending int64 [keep]."""
        if self.method.score == "stride":
            return ((torch.arange(keep, device=visual.device) + 0.5) * len(visual) / keep).long()
        scores = self._score(call, row, visual)
        self.scores.append(scores)
        return scores.sort(descending=True, stable=True).indices[:keep].sort().values  # of equals the earlier one

    def _score(self, call: Call, row: int, visual: torch.Tensor) -> torch.Tensor:
        """What a row's visual tokens are worth, float64 [tokens]; more is kept."""
        score = self.method.score
        if score == "attention":
            return self._attention(call, row, visual)
        if score == "random":
            assert self.real is not None
            text = b"" if self.ids is None else self.ids[row][self.real[row]].cpu().numpy().tobytes()
            dice = torch.Generator().manual_seed(zlib.crc32(text, self.method.seed))
            return torch.rand(len(visual), generator=dice, dtype=torch.float64).to(visual.device)
        states = call.query if self.method.states == "query" else call.keys[:, :, -call.new :]
        chosen = states[row : row + 1].index_select(2, visual)  # [1, heads, tokens, head size]
        found = token_matrix_entropy(chosen, "released" if score == "released" else "paper")[0]
        return -found if score == "low-entropy" else found

    def _attention(self, call: Call, row: int, visual: torch.Tensor) -> torch.Tensor:
        """What the row's last token attends to, mean over heads."""
        assert self.real is not None
        last = int(self.real[row].nonzero()[-1, 0])
        keys = call.keys[row].repeat_interleave(call.groups, dim=0)  # [heads, slots, head size]
        products = (keys @ call.query[row, :, last, :, None])[..., 0].double() * call.scaling  # [heads, slots]
        at = torch.full((call.query.shape[0], 1), call.before + last, device=keys.device)
        visible = self.visible(call, at)
        if visible is not None:
            products = products.masked_fill(~visible[row, :, 0], -torch.inf)
        return products.softmax(-1).mean(0)[visual - call.new]  # the newest slots are this prompt's

    # ---- fewer tokens ----------------------------------------------------------------------------------------

    def _shorten(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Before a layer from K on: the tokens that stay, with their own positions and rotations."""
        at = self._at
        if at is None:
            return None
        if self._whole is None:
            hidden = arguments[0] if arguments else options["hidden_states"]
            self._whole, short = hidden, taken(hidden, at, 1)
            if arguments:
                arguments = (short, *arguments[1:])
            else:
                options = options | {"hidden_states": short}
        if self._subset is None:
            self._subset = TokenSubset(at)
        return arguments, self._subset.options(options)

    def _restore(self, layer: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        """After the last layer: every token in its place again."""
        if self._at is None or self._whole is None:
            return None
        short = output if isinstance(output, torch.Tensor) else output[0]
        rows, slots = (self._at >= 0).nonzero(as_tuple=True)
        whole = self._whole.clone()
        whole[rows, self._at[rows, slots]] = short[rows, slots]
        self._whole = self._subset = None
        return whole if isinstance(output, torch.Tensor) else (whole, *output[1:])

    def summary(self) -> dict[str, float]:
        """Shares and counts; `prunable_flops_share` is what the layers ran of the visual tokens' FLOPs."""
        found = super().summary()
        full = found.get("prunable_flops_full", 0.0)
        return found | {"prunable_flops_share": found.get("prunable_flops", 0.0) / full if full else 1.0}


def _right_aligned(stays: torch.Tensor) -> torch.Tensor:
    """The true places of every row of a bool [batch, n], ascending and filled with -1 on the left, [batch, most]."""
    counts = stays.sum(1)
    width = int(counts.max())
    at = torch.full((len(stays), width), -1, dtype=torch.long, device=stays.device)
    rows, places = stays.nonzero(as_tuple=True)
    at[rows, stays.cumsum(1)[rows, places] - 1 + (width - counts)[rows]] = places
    return at
