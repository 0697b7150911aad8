"""Pseudo hidden states inside a model's forward: slots that enter at a middle layer and leave before the output layer.

Works on stock decoders through PyTorch's module hooks: before layer t + 1 the slots W_i h^t are appended to the hidden
states, every layer from there on sees them under a longer mask and further positions, after each layer their keys and
values are taken out of the cache again, and before the final norm they are split off. Real slots never see a pseudo
slot, so what the model computes for them is untouched.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

_LAYERS = ("layers", "h", "blocks")
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
Transfer = Callable[[torch.Tensor, int], torch.Tensor]


class PseudoSlots:
    """The hooks on one model.

    Args:
        model: a causal language model of transformers.
        layers: t_i of every step, 1 to the number of layers: the slots of step i are made of the output of layer t_i.
        transfer: (hidden states [..., d], step from 0) -> pseudo states [..., d].
        attention: whether the slot of step i sees those of the steps before it.

    Attributes:
        final: of the last forward, the pseudo states after the final norm, [batch, sources, steps, d].

    Raises:
        ValueError: layers beyond the model's, or a model whose decoder cannot be entered between two layers.
    """

    def __init__(self, model: Any, layers: list[int], transfer: Transfer, *, attention: bool = True) -> None:
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
        name = type(model).__name__
        found = [getattr(decoder, entry) for entry in _LAYERS if hasattr(decoder, entry)]
        norms = [getattr(decoder, entry) for entry in _NORMS if hasattr(decoder, entry)]
        text = model.config.get_text_config()
        if not found or not norms or getattr(text, "hidden_size_per_layer_input", None):
            raise ValueError(f"the layers of {name} cannot be entered in the middle, which hidden transfer needs.")
        if getattr(model.config, "vision_config", None) is not None:
            raise ValueError(
                f"{name} reads pictures, whose positions hidden transfer does not extend: take a text model."
            )
        self.decoder, self.layers, self.norm = decoder, found[0], norms[0]
        count = len(self.layers)
        if any(not 1 <= layer <= count for layer in layers):
            raise ValueError(f"transfer layers must lie between 1 and {count}, the layers of {name}, not {layers}.")
        self.rotary: Any = getattr(decoder, "rotary_emb", None)
        types = getattr(text, "layer_types", None)
        by_type = self.rotary is not None and "layer_type" in inspect.signature(self.rotary.forward).parameters
        self.rotary_types = types if by_type else None
        window = getattr(text, "sliding_window", None)
        sliding = types or ["sliding_attention" if window else "full_attention"] * count
        self.windows = [window if kind == "sliding_attention" else None for kind in sliding]
        self.enters, self.transfer, self.attention = list(layers), transfer, attention
        self.final: torch.Tensor | None = None

    @property
    def slides(self) -> bool:
        """Whether some layer attends to a window only."""
        return any(window is not None for window in self.windows)

    @contextlib.contextmanager
    def inserted(
        self, sources: torch.Tensor | None = None, *, inject: torch.Tensor | None = None
    ) -> Iterator[PseudoSlots]:
        """While this is open, a forward of the model also computes pseudo states.

        Args:
            sources: which of the fed tokens have pseudo slots, int64 [batch, sources], negative ones counted from
                the end; None: every one.
            inject: pseudo states to enter in the place of the transferred ones, [batch, sources, steps, d].
        """
        forward = _Forward(self, sources, inject)
        first = min(self.enters)
        handles = []
        try:
            for index, layer in enumerate(self.layers):
                if index >= first:
                    handles.append(layer.register_forward_pre_hook(forward.before(index), with_kwargs=True))
                    handles.append(layer.register_forward_hook(forward.after(index), with_kwargs=True))
            handles.append(self.norm.register_forward_pre_hook(forward.leave))
            yield self
        finally:
            for handle in handles:
                handle.remove()


class _Forward:
    """What the hooks share during the forwards of one block."""

    def __init__(self, slots: PseudoSlots, sources: torch.Tensor | None, inject: torch.Tensor | None) -> None:
        self.slots, self.given, self.inject = slots, sources, inject
        self.order: list[int] = []  # steps whose slots are there, as they entered
        self.real = 0  # fed tokens

    def before(self, index: int) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            hidden, *rest = arguments
            if index == min(self.slots.enters):
                self.order, self.real = [], hidden.shape[1]
            hidden = self._enter(hidden, index)
            mask = options.get("attention_mask", rest[1] if len(rest) > 1 else None)
            past = options.get("past_key_values", rest[0] if rest else None)
            positions = options.get("position_ids")
            cached = 0
            if past is not None and len(past.layers) > index and past.layers[index].is_initialized:
                cached = past.layers[index].keys.shape[-2]
            if positions is None:
                positions = torch.arange(self.real, device=hidden.device)[None] + cached
            positions = positions[..., : self.real].expand(hidden.shape[0], -1)
            sources = self._sources(hidden)
            steps = torch.tensor([step + 1 for step in self.order], device=hidden.device)
            further = positions.gather(1, sources)[:, None] + steps[:, None]  # [batch, steps, sources]
            longer = torch.cat([positions, further.flatten(1)], dim=1)
            wider = self._mask(hidden, mask, cached, positions, sources, index)
            options = dict(options)
            if "attention_mask" in options:
                options["attention_mask"] = wider
            elif len(rest) > 1:
                rest[1] = wider
            if "position_ids" in options:
                options["position_ids"] = longer
            if "position_embeddings" in options:
                kind = (self.slots.rotary_types[index],) if self.slots.rotary_types else ()
                options["position_embeddings"] = self.slots.rotary(hidden, longer, *kind)
            return (hidden, *rest), options

        return hook

    def after(self, index: int) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            past = options.get("past_key_values", arguments[1] if len(arguments) > 1 else None)
            if past is None:
                return
            layer, extra = past.layers[index], self._sources(arguments[0]).shape[1] * len(self.order)
            layer.keys, layer.values = layer.keys[..., :-extra, :], layer.values[..., :-extra, :]
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length -= extra

        return hook

    def leave(self, module: Any, arguments: tuple[Any, ...]) -> Any:
        hidden = arguments[0]
        if not self.order:
            self.real = hidden.shape[1]
        hidden = self._enter(hidden, len(self.slots.layers))
        pseudo = hidden[:, self.real :].unflatten(1, (len(self.order), -1))  # [batch, steps, sources, d]
        places = [self.order.index(step) for step in range(len(self.order))]
        self.slots.final = module.forward(pseudo[:, places].transpose(1, 2))
        self.order = []
        return (hidden[:, : self.real], *arguments[1:])

    def _sources(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.given is None:
            return torch.arange(self.real, device=hidden.device).expand(hidden.shape[0], -1)
        return self.given.to(hidden.device).remainder(self.real)

    def _enter(self, hidden: torch.Tensor, after: int) -> torch.Tensor:
        """Append the slots of the steps that leave from this many layers."""
        sources = self._sources(hidden)
        real = hidden[:, : self.real].gather(1, sources[..., None].expand(-1, -1, hidden.shape[2]))
        parts = [hidden]
        for step, layer in enumerate(self.slots.enters):
            if layer == after:
                self.order.append(step)
                made = self.slots.transfer(real, step) if self.inject is None else self.inject[:, :, step]
                parts.append(made.to(hidden.dtype))
        return torch.cat(parts, dim=1)

    def _mask(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        cached: int,
        positions: torch.Tensor,
        sources: torch.Tensor,
        index: int,
    ) -> torch.Tensor:
        """Additive [batch, 1, real + pseudo, keys + pseudo]: pseudo slots see what their source sees, the slots of
        earlier steps of the same source, and themselves."""
        batch, real, device = hidden.shape[0], self.real, hidden.device
        window = self.slots.windows[index]
        if mask is None:
            key = torch.arange(cached + real, device=device)
            query = cached + torch.arange(real, device=device)[:, None]
            visible = key <= query
            if window is not None:
                visible = visible & (query - key < window)
            visible = visible.expand(batch, -1, -1)
        else:
            visible = (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2)[:, 0]
            visible = visible.expand(batch, -1, -1)
        keys, count, steps = visible.shape[2], sources.shape[1], len(self.order)
        row = visible.gather(1, sources[..., None].expand(-1, -1, keys))  # [batch, sources, keys]
        text = row[:, None].expand(-1, steps, -1, -1)
        if window is not None:  # a position further ahead sees as much less behind
            before = keys - real
            past = positions[:, :1] - before + torch.arange(before, device=device)
            key = torch.cat([past, positions], dim=1)[:, None, None]
            ahead = torch.tensor([step + 1 for step in self.order], device=device)
            query = positions.gather(1, sources)[:, None] + ahead[:, None]  # [batch, steps, sources]
            text = text & (query[..., None] - key < window)
        same = torch.eye(count, dtype=torch.bool, device=device)
        order = torch.tensor(self.order, device=device)
        seen = order <= order[:, None] if self.slots.attention else order == order[:, None]  # [steps, steps]
        among = (seen[:, None, :, None] & same[None, :, None]).reshape(steps * count, steps * count)
        above = torch.cat([visible, visible.new_zeros(batch, real, steps * count)], dim=2)
        below = torch.cat([text.flatten(1, 2), among.expand(batch, -1, -1)], dim=2)
        allowed = torch.cat([above, below], dim=1)[:, None]
        out = torch.zeros(allowed.shape, dtype=hidden.dtype, device=device)
        return out.masked_fill_(~allowed, torch.finfo(hidden.dtype).min)
