"""Quest: read the pages of keys that may matter to this query.

Tang et al. 2024, "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference", ICML 2024, arXiv 2406.10774.
Keys lie in pages of 16; a page is known by the least and greatest value of every channel, and scored by what no key in
it can exceed:

    score(page) = sum over channels c of max(q_c min_c, q_c max_c)                               [batch, heads, pages]

The best budget / page pages are read, per query head; the page of the newest token always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.attention.method import AttentionMethod
from szilard.attention.session import Call
from szilard.attention.sparse import SparseSession
from szilard.options import check_number


@dataclass(frozen=True)
class Quest(AttentionMethod):
    """Pages by bounds.

    Attributes:
        budget: keys that a query head reads in a layer, a multiple of `page`; None: all.
        page: keys of a page.
        dense_layers: first layers that read everything.
    """

    slug: ClassVar[str] = "quest"
    paper: ClassVar[str] = "Tang et al., ICML 2024, arXiv 2406.10774"

    budget: int | None = 512
    page: int = 16
    dense_layers: int = 2

    def __post_init__(self) -> None:
        check_number("budget", self.budget, low=1, integer=True, optional=True)
        check_number("page", self.page, low=1, integer=True)
        check_number("dense_layers", self.dense_layers, low=0, integer=True)
        if self.budget is not None and self.budget % self.page:
            raise ValueError(f"budget must be a multiple of page={self.page}, not {self.budget}.")

    @classmethod
    def neutral(cls) -> Quest:
        return cls(budget=None)

    def session(self, model: Any) -> _Session:
        return _Session(self, model)


class _Session(SparseSession):
    method: Quest

    def select(self, call: Call) -> torch.Tensor | None:
        method, stored = self.method, call.keys.shape[2]
        if method.budget is None or call.index < method.dense_layers or stored <= method.budget:
            return None
        page = method.page
        pages = -(-stored // page)
        least, most = self._bounds(call, pages)
        query = call.query.unflatten(1, (call.keys.shape[1], -1)).float()  # [batch, kv heads, group, new, size]
        # max(q min, q max) = q+ max + q- min, as two products
        scores = query.clamp(min=0) @ most[:, :, None].transpose(-1, -2)
        scores += query.clamp(max=0) @ least[:, :, None].transpose(-1, -2)
        scores = scores.flatten(1, 2)  # [batch, heads, new, pages]
        visible = call.visible()
        if visible is not None:
            some = torch.nn.functional.pad(visible, (0, pages * page - stored)).unflatten(-1, (pages, page)).any(-1)
            scores = scores.masked_fill(~some, -torch.inf)
        scores[..., -1] = torch.inf  # the newest token's own page
        best = scores.topk(method.budget // page, dim=-1).indices  # [batch, heads, new, pages read]
        slots = (best[..., None] * page + torch.arange(page, device=best.device)).flatten(-2)
        slots = torch.where(slots < stored, slots, -1)
        if visible is not None:
            allowed = visible.expand(-1, slots.shape[1], -1, -1).gather(3, slots.clamp(min=0))
            slots = torch.where(allowed, slots, -1)
        return slots

    def _bounds(self, call: Call, pages: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and greatest value of every channel of every page, [batch, kv heads, pages, size]; kept with the cache
        layer and brought up to date from the page on where something changed."""
        page, keys, layer = self.method.page, call.keys, call.cache
        parts: tuple[list[torch.Tensor], list[torch.Tensor]]
        known = getattr(layer, "pages", None)
        full = call.before // page  # pages that no new token touches
        if known is None or known[2] != layer.moves or known[0].shape[2] < full:
            full, parts = 0, ([], [])
        else:
            parts = ([known[0][:, :, :full]], [known[1][:, :, :full]])
        rest = keys[:, :, full * page :].float()
        gap = pages * page - full * page - rest.shape[2]
        for part, fill, name in ((parts[0], torch.inf, "amin"), (parts[1], -torch.inf, "amax")):
            padded = torch.nn.functional.pad(rest, (0, 0, 0, gap), value=fill).unflatten(2, (-1, page))
            part.append(getattr(padded, name)(3))
        least, most = torch.cat(parts[0], 2), torch.cat(parts[1], 2)
        layer.pages = least, most, layer.moves
        return least, most
