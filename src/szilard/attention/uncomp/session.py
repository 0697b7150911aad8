"""An open UnComp: which head belongs where, attention group by group, and what leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from szilard.attention.eviction import Slots
from szilard.attention.snapkv import pooled
from szilard.attention.uncomp.grouped_layer import GroupedLayer
from szilard.attention.uncomp.hidden_stages import HiddenStages
from szilard.attention.uncomp.plan import UnCompPlan, group_sizes
from szilard.sessions.call import Call, attend_to_all, causal_prompt
from szilard.sessions.session import Session

if TYPE_CHECKING:
    from szilard.attention.uncomp.method import UnComp

_ROWS = "rows"  # W: the last w rows of probabilities, of every slot, [batch, kv heads, slots, w]


class UnCompSession(Session):
    """An open UnComp.

    Attributes:
        plan: of the model; None where nothing is decided by entropy.
        groups: of every layer, the key-value heads of every group, [layers][groups][heads].
        budgets: slots per head of every group; None: all.
        stages: which tokens of a prompt run in which layers; None: all of them.
    """

    method: UnComp

    def __init__(self, method: UnComp, model: Any) -> None:
        super().__init__(method, model)
        self.plan = method.loaded_plan()
        count, kv_heads = len(self.layers), self.kv_heads
        if self.plan is not None:
            self.plan.check_fits(model, count, kv_heads)
        if method.drop_heads >= kv_heads:
            raise ValueError(
                f"drop_heads={method.drop_heads} leaves none of the {kv_heads} key-value heads of "
                f"{type(model).__name__}: give at most {kv_heads - 1}."
            )
        self.groups, self.budgets = _assigned(method, self.plan, count, kv_heads)
        self.dropped = [
            [head for head in range(kv_heads) if not any(head in group for group in layer)] for layer in self.groups
        ]
        self.stages: HiddenStages | None = None
        if method.stages:
            assert self.plan is not None
            stage = self.plan.layer_stage(method.stage_drop)
            self.stages = HiddenStages(self, stage, method.min_tokens, method.window)
        self._bytes: dict[int, int] = {}

    def cache_layer(self, index: int) -> GroupedLayer:
        return GroupedLayer(self.groups[index], rewindable=self.method.rewinds)

    def enter(self, stack: contextlib.ExitStack) -> None:
        if self.stages is not None:
            self.stages.enter(stack)

    def begin(self) -> None:
        if self.stages is not None:
            self.stages.begin(acts=self.cache is not None and not self._filled)

    def summary(self) -> dict[str, float]:
        return super().summary() | {"kv_bytes_held": float(sum(self._bytes.values()))}

    # ---- a call ----------------------------------------------------------------------------------------------

    def attend(self, call: Call) -> torch.Tensor:
        layer: GroupedLayer = call.cache
        if call.before and (call.new == 1 or call.tree):
            layer.start_generating()
        whole, columns = call.before + call.new, None
        if self.stages is not None and self.stages.acts:
            call = self.stages.alive(call)
            whole, columns = self.stages.length, self.stages.columns
            self.reads.count("prompt_tokens_run", call.new)
            self.reads.count("prompt_tokens_full", whole)
        calls = list(self._per_group(call))
        dropped = bool(self.dropped[call.index])
        if call.before and dropped and layer.donors is None:  # the cache was filled before the method was open
            layer.donors = self._donors(call)
        if call.before:
            out = self._by_groups(call, [attend_to_all(one, one.visible(one.cache.columns)) for one in calls])
        elif call.mask is None and call.new > 1:
            out = causal_prompt(call)
        else:
            out = attend_to_all(call, call.visible())
        if self.stages is not None and self.stages.ends(call.index):
            self.stages.choose(Slots(replace(call, cache=layer.parts[0]), self))
        if not layer.generating and dropped:
            layer.donors = self._donors(call)
        rows = call.query.shape[0]
        if layer.generating:
            self.reads.read += rows * layer.held
            self.reads.full += rows * self.kv_heads * layer.seen
        if self.budgets is not None and not call.tree:
            for one, budget in zip(calls, self.budgets, strict=True):
                self._compress(Slots(one, self), budget)
        if columns is not None:
            layer.place(columns, whole)
        self.reads.held[call.index], self.reads.seen[call.index] = rows * layer.held, rows * self.kv_heads * layer.seen
        self._bytes[call.index] = layer.held_bytes
        return out

    def _per_group(self, call: Call) -> Iterator[Call]:
        """The call as every group sees it: its query heads, and what is stored for them."""
        layer: GroupedLayer = call.cache
        for part, heads in zip(layer.parts, layer.heads, strict=True):
            query = call.query
            if len(heads) < self.kv_heads:
                query = query.unflatten(1, (self.kv_heads, call.groups))[:, heads].flatten(1, 2)
            yield replace(call, cache=part, query=query, keys=part.keys, values=part.values)

    def _by_groups(self, call: Call, outputs: list[torch.Tensor]) -> torch.Tensor:
        """The groups' outputs, and what heads without a cache take over, in the order of the heads."""
        layer: GroupedLayer = call.cache
        if len(outputs) == 1 and not self.dropped[call.index]:
            return outputs[0]
        out = outputs[0].new_empty(*outputs[0].shape[:2], self.kv_heads, call.groups, outputs[0].shape[3])
        for heads, output in zip(layer.heads, outputs, strict=True):
            out[:, :, heads] = output.unflatten(2, (len(heads), call.groups))
        if layer.donors is not None:
            index = layer.donors[:, None, :, None, None].expand(-1, out.shape[1], -1, *out.shape[3:])
            out[:, :, self.dropped[call.index]] = out.gather(2, index)
        return out.flatten(2, 3)

    def _donors(self, call: Call) -> torch.Tensor:
        """Of every head without a cache, the stored one whose keys of the last tokens point most alike, int64
        [batch, dropped]."""
        keys = call.keys[:, :, -self.method.window :]
        if call.mask is not None:
            real = call.mask[:, 0, -1] if call.mask.dim() == 4 else call.mask
            keys = keys * real[:, None, -keys.shape[2] :, None]
        flat = torch.nn.functional.normalize(keys.flatten(2).float(), dim=-1)  # [batch, kv heads, window x head size]
        alike = flat[:, self.dropped[call.index]] @ flat.transpose(-1, -2)
        alike[..., self.dropped[call.index]] = -torch.inf
        return alike.argmax(-1)

    # ---- what leaves -----------------------------------------------------------------------------------------

    def _compress(self, slots: Slots, budget: int) -> None:
        """Keep the best slots of a group."""
        method, layer = self.method, slots.layer
        if layer.generating and method.phase == "prefill":
            layer.marks.clear()
            return
        self._remember(slots)
        if layer.stored <= budget:
            return
        mass = layer.marks[_ROWS].sum(-1)
        scores = pooled(slots, mass, method.window, method.kernel, method.pool)
        newest = slots.order >= slots.real.sum(-1, keepdim=True) - method.window
        scores = scores.masked_fill(newest, torch.inf).masked_fill(~slots.real, -torch.inf)
        best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :budget]
        layer.retain(best.sort(-1).values)

    def _remember(self, slots: Slots) -> None:
        """The new tokens' rows of probabilities join W. Those of padding may be among them as long as a row is shorter
        than the window, but nothing leaves before it is longer than its budget."""
        window, call = self.method.window, slots.call
        rows = slots.probabilities(slice(max(0, call.new - window), None)).mean(2).transpose(2, 3)
        before = slots.layer.marks.get(_ROWS)
        if before is None:
            before = rows.new_zeros(*rows.shape[:3], window)
        slots.layer.marks[_ROWS] = torch.cat([before, rows], dim=3)[..., -window:]


