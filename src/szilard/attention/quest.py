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
from szilard.attention.sparse import SparseSession
from szilard.options import check_number
from szilard.sessions.call import Call


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
    """An open Quest. Pages are counted from a row's first token, so that padding changes nothing."""

    method: Quest

    def __init__(self, method: Quest, model: Any) -> None:
        super().__init__(method, model)
        self._shift: torch.Tensor | None = None
        self._mark = object()  # of this session: what others did to a cache is not known
        self._bounds: tuple[torch.Tensor, torch.Tensor] | None = None

    def begin(self) -> None:
        self._shift = None  # the next forward may have another mask

    def attend(self, call: Call) -> torch.Tensor:
        if self.method.budget is not None and call.index >= self.method.dense_layers:
            self._bounds = self.bounds(call)  # also where all is read: no key goes by unseen
        return super().attend(call)

    def select(self, call: Call) -> torch.Tensor | None:
        method, stored = self.method, call.keys.shape[2]
        if method.budget is None or call.index < method.dense_layers or stored <= method.budget:
            return None
        page, device = method.page, call.query.device
        shift = self.shift(call)
        assert self._bounds is not None
        least, most = self._bounds  # [batch, kv heads, pages, size]
        batch, heads, new, size = call.query.shape
        query = call.query.reshape(batch, call.keys.shape[1], call.groups * new, size).to(least.dtype)
        # max(q min, q max) = q+ max + q- min, as two products
        scores = query.clamp(min=0) @ most.transpose(-1, -2)
        scores += query.clamp(max=0) @ least.transpose(-1, -2)
        scores = scores.view(batch, heads, new, -1)  # [batch, heads, new, pages]
        pages = scores.shape[-1]
        visible = call.visible()  # [batch, 1, new, stored]
        start = torch.arange(pages, device=device) * page
        if shift is not None:
            start = start + shift[:, None, None, None]  # of every page, in slots
        slots = start[..., None] + torch.arange(page, device=device)  # [(batch, 1, 1,) pages, page]
        if visible is None:
            scores[..., -1] = torch.inf  # the newest token's own page
        else:
            seen = self._by_page(visible, slots)  # [batch, 1, new, pages]
            scores = scores.masked_fill(~seen, -torch.inf)
            own = (torch.arange(pages, device=device) + 1) * seen
            scores = scores.masked_fill(own == own.amax(-1, keepdim=True), torch.inf)
        best = scores.topk(min(method.budget // page, pages), dim=-1).indices  # [batch, heads, new, pages read]
        found = best[..., None] * page + torch.arange(page, device=device)
        if shift is not None:
            found = found + shift[:, None, None, None, None]
        found = found.flatten(-2)  # [batch, heads, new, k]
        if visible is None:
            return torch.where(found < stored, found, -1)
        allowed = visible.expand(-1, found.shape[1], -1, -1).gather(3, found.clamp(max=stored - 1))
        return torch.where(allowed & (found < stored), found, -1)

    def shift(self, call: Call) -> torch.Tensor | None:
        """Slots before the first page border of a row, int64 [batch]; None: none in any row."""
        if call.mask is None:
            return None
        if self._shift is None:
            mask = call.mask if call.mask.dim() == 2 else call.mask[:, 0, 0]  # what the first new token sees
            self._shift = mask.int().argmax(-1) % self.method.page
        return self._shift

    def _by_page(self, visible: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Which pages hold something that a new token sees, bool [batch, 1, new, pages]."""
        batch, _, new, stored = visible.shape
        index = slots.clamp(max=stored - 1).expand(batch, 1, 1, *slots.shape[-2:]).flatten(3)
        inside = visible.gather(3, index.expand(-1, -1, new, -1)) & (slots < stored).expand(
            batch, 1, 1, -1, -1
        ).flatten(3)
        return inside.unflatten(3, slots.shape[-2:]).any(-1)

    def bounds(self, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and greatest value of every channel of every page, [batch, kv heads, pages, size]; kept with the cache
        layer and brought up to date from the first page on that a token came to."""
        made_for = self._mark, call.cache.moves
        known = getattr(call.cache, "pages", None)
        if known is None or known.made_for != made_for:
            known = call.cache.pages = PageBounds(self.method.page, made_for)
        mask = None if call.mask is None or call.mask.dim() == 4 else call.mask
        return known.update(call.keys, call.before, self.shift(call), mask, settled=not call.tree)


class PageBounds:
    """Least and greatest value of every channel of the pages of a growing layer.

    Args:
        page: keys of a page.
        made_for: by which the owner knows whether this still holds.
    """

    def __init__(self, page: int, made_for: Any = None) -> None:
        self.page, self.made_for = page, made_for
        self._known = 0  # first slots of which the pages are up to date and will not change
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self,
        keys: torch.Tensor,
        before: int,
        shift: torch.Tensor | None,
        mask: torch.Tensor | None,
        *,
        settled: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Look at the keys that came; those before them are looked at where their page is not full.

        Args:
            keys: [batch, kv heads, stored, size].
            before: slots that were there before the newest came.
            shift: slots before the first page border of a row, [batch]; None: none.
            mask: padding, bool [batch, columns]; None: none.
            settled: whether the newest slots will stay what they are (the nodes of a draft tree will not).

        Returns:
            Least and greatest, float32 or better, [batch, kv heads, pages, size].
        """
        heads, stored, size = keys.shape[1:]
        page, pages = self.page, -(-stored // self.page)
        known = min(before, self._known)
        first = max(0, known - (0 if shift is None else page - 1)) // page  # page that may have changed, in any row
        self._known = stored if settled else before
        fresh = keys[:, :, first * page :]
        seen = None if mask is None else mask[:, first * page : stored]
        if shift is not None:  # row b's pages begin shift[b] slots later
            at = torch.arange(fresh.shape[2], device=keys.device) + shift[:, None]  # [batch, fresh]
            there = at < fresh.shape[2]
            at = at.clamp(max=fresh.shape[2] - 1)
            fresh = fresh.gather(2, at[:, None, :, None].expand(-1, heads, -1, size))
            seen = there if seen is None else there & seen.gather(1, at)
        fresh = fresh.to(torch.promote_types(keys.dtype, torch.float32))
        gap = (pages - first) * page - fresh.shape[2]
        self._make_room(fresh, pages, first)
        assert self._room is not None
        for bound, fill, name in zip(self._room, (torch.inf, -torch.inf), ("amin", "amax"), strict=True):
            part = fresh if seen is None else fresh.masked_fill(~seen[:, None, :, None], fill)
            part = torch.nn.functional.pad(part, (0, 0, 0, gap), value=fill).unflatten(2, (-1, page))
            bound[:, :, first:pages] = getattr(part, name)(3)
        return self._room[0][:, :, :pages], self._room[1][:, :, :pages]

    def _make_room(self, like: torch.Tensor, pages: int, kept: int) -> None:
        if self._room is not None and self._room[0].shape[2] >= pages:
            return
        old = self._room
        shape = (*like.shape[:2], pages + max(64, pages // 8), like.shape[3])
        self._room = like.new_empty(shape), like.new_empty(shape)
        if old is not None:
            for bound, known in zip(self._room, old, strict=True):
                bound[:, :, :kept] = known[:, :, :kept]
