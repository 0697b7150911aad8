"""Expected attention: what queries to come will attend to, from the statistics of those that were there.

Devoto et al. 2025, "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution",
arXiv 2510.00636. With mu, Sigma the mean and covariance of the queries before rotation, both turned by R, the average
rotation of the next `horizon` positions:

    z_j = exp( mu k_j / sqrt(d) + k_j^T Sigma k_j / (2 d) );   score_j = z_j / sum_i z_i, mean over the group, x ||v_j||

Queries come rotated; they are turned back with the layer's own cosines and sines.
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.attention.eviction import Eviction, EvictionSession, Slots
from szilard.options import check_number


@dataclass(frozen=True)
class ExpectedAttention(Eviction):
    """Attention of queries to come.

    Attributes:
        horizon: positions ahead over which the rotation is averaged.
        skip: first tokens whose queries are left out of the statistics.
        epsilon: added to the attention before it is weighted by the values' norms.
    """

    slug: ClassVar[str] = "expected-attention"
    paper: ClassVar[str] = "Devoto et al. 2025, arXiv 2510.00636"
    phases: ClassVar[tuple[str, ...]] = ("prefill",)

    horizon: int = 512
    skip: int = 4
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("horizon", self.horizon, low=1, integer=True)
        check_number("skip", self.skip, low=0, integer=True)
        check_number("epsilon", self.epsilon, low=0)

    def session(self, model: Any) -> _Session:
        return _Session(self, model)

    def score(self, slots: Slots) -> torch.Tensor:
        session = slots.session
        assert isinstance(session, _Session)
        call = slots.call
        query = unrotated(call.query.float(), *session.rotation)  # [batch, heads, new, size]
        real = slots.real[:, :1, -call.new :]
        own = real.sum(-1, keepdim=True)  # of these tokens, [batch, 1, 1]
        early = self.skip - (slots.came[:, None, None] - own)  # first tokens of the text that are among them
        skip = torch.minimum(early.clamp(min=0), own - 1)  # a short row keeps its last query
        used = real & (real.cumsum(-1) > skip)
        weight = used[..., None] / used.sum(-1)[..., None, None].clamp(min=1)
        mean = (query * weight).sum(2)  # [batch, heads, size]
        off = (query - mean[:, :, None]) * weight.sqrt()
        covariance = off.transpose(-1, -2) @ off  # [batch, heads, size, size]
        turn = session.average_rotation(slots.came, self.horizon, query.shape[3])  # [batch, size, size]
        mean = (turn[:, None] @ mean[..., None])[..., 0]
        covariance = turn[:, None] @ covariance @ turn[:, None].transpose(-1, -2)
        keys = slots.keys.float().repeat_interleave(call.groups, dim=1)  # [batch, heads, slots, size]
        exponent = (keys @ mean[..., None])[..., 0] * call.scaling
        exponent += 0.5 * call.scaling**2 * ((keys @ covariance) * keys).sum(-1)
        shown = slots.real.repeat_interleave(call.groups, dim=1)
        share = exponent.masked_fill(~shown, -torch.inf).softmax(-1) + self.epsilon
        share = share.unflatten(1, (-1, call.groups)).mean(2)  # [batch, kv heads, slots]
        return share * slots.values.float().norm(dim=-1)


class _Session(EvictionSession):
    """Also knows how the layer's queries were rotated."""

    def __init__(self, method: Any, model: Any) -> None:
        super().__init__(method, model)
        self.rotary: Any = getattr(self.decoder, "rotary_emb", None)
        if self.rotary is None:
            raise ValueError(f"'{method.slug}' needs rotary positions, which {type(model).__name__} does not have.")
        self.rotation: tuple[torch.Tensor, torch.Tensor]

    def enter(self, stack: contextlib.ExitStack) -> None:
        for attention in self.attentions:
            handle = attention.register_forward_pre_hook(self._note, with_kwargs=True)
            stack.callback(handle.remove)

    def _note(self, module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        found = options.get("position_embeddings")
        self.rotation = found if found is not None else arguments[1]

    def average_rotation(self, lengths: torch.Tensor, horizon: int, size: int) -> torch.Tensor:
        """The mean rotation of the `horizon` positions after each row's text, float32 [batch, size, size]; channels
        that the model does not rotate stay as they are."""
        positions = lengths[:, None] + torch.arange(horizon, device=lengths.device)
        kind: dict[str, Any] = {}
        cos, sin = self.rotation
        probe = torch.zeros(1, dtype=torch.float32, device=lengths.device)
        types = getattr(self.decoder.config, "layer_types", None)
        if "layer_type" in inspect.signature(self.rotary.forward).parameters:
            kind["layer_type"] = (types or ["full_attention"])[self.full.index(True) if types else 0]
        cos, sin = (part.float().mean(1) for part in self.rotary(probe, positions, **kind))  # [batch, turned]
        turned = cos.shape[-1]
        half = torch.zeros(turned, turned, device=cos.device)
        index = torch.arange(turned // 2, device=cos.device)
        half[index, index + turned // 2], half[index + turned // 2, index] = -1.0, 1.0
        whole = torch.eye(size, device=cos.device).repeat(len(lengths), 1, 1)
        whole[:, :turned, :turned] = torch.diag_embed(cos) + sin[..., None] * half
        return whole


def unrotated(query: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries before their rotation: [batch, heads, new, size], with cosines and sines [batch, new, turned]: the first
    `turned` channels were rotated."""
    cos, sin = cos[:, None].float(), sin[:, None].float()
    rotated, rest = query.tensor_split([cos.shape[-1]], dim=-1)
    first, second = rotated.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return torch.cat([(rotated * cos - turned * sin) / (cos.square() + sin.square()), rest], dim=-1)
