"""A decoder's step as one compiled graph, for `szilard.load(..., compile=True)`.

The prompt runs as ever; what comes after it, a token or a draft of a few, runs through `torch.compile`: on a CPU one
graph for any length, on a GPU a CUDA graph for each size of the cache's buffers, which grow by `ROOM` slots. The cache
stays what it is, so forks, rewinds and joined rows work as without.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from szilard.engines.growing_layer import GrowingLayer
from szilard.engines.model_parts import additive, unembed

MOST_NEW = 64  # new tokens per row; more are no step
MOST_GRAPHS = 48  # on a GPU, where every shape is a graph of its own


class CompiledStep:
    """What a decoding state calls in the model's place.

    Args:
        model: a decoder of transformers whose layers see every token.

    Attributes:
        steps: forwards that ran compiled.

    Raises:
        ValueError: the model cannot be compiled here, and why.
    """

    def __init__(self, model: Any) -> None:
        _check(model)
        self.model = model
        self.steps = 0
        self._on_gpu = model.device.type == "cuda"
        self._seen: set[tuple[int, ...]] = set()
        self._works = True
        options: dict[str, Any] = {
            "guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe,  # who changes the model runs without us
            "emulate_precision_casts": True,  # the same roundings as without
        }
        if self._on_gpu:
            options["triton.cudagraphs"] = True
        self._graph = torch.compile(
            self._forward, fullgraph=True, dynamic=None if not self._on_gpu else False, options=options
        )

    def __call__(self, inputs: dict[str, Any], past: int) -> CausalLMOutputWithPast | None:
        """The forward, or None where it is none of ours.

        Args:
            inputs: what the model's forward would get: input_ids or inputs_embeds [batch, new, ...], position_ids,
                attention_mask (None, [batch, past + new] or additive [batch, 1, new, past + new]), past_key_values.
            past: slots in the cache.
        """
        layers: list[Any] = inputs["past_key_values"].layers
        given = inputs.get("input_ids")
        given = inputs.get("inputs_embeds") if given is None else given
        assert given is not None
        batch, new = given.shape[:2]
        mask = inputs.get("attention_mask")
        if not self._works or new > MOST_NEW or isinstance(mask, dict) or inputs.get("position_ids") is None:
            return None
        if not all(type(layer) is GrowingLayer and layer.is_initialized for layer in layers):
            return None
        rooms = [layer.open(new) for layer in layers]
        room = rooms[0][0].shape[2]
        shape = (batch, new, room, given.dim()) if self._on_gpu else (min(batch, 2), min(new, 2), given.dim())
        if shape not in self._seen and len(self._seen) >= MOST_GRAPHS:
            return None
        keys, values = [keys for keys, _ in rooms], [values for _, values in rooms]
        index = torch.arange(past, past + new, device=given.device)
        arguments = given, inputs["position_ids"], self._mask(mask, batch, index, room), index, keys, values
        self._prepare(arguments, batch, new)
        if shape in self._seen:
            logits, hidden = self._graph(*arguments)
        else:
            try:
                with torch._dynamo.config.patch(recompile_limit=4 * MOST_GRAPHS):
                    logits, hidden = self._graph(*arguments)
            except Exception as error:
                self._works = False
                reason = " ".join(str(error).split())[:200]
                warnings.warn(
                    f"{type(self.model).__name__} could not be compiled and runs as it is: {reason}", stacklevel=4
                )
                return None
            self._seen.add(shape)
        if self._on_gpu:  # the next step writes into what this one gave
            logits, hidden = logits.clone(), hidden.clone()
        for layer in layers:
            layer.took(new)
        self.steps += 1
        return CausalLMOutputWithPast(logits=logits, past_key_values=inputs["past_key_values"], hidden_states=(hidden,))

    def _forward(
        self,
        given: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        index: torch.Tensor,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cache = Cache(layers=[_Room(*pair, index) for pair in zip(keys, values, strict=True)])
        name = "inputs_embeds" if given.is_floating_point() else "input_ids"
        hidden = self.model.base_model(
            **{name: given}, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return unembed(self.model, hidden), hidden

    def _mask(self, mask: torch.Tensor | None, batch: int, index: torch.Tensor, room: int) -> torch.Tensor:
        """Additive over the whole room, [batch, 1, new, room]."""
        dtype = self.model.dtype
        if mask is not None and mask.dim() == 4:
            if mask.dtype == torch.bool:
                mask = additive(mask, dtype)
            return torch.nn.functional.pad(mask, (0, room - mask.shape[-1]), value=torch.finfo(dtype).min)
        seen = torch.arange(room, device=index.device) <= index[:, None]  # [new, room]
        seen = seen.expand(batch, 1, *seen.shape)
        if mask is not None:
            padded = torch.nn.functional.pad(mask, (0, room - mask.shape[-1]), value=1)
            seen = seen & (padded != 0)[:, None, None]
        return additive(seen, dtype)

    def _prepare(self, arguments: tuple[Any, ...], batch: int, new: int) -> None:
        """Tell the compiler what changes from step to step."""
        given, positions, mask, index, keys, values = arguments
        for buffer in (*keys, *values):
            if hasattr(buffer, "_szilard_prepared"):
                break  # all of them
            buffer._szilard_prepared = True
            if self._on_gpu:
                torch._dynamo.mark_static_address(buffer)
            else:
                torch._dynamo.maybe_mark_dynamic(buffer, 2)
                if batch > 1:
                    torch._dynamo.maybe_mark_dynamic(buffer, 0)
        if self._on_gpu:
            return
        torch._dynamo.maybe_mark_dynamic(mask, 3)
        if batch > 1:
            for tensor, axis in ((given, 0), (positions, positions.dim() - 2), (mask, 0)):
                torch._dynamo.maybe_mark_dynamic(tensor, axis)
        if new > 1:
            for tensor, axis in ((given, 1), (positions, positions.dim() - 1), (mask, 2), (index, 0)):
                torch._dynamo.maybe_mark_dynamic(tensor, axis)


class _Room(CacheLayerMixin):
    """A cache layer inside the graph: buffers with room, of which `index` are the new slots."""

    is_sliding = False
    is_compileable = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, index: torch.Tensor) -> None:
        self.keys, self.values, self.index = keys, values, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys.index_copy_(2, self.index, key_states)
        self.values.index_copy_(2, self.index, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0  # positions and masks are given

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        assert self.keys is not None
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]


def _check(model: Any) -> None:
    """Refuse what cannot be compiled.

    Raises:
        ValueError: a cache that drops tokens, an output layer with more to it than a product, or no compiler.
    """
    name = type(model).__name__
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        raise ValueError(
            f"compile=True needs layers that see every token, and {name} has sliding-window or recurrent ones: "
            "load it without."
        )
    with torch.no_grad():
        ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        whole = model(input_ids=ids, use_cache=False)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        if not torch.allclose(unembed(model, hidden).float(), whole.logits.float(), atol=1e-3, rtol=1e-3):
            raise ValueError(f"compile=True does not know the output layer of {name}: load it without.")
    if model.device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise ValueError(
                "compile=True needs a C++ compiler (g++ or clang++) on a CPU: install one, or load without."
            ) from None
