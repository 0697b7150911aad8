"""Sparse autoencoders of activations, with one interface: x [N, d] -> z [N, m] -> x^ [N, d].

    c = s x - b_dec,   a = W_enc c + b_enc,   z = activation(a),   s x^ = D z + b_dec,   ||D_i|| = 1

s scales the activations to a mean norm of sqrt(d); b_dec begins at their mean. `encode` and `decode` take and give x as
it is. Losses are in scaled units: the mean over rows of ||s x - s x^||_2^2, and a penalty or a constraint on z:

    SparseAutoencoder   lambda ||z||_1
    TopKSae             the k largest of each row (Gao et al. 2024, arXiv:2406.04093), with its loss for dead features
    BatchTopKSae        the k N largest of a batch (Bussmann et al. 2024, arXiv:2412.06410); a threshold afterwards
    JumpReluSae         lambda ||z||_0, thresholds learned by straight-through kernels (Rajamanoharan et al. 2024,
                        arXiv:2407.14435)
    PAnnealSae          lambda_t ||z||_p^p, p from 1 towards 0 (Karvonen et al. 2024, arXiv:2408.00113)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from szilard.options import check_number
from szilard.representation.concept_sae.coder import SparseCoder, kernel_step, kernel_values

_RECENT = 10  # steps whose penalties a p-update is made from


class SparseAutoencoder(SparseCoder):
    """ReLU and L1.

    Args:
        input_dim: d.
        dictionary_size: m.
        sparsity_weight: lambda.
    """

    kind = "l1"

    def __init__(self, input_dim: int, dictionary_size: int, *, sparsity_weight: float = 1.0) -> None:
        super().__init__(input_dim, dictionary_size)
        check_number("sparsity_weight", sparsity_weight, low=0, high=1e12)
        self.sparsity_weight = sparsity_weight

    def activate(self, before: Tensor) -> Tensor:
        return before.relu()

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        target = self.scaled(x)
        z = self.activate(self.before(target))
        found = self.reconstruction(target, z)
        found["penalty"] = z.float().sum(-1).mean()
        return {"loss": found["error"] + self.sparsity_scale * self.sparsity_weight * found["penalty"], **found}


class TopKSae(SparseCoder):
    """The k largest of each row.

    Args:
        input_dim: d.
        dictionary_size: m.
        k: active features of a row.
        auxiliary_weight: of the error that is left, as dead features rebuild it; 0: they stay dead.
        auxiliary_k: dead features that rebuild it.
        dead_after: rows without a sign after which a feature is dead.
    """

    kind = "top-k"

    def __init__(
        self,
        input_dim: int,
        dictionary_size: int,
        *,
        k: int = 32,
        auxiliary_weight: float = 1 / 32,
        auxiliary_k: int = 256,
        dead_after: int = 500_000,
    ) -> None:
        super().__init__(input_dim, dictionary_size)
        check_number("k", k, low=1, high=dictionary_size, integer=True)
        check_number("auxiliary_weight", auxiliary_weight, low=0)
        check_number("auxiliary_k", auxiliary_k, low=1, integer=True)
        check_number("dead_after", dead_after, low=1, integer=True)
        self.k, self.auxiliary_weight, self.auxiliary_k = k, auxiliary_weight, auxiliary_k
        self.dead_after = dead_after
        self._quiet: tuple[Tensor, int] | None = None  # `idle`, as it was when `_left` was known
        self._left = 0  # rows before which no feature can be dead

    def _any_dead(self) -> bool:
        """Whether a feature is dead; a GPU is asked only where one can be."""
        seen = self._quiet
        if seen is None or seen[0] is not self.idle or seen[1] != self.idle._version or self._left <= 0:
            self._left = self.dead_after - int(self.idle.max())
            self._quiet = (self.idle, self.idle._version)
        return self._left <= 0

    def reconstruction(self, target: Tensor, z: Tensor, sparse: Tensor | None = None) -> dict[str, Tensor]:
        seen = self._quiet
        known = seen is not None and seen[0] is self.idle and seen[1] == self.idle._version
        found = super().reconstruction(target, z, sparse)
        if known and self.training:
            self._left -= len(z)
            self._quiet = (self.idle, self.idle._version)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_quiet": None}  # a copy has counts of its own

    def activate(self, before: Tensor) -> Tensor:
        values, places = before.relu().topk(self.k, dim=-1)
        return torch.zeros_like(before).scatter(-1, places, values)

    def chosen(self, before: Tensor) -> Tensor:
        """Codes of a batch in training."""
        return self.activate(before)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        target = self.scaled(x)
        before = self.before(target)
        z = self.chosen(before)
        found = self.reconstruction(target, z)
        loss = found["error"]
        if self.auxiliary_weight and self._any_dead():
            dead = self.idle >= self.dead_after
            left = (target - self.rebuild(z)).detach().float()
            values, places = before.masked_fill(~dead, 0.0).relu().topk(min(self.auxiliary_k, int(dead.sum())), dim=-1)
            helpers = torch.zeros_like(before).scatter(-1, places, values)
            found["auxiliary"] = (left - helpers @ self.dictionary.T).square().sum(-1).mean()
            loss = loss + self.auxiliary_weight * found["auxiliary"]
        return {"loss": loss, **found}


class BatchTopKSae(TopKSae):
    """The k N largest of a batch in training; afterwards what is above the mean of their smallest ones.

    Args:
        as of `TopKSae`; k: active features of a row, on average.
    """

    kind = "batch-top-k"
    threshold: Tensor

    def __init__(
        self,
        input_dim: int,
        dictionary_size: int,
        *,
        k: int = 32,
        auxiliary_weight: float = 1 / 32,
        auxiliary_k: int = 256,
        dead_after: int = 500_000,
    ) -> None:
        super().__init__(
            input_dim,
            dictionary_size,
            k=k,
            auxiliary_weight=auxiliary_weight,
            auxiliary_k=auxiliary_k,
            dead_after=dead_after,
        )
        self.register_buffer("threshold", torch.tensor(-1.0))  # below 0: none yet

    def activate(self, before: Tensor) -> Tensor:
        found = before.relu()
        return found * (found > self.threshold.clamp(min=0.0))

    def chosen(self, before: Tensor) -> Tensor:
        flat = before.relu().flatten()
        values, places = flat.topk(self.k * len(before))
        if self.training:
            with torch.no_grad():
                least = torch.where(values > 0, values, torch.inf).amin().float()
                moved = torch.where(self.threshold < 0, least, 0.99 * self.threshold + 0.01 * least)
                self.threshold.copy_(torch.where(torch.isfinite(least), moved, self.threshold))
        return torch.zeros_like(flat).scatter(0, places, values).view_as(before)


class JumpReluSae(SparseCoder):
    """A threshold per feature, learned; the number of active features is what costs.

    Args:
        input_dim: d.
        dictionary_size: m.
        sparsity_weight: lambda, of the active features of a row.
        threshold: of every feature in the beginning, in scaled units.
        bandwidth: of the kernel through which thresholds learn.
    """

    kind = "jump-relu"

    def __init__(
        self,
        input_dim: int,
        dictionary_size: int,
        *,
        sparsity_weight: float = 0.5,
        threshold: float = 0.05,
        bandwidth: float = 0.05,
    ) -> None:
        super().__init__(input_dim, dictionary_size)
        check_number("sparsity_weight", sparsity_weight, low=0, high=1e12)
        check_number("threshold", threshold, low=1e-6)
        check_number("bandwidth", bandwidth, low=1e-6)
        self.sparsity_weight, self.bandwidth = sparsity_weight, bandwidth
        self.log_threshold = torch.nn.Parameter(torch.full((dictionary_size,), threshold).log())

    def activate(self, before: Tensor) -> Tensor:
        return kernel_values(before.float(), self.log_threshold.exp(), self.bandwidth)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        target = self.scaled(x)
        before = self.before(target)
        found = self.reconstruction(target, self.activate(before))
        steps = kernel_step(before.float(), self.log_threshold.exp(), self.bandwidth)
        found["penalty"] = steps.sum(-1).mean()
        return {"loss": found["error"] + self.sparsity_scale * self.sparsity_weight * found["penalty"], **found}


class PAnnealSae(SparseCoder):
    """ReLU and a p-norm that nears the count of active features.

    p is 1 until `anneal_start` of the training, then falls in equal updates towards `final_p`, which it does not reach.
    At every update lambda <- lambda mean(penalty at the old p) / mean(penalty at the new p), over the last ten steps,
    so that the penalty does not jump.

    # Published library: lambda 0.1; here: 1, because activations are scaled to a norm of sqrt(d).

    # Paper: ||z||_p^p; here: sum_i (z_i + e)^p - e^p, because the slope of z^p is infinite at 0. It is z at p = 1.

    Args:
        input_dim: d.
        dictionary_size: m.
        sparsity_weight: lambda at p = 1.
        final_p: where p goes.
        updates: of p; 0: it stays 1, which is L1.
        epsilon: e, in scaled units.
    """

    kind = "p-annealing"
    p: Tensor
    updated: Tensor
    weight: Tensor
    recent: Tensor

    def __init__(
        self,
        input_dim: int,
        dictionary_size: int,
        *,
        sparsity_weight: float = 1.0,
        final_p: float = 0.0,
        updates: int = 10,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__(input_dim, dictionary_size)
        check_number("sparsity_weight", sparsity_weight, low=0, high=1e12)
        check_number("final_p", final_p, low=0, high=1)
        check_number("updates", updates, low=0, integer=True)
        check_number("epsilon", epsilon, low=1e-12)
        self.final_p, self.updates, self.epsilon = final_p, updates, epsilon
        self.register_buffer("p", torch.tensor(1.0))
        self.register_buffer("updated", torch.tensor(0))
        self.register_buffer("weight", torch.tensor(float(sparsity_weight)))
        self.register_buffer("recent", torch.zeros(_RECENT, 2))  # penalties at p and at the next
        self._known: dict[str, tuple[Tensor, int, float]] = {}

    def _number(self, name: str) -> float:
        """A buffer's number; a GPU is asked for it only after the buffer has changed."""
        buffer = getattr(self, name)
        known = self._known.get(name)
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            known = self._known[name] = (buffer, buffer._version, buffer.item())
        return known[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}  # a copy has buffers of its own

    def activate(self, before: Tensor) -> Tensor:
        return before.relu()

    def next_p(self) -> float:
        """p after the next update. (inferred) Of updates + 1 equal parts of the way the last is not gone."""
        return 1.0 + (self.final_p - 1.0) * (self._number("updated") + 1) / (self.updates + 1)

    def penalty(self, z: Tensor, p: float) -> Tensor:
        """Mean over rows [N, m] of sum_i (z_i + e)^p - e^p."""
        z = z.float()
        return (z if p == 1.0 else (z + self.epsilon).pow(p) - self.epsilon**p).sum(-1).mean()

    def sparsity(self, z: Tensor) -> Tensor:
        """The penalty at the present p; in training it is noted for the next update."""
        found = self.penalty(z, self._number("p"))
        if self.training and self._number("updated") < self.updates:
            with torch.no_grad():
                pair = torch.stack([found.detach(), self.penalty(z, self.next_p())])
                self.recent.copy_(torch.cat([self.recent[1:], pair[None].to(self.recent)]))
        return found

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        target = self.scaled(x)
        z = self.activate(self.before(target))
        found = self.reconstruction(target, z)
        found["penalty"] = self.sparsity(z)
        return {"loss": found["error"] + self._weighted(found["penalty"]), **found, "p": self.p.float()}

    def _weighted(self, penalty: Tensor) -> Tensor:
        return self.sparsity_scale * self._number("weight") * penalty

    def begin_step(self, share: float, warmup: float, anneal_start: float) -> None:
        super().begin_step(share, warmup, anneal_start)
        if not self.updates or share < anneal_start:
            return
        due = min(self.updates, 1 + int((share - anneal_start) / max(1e-9, 1 - anneal_start) * self.updates))
        if due > self._number("updated") and bool(
            self.recent.any()
        ):  # before a step there is nothing to adapt lambda by
            self.update_p()

    @torch.no_grad()
    def update_p(self) -> None:
        """Go to the next p, and change lambda so that lambda times the penalty stays."""
        old, new = self.recent.sum(0).tolist()
        if old > 0 and new > 0:
            self.weight.mul_(old / new)
        self.p.fill_(self.next_p())
        self.updated.add_(1)
        self.recent.zero_()
