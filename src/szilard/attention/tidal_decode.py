"""TidalDecode: two layers read everything and choose the tokens that the other layers read.

Yang, Zhang, Chen, Li, Jia 2024, "TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse
Attention", ICLR 2025, arXiv 2410.05076. Reference code: DerrickYLJ/TidalDecode (Apache-2.0).

While generating, layer l of L does one of three things (l0 = `dense_layers`, R = `reselect_layers`):

    l < l0               full attention
    l = l0, or l in R    full attention, and the selection T_h = the min(k, n) greatest of s_h = q_h K^T / sqrt(d)
    else                 o_h = softmax(q_h K[T_h]^T / sqrt(d)) V[T_h], with the latest selection

The whole cache stays; the prompt is read densely. A selection lasts for one forward, one set per new token. Keys read
per step and kv head: (l0 + 1 + |R|) n + (L - l0 - 1 - |R|) k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.attention.method import AttentionMethod
from szilard.attention.session import Call
from szilard.attention.sparse import SparseSession
from szilard.options import check_bool, check_choice, check_ids, check_number


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
        min_length: shorter texts are read densely.
        correct_every: tokens after which those generated sparsely are run again with full attention, so that the
            keys and values in the cache are those of full attention; None: never. A draft tree or a fork in between
            begins the count anew.
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

    def begin(self) -> None:
        self.selection = None  # of the last forward: it lacks the newest token

    def select(self, call: Call) -> torch.Tensor | None:
        method, stored = self.method, call.keys.shape[2]
        if method.budget is None or stored <= max(method.budget, method.min_length) or call.index < self.selects[0]:
            return None
        if call.index in self.selects:
            self.selection = self.best(call)
            return None
        return self.selection

    def best(self, call: Call) -> torch.Tensor:
        """The slots with the greatest products, int64 [batch, sets, new, k]; padding and later tokens are -1."""
        method = self.method
        assert method.budget is not None
        batch, _, new, size = call.query.shape
        kv_heads, stored = call.keys.shape[1], call.keys.shape[2]
        query = call.query.reshape(batch, kv_heads, call.groups * new, size)
        products = (query @ call.keys.transpose(-1, -2)).view(batch, kv_heads, call.groups, new, stored)
        visible = call.visible()
        if visible is not None:
            products = products.masked_fill(~visible[:, :, None], -torch.inf)
        if method.per == "query":
            scores = products.flatten(1, 2)  # [batch, heads, new, stored]
        else:
            shares = (products * call.scaling).softmax(-1)
            scores = shares.mean(2) if method.per == "kv" else shares.mean((1, 2))[:, None]
            if visible is not None:
                scores = scores.masked_fill(~visible, -torch.inf)
        self._raise_what_is_always_read(scores, visible)
        chosen = scores.topk(min(method.budget, stored), dim=-1, sorted=False)
        if visible is None:
            return chosen.indices
        return torch.where(chosen.values > -torch.inf, chosen.indices, -1)

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