def _assigned(
    method: UnComp, plan: UnCompPlan | None, layers: int, kv_heads: int
) -> tuple[list[list[list[int]]], tuple[int, ...] | None]:
    """The heads of every group of every layer, and the groups' budgets, in the same order.

    Raises:
        ValueError: more groups than heads.
    """
    if method.budgets is None:
        return [[list(range(kv_heads))]] * layers, None
    budgets, count = tuple(method.budgets), len(method.budgets)
    left = kv_heads - method.drop_heads
    sizes = group_sizes(left, count)
    if plan is not None and method.groups != "random":
        ordered = plan.reversed() if method.groups == "reversed" else plan
        labels = ordered.head_group(count, drop=method.drop_heads)
    else:
        any_order = [-1] * method.drop_heads + [group for group, size in enumerate(sizes) for _ in range(size)]
        generator = torch.Generator().manual_seed(method.seed)
        labels = [[any_order[at] for at in torch.randperm(kv_heads, generator=generator)] for _ in range(layers)]
    if method.groups == "uniform":
        average = round(sum(size * budget for size, budget in zip(sizes, budgets, strict=True)) / left)
        return [[[head for head in range(kv_heads) if label[head] >= 0]] for label in labels], (average,)
    return [
        [[head for head in range(kv_heads) if label[head] == group] for group in range(count)] for label in labels
    ], budgets
