"""TidalDecode: two layers read everything and choose the tokens that the other layers read.

Yang, Zhang, Chen, Li, Jia 2024, "TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse
Attention", ICLR 2025, arXiv 2410.05076. Reference code: DerrickYLJ/TidalDecode (Apache-2.0).

While generating, layer l of L does one of three things (l0 = `dense_layers`, R = `reselect_layers`):

    l < l0               full attention
    l = l0, or l in R    full attention, and the selection T_h = the min(k, n) greatest of s_h = q_h K^T / sqrt(d)
    else                 o_h = softmax(q_h K[T_h]^T / sqrt(d)) V[T_h], with the latest selection

The whole cache stays; the prompt is read densely. A selection lasts for one forward, one set per new token. Keys read
per step and kv head: (l0 + 1 + |R|) n + (L - l0 - 1 - |R|) k; with a selection per query head, k for each of a group's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from szilard.attention.cache_correction import Uncorrected
from szilard.attention.method import AttentionMethod
from szilard.attention.sparse import SparseSession
from szilard.options import check_bool, check_choice, check_ids, check_number
from szilard.sessions.call import Call

_PRODUCTS_AT_ONCE = 1 << 24  # products of queries and keys that are held at a time, over rows, heads and new tokens


@dataclass(frozen=True)
class TidalDecode(AttentionMethod):
    """Position-persistent sparse attention.

    Attributes:
        budget: k, tokens that a sparse layer reads, sinks and recent ones included; None: all.
        dense_layers: l0, first layers that read everything; layer l0 selects.
        reselect_layers: R, further layers that read everything and select anew; `szilard train tidal-decode` finds the
            best ones for a model. Layers that a model lacks are refused.
        per: who has a selection of its own: "query" (each query head, paper), "kv" (each key-value head: the budget is
            then what is loaded) or "layer" (all heads of a layer share one; best on small models).
        keep_current: always read the newest token (as the released kernels do; the released accuracy code only when it
            is among the best).
        sinks: first tokens of a row that are always read (ours; 0 in the paper).
        recent: last tokens that are always read (ours; 0 in the paper).
        min_length: texts of up to so many tokens are read densely.
        correct_every: C, tokens after which those generated sparsely are run again as one block with full attention, so
            that the keys and values in the cache are those of full attention; None: never (as in the paper's
            experiments). For models without sliding layers. What else happens to the cache in between (a draft tree, a
            rewind, a fork, a beam step) begins the count anew, and what was generated before it stays as it is.
    """

    slug: ClassVar[str] = "tidal-decode"
    paper: ClassVar[str] = "Yang et al., ICLR 2025, arXiv 2410.05076"

    budget: int | None = 256
    dense_layers: int = 2
    reselect_layers: tuple[int, ...] = (13,)
    per: str = "query"
    keep_current: bool = True
    sinks: int = 0
    recent: int = 0
    min_length: int = 0
    correct_every: int | None = None

    def __post_init__(self) -> None:
        check_number("budget", self.budget, low=1, integer=True, optional=True)
        check_number("dense_layers", self.dense_layers, low=0, integer=True)
        object.__setattr__(self, "reselect_layers", check_ids("reselect_layers", self.reselect_layers))
        check_choice("per", self.per, ("query", "kv", "layer"))
        check_bool("keep_current", self.keep_current)
        check_number("sinks", self.sinks, low=0, integer=True)
        check_number("recent", self.recent, low=0, integer=True)
        check_number("min_length", self.min_length, low=0, integer=True)
        check_number("correct_every", self.correct_every, low=1, integer=True, optional=True)
        always = self.sinks + max(self.recent, int(self.keep_current))
        if self.budget is not None and self.budget < always:
            raise ValueError(
                f"a budget of {self.budget} has no room for the {always} tokens that are always read "
                f"(sinks={self.sinks}, recent={self.recent}, keep_current={self.keep_current}): raise it."
            )
        if any(layer <= self.dense_layers for layer in self.reselect_layers):
            raise ValueError(
                f"reselect_layers must lie above dense_layers={self.dense_layers}, not {self.reselect_layers!r}."
            )

    @classmethod
    def neutral(cls) -> TidalDecode:
        return cls(budget=None, reselect_layers=())

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> TidalDecode:
        """The settings that `szilard train tidal-decode` found for a model.

        Args:
            path: the plan that it wrote.
            changes: fields that are to be different, such as the budget.

        Raises:
            ValueError: no such file, or another kind of file.
        """
        from szilard.attention.tidal_calibration import read_plan

        return cls(**read_plan(Path(path))["settings"] | changes)

    def session(self, model: Any) -> TidalSession:
        return TidalSession(self, model)


class TidalSession(SparseSession):
    """An open TidalDecode.

    Attributes:
        selects: layers that select.
        selection: of the forward that runs: slots, int64 [batch, sets, new, k], -1 for none.
    """

    method: TidalDecode

    def __init__(self, method: TidalDecode, model: Any) -> None:
        super().__init__(method, model)
        count = len(self.layers)
        beyond = [layer for layer in method.reselect_layers if layer >= count]
        if beyond and method.budget is not None:
            raise ValueError(
                f"reselect_layers {beyond} lie beyond the {count} layers of {type(model).__name__}: choose among "
                f"{method.dense_layers + 1} to {count - 1}, or find them with `szilard train tidal-decode`."
            )
        # Only layers that keep every token can choose for others: the next full one, where layers slide.
        full = [index for index, is_full in enumerate(self.full) if is_full]
        wanted = (method.dense_layers, *method.reselect_layers)
        self.selects = sorted({next((one for one in full if one >= layer), count) for layer in wanted})
        self.selection: torch.Tensor | None = None
        if method.correct_every is not None and not all(self.full):
            raise ValueError(
                f"{type(model).__name__} has layers that forget tokens, which cannot be run again: leave "
                "correct_every out."
            )
        self._since = Uncorrected()
        self._correcting = False

    def begin(self) -> None:
        self.selection = None  # of the last forward: it lacks the newest token

    # ---- cache correction ------------------------------------------------------------------------------------

    def _before(self, decoder: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        every = self.method.correct_every
        past, mask = options.get("past_key_values"), options.get("attention_mask")
        if every is None or self._correcting or past is None or not past.get_seq_length():
            return super()._before(decoder, arguments, options)
        plain = mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2)  # no draft tree
        goes_on = plain and self._since.follows(past, past.layers[0])
        if goes_on and self.selection is not None:
            self._since.sparse = True
        due = goes_on and self._since.sparse and self._since.tokens >= every
        if due:
            self._run_again(past, mask)
        if due or not goes_on or not self._since.sparse:
            self._since.start(past, past.get_seq_length())
        if plain:
            self._since.add(options | ({"input_ids": arguments[0]} if arguments else {}))
        return super()._before(decoder, arguments, options)

    def _run_again(self, past: Any, mask: torch.Tensor | None) -> None:
        """What was read sparsely, once more and as one block with full attention, at its own positions."""
        tokens, length = self._since.tokens, past.get_seq_length()
        block = self._since.block(self.decoder.get_input_embeddings())
        past.crop(-tokens)
        steps, full = self.reads.steps, self.reads.full  # full attention would not have come here
        self._correcting = True
        try:
            with torch.no_grad():
                seen = None if mask is None else mask[:, :length]
                self.decoder(**block, attention_mask=seen, past_key_values=past, use_cache=True)
        finally:
            self._correcting = False
        self.reads.steps, self.reads.full = steps, full
        self.reads.count("corrections")
        self.reads.count("corrected_tokens", tokens)

    # ---- selection -------------------------------------------------------------------------------------------

    def select(self, call: Call) -> torch.Tensor | None:
        method, stored = self.method, call.keys.shape[2]
        if self._correcting or method.budget is None:
            return None
        if stored <= max(method.budget, method.min_length) or call.index < self.selects[0]:
            return None
        if call.index in self.selects:
            self.selection = self.best(call)
            return None
        return self.selection

    def best(self, call: Call) -> torch.Tensor:
        """The slots with the greatest products, int64 [batch, sets, new, k]; padding and later tokens are -1."""
        batch, heads, new, _ = call.query.shape
        at_once = max(1, _PRODUCTS_AT_ONCE // (batch * heads * call.keys.shape[2]))
        if new <= at_once:
            return self._best(call, slice(0, new))
        return torch.cat([self._best(call, slice(at, min(at + at_once, new))) for at in range(0, new, at_once)], dim=2)

    def _best(self, call: Call, rows: slice) -> torch.Tensor:
        """The same for some of the new tokens."""
        method = self.method
        assert method.budget is not None
        query = call.query[:, :, rows]
        batch, _, new, size = query.shape
        kv_heads, stored = call.keys.shape[1], call.keys.shape[2]
        query = query.reshape(batch, kv_heads, call.groups * new, size)
        products = (query @ call.keys.transpose(-1, -2)).view(batch, kv_heads, call.groups, new, stored)
        visible = call.visible(new=rows)
        if visible is not None:
            products = products.masked_fill(~visible[:, :, None], -torch.inf)
        if method.per == "query":
            scores = products.flatten(1, 2)  # [batch, heads, new, stored]
        else:
            precision = torch.promote_types(products.dtype, torch.float32)
            shares = (products * call.scaling).softmax(-1, dtype=precision)
            scores = shares.mean(2) if method.per == "kv" else shares.mean((1, 2))[:, None]
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
        self._raise_what_is_always_read(scores, visible)
        if visible is None:
            return scores.topk(min(method.budget, stored), dim=-1, sorted=False).indices
        dense = method.min_length > method.budget  # tokens that see so little may be among longer rows
        chosen = scores.topk(min(max(method.budget, method.min_length), stored), dim=-1, sorted=dense)
        there = chosen.values > -torch.inf
        if dense:
            enough = visible.sum(-1, keepdim=True) <= method.min_length
            there &= enough | (torch.arange(there.shape[-1], device=there.device) < method.budget)
        return torch.where(there, chosen.indices, -1)

    def _raise_what_is_always_read(self, scores: torch.Tensor, visible: torch.Tensor | None) -> None:
        """Sinks and the newest tokens, counted among those that a new token sees."""
        method = self.method
        last = max(method.recent, int(method.keep_current))
        if visible is None:
            if last:
                scores[..., -last:] = torch.inf
            scores[..., : method.sinks] = torch.inf
            return
        order = visible.cumsum(-1)  # 1 for the first visible slot
        always = visible & ((order <= method.sinks) | (order > order[..., -1:] - last))
        scores.masked_fill_(always.expand(scores.shape), torch.inf)
