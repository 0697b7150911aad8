"""An open attention method: hooks on a stock model, and the attention function that its layers call meanwhile.

Everything goes through transformers' own interfaces: a registered attention function and mask function under one name,
cache layers in the place of the model's, and module hooks. Nothing of a model's class is touched, and `opened` gives
the model back as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from szilard.engines.growing_layer import GrowingLayer
from szilard.sessions.call import Call

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "szilard"  # of our attention function in transformers' registry
_LAYERS = ("layers", "h", "blocks")
_ATTENTIONS = ("self_attn", "attn", "attention")


@dataclass
class Reads:
    """What was read and kept, in keys (a key and its value are read together), added over layers, rows and kv heads.

    Attributes:
        read: keys read while generating (single tokens and draft trees).
        full: keys that full attention would have read there.
        held: of the last call, keys stored.
        seen: of the last call, keys that a full cache would store.
        steps: forwards after the prompt.
        counts: further counts of a method, by name.
    """

    read: float = 0.0
    full: float = 0.0
    steps: int = 0
    held: dict[int, float] = field(default_factory=dict)  # by layer
    seen: dict[int, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a further count."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def summary(self) -> dict[str, float]:
        """The shares, and the further counts."""
        found: dict[str, float] = {"kv_read": self.read, "kv_read_full": self.full}
        found["kv_read_share"] = self.read / self.full if self.full else 1.0
        held, seen = sum(self.held.values()), sum(self.seen.values())
        found["kv_held_share"] = held / seen if seen else 1.0
        return found | self.counts


class OpenMethod:
    """A method that is open on a model: its layers found, its forwards watched. Subclasses say what is done there.

    Attributes:
        reads: what was read and kept.
        cache: of the forward that runs, or ran last.

    Args:
        method: for messages.
        model: a transformers model.

    Raises:
        ValueError: the model cannot be entered.
    """

    only_watches: ClassVar[bool] = False  # whether layers that slide, or share a cache, are as good as others

    def __init__(self, method: Any, model: Any) -> None:
        name = type(model).__name__
        if not hasattr(model, "config") and hasattr(getattr(model, "model", None), "config"):
            raise TypeError(f"'{method.slug}' opens on the model in this {name}: give it `.model`.")
        if not hasattr(model, "config"):
            raise TypeError(f"'{method.slug}' needs a model of transformers, not {name}.")
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(f"{name} is an encoder-decoder model; '{method.slug}' needs a decoder-only model.")
        if not hasattr(model, "get_decoder"):
            raise ValueError(f"'{method.slug}' needs a model of transformers, not {name}.")
        self.method, self.model = method, model
        self.decoder = model.get_decoder()
        found = [getattr(self.decoder, entry) for entry in _LAYERS if hasattr(self.decoder, entry)]
        self.layers: list[Any] = list(found[0]) if found else []
        self.attentions = [_attention_of(layer) for layer in self.layers]
        if not self.layers or None in self.attentions:
            raise ValueError(f"'{method.slug}' finds no attention layers in {name}.")
        text = self.decoder.config
        if getattr(text, "num_kv_shared_layers", None) and not self.only_watches:
            raise ValueError(
                f"{text.num_kv_shared_layers} layers of {name} read the caches of others, which '{method.slug}' cannot "
                "take apart: choose another model."
            )
        self.kv_heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
        types = getattr(text, "layer_types", None)
        window = getattr(text, "sliding_window", None)
        kinds = types or ["sliding_attention" if window else "full_attention"] * len(self.layers)
        self.full = [kind == "full_attention" for kind in kinds]  # layers with all tokens before them
        self.cache: Any = None
        self.reads = Reads()
        self._filled = 0  # columns before the forward that runs
        self._shared: dict[str, Any] = {}  # of that forward

    def begin(self) -> None:
        """Called before every forward."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Self]:
        """The method acts on the model while this is open."""
        if any(attention in _SESSIONS for attention in self.attentions):
            raise ValueError(f"another attention method is open on this {type(self.model).__name__}: close it first.")
        with contextlib.ExitStack() as stack:
            self.prepare(stack)
            handle = self.decoder.register_forward_pre_hook(self._before, with_kwargs=True)
            stack.callback(handle.remove)
            for attention in self.attentions:
                _SESSIONS[attention] = self
                stack.callback(_SESSIONS.pop, attention, None)
            try:
                self.enter(stack)
                yield self
            finally:
                self.cache, self._shared = None, {}

    def prepare(self, stack: contextlib.ExitStack) -> None:
        """What a kind of method does to the model before it opens; it refuses models that it does not fit.

        Args:
            stack: what is pushed to it is undone when the method closes.
        """

    def enter(self, stack: contextlib.ExitStack) -> None:
        """Further hooks; what is pushed to the stack is undone when the method closes."""

    def summary(self) -> dict[str, float]:
        """What was read and kept so far, as shares and counts."""
        return self.reads.summary()

    def _before(self, decoder: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        past = options.get("past_key_values")
        uses = options.get("use_cache")
        if past is None and (uses if uses is not None else decoder.config.use_cache) and not decoder.training:
            past = options["past_key_values"] = DynamicCache(config=decoder.config)
        self.cache, self._shared = past, {}
        if past is not None:
            while past.layer_class_to_replicate is not None and len(past.layers) < len(self.layers):
                past.layers.append(past.layer_class_to_replicate())
            self._take_over(past)
            first = self.full.index(True) if True in self.full else 0
            self._filled = int(past.layers[first].get_seq_length())
            if self._filled:
                self.reads.steps += 1
        self.begin()
        return arguments, options

    def _take_over(self, past: Any) -> None:
        """Cache layers of ours in the place of the cache's own, with what these hold."""

    def _foreign(self, layer: Any) -> ValueError:
        """What is said of a cache layer that ours cannot take the place of."""
        return ValueError(
            f"'{self.method.slug}' works on transformers' dynamic cache, not on a cache of {type(layer).__name__}: "
            + (
                "begin a new cache."
                if type(layer).__module__.startswith("szilard.")
                else "leave cache_implementation out."
            )
        )


class Session(OpenMethod):
    """A method that replaces the attention function. Subclasses say what a layer stores and how it attends."""

    def __init__(self, method: Any, model: Any) -> None:
        super().__init__(method, model)
        if True not in self.full and not self.only_watches:
            raise ValueError(
                f"every layer of {type(model).__name__} slides over a window, which leaves '{method.slug}' nothing to "
                "do."
            )

    # ---- what a method implements ----------------------------------------------------------------------------

    def cache_layer(self, index: int) -> DynamicLayer:
        """The empty cache layer that takes the place of the model's."""
        raise NotImplementedError

    def attend(self, call: Call) -> torch.Tensor:
        """The attention's output, [batch, new, heads, head size]."""
        raise NotImplementedError

    # ---- the door --------------------------------------------------------------------------------------------

    def prepare(self, stack: contextlib.ExitStack) -> None:
        """The model's full-attention layers attend with `attend`."""
        decoder, name = self.decoder, type(self.model).__name__
        if not decoder._can_set_attn_implementation():
            raise ValueError(f"{name} has no attention interface, which '{self.method.slug}' needs.")
        before = decoder.config._attn_implementation
        if before not in ("sdpa", "eager"):
            raise ValueError(f"'{self.method.slug}' replaces sdpa or eager attention, not {before!r} of this {name}.")
        if getattr(decoder.config, "attn_logit_softcapping", None) or hasattr(self.attentions[0], "sinks"):
            raise ValueError(f"{name} caps or adds to its attention products, which '{self.method.slug}' cannot do.")
        stack.callback(decoder.set_attn_implementation, before)
        decoder.set_attn_implementation(NAME)

    def _take_over(self, past: Any) -> None:
        for index, layer in enumerate(past.layers):
            if index >= len(self.full) or not self.full[index]:
                continue
            ours = self.cache_layer(index)
            if type(layer) is type(ours):
                ours = layer
            elif type(layer) not in (DynamicLayer, GrowingLayer):
                raise self._foreign(layer)
            elif layer.is_initialized and layer.get_seq_length():
                keys: Any = layer.keys
                ours.update(keys, layer.values)  # type: ignore[arg-type]
            past.layers[index] = ours
            if hasattr(ours, "entered"):
                ours.entered = True

    def run(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        **rest: Any,
    ) -> torch.Tensor:
        """What the registered attention function does for a layer of ours."""
        index = int(module.layer_idx)
        if self.cache is None or not self.full[index]:
            if mask is not None and mask.dim() == 2:
                mask = sdpa_mask(
                    batch_size=query.shape[0],
                    q_length=query.shape[2],
                    kv_length=key.shape[2],
                    attention_mask=mask,
                    device=query.device,
                )
            return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **rest)[0]
        tree = mask is not None and mask.dim() == 4 and bool(self._filled)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask > torch.finfo(mask.dtype).min / 2
        call = Call(
            index=index,
            cache=self.cache.layers[index],
            query=query,
            keys=key,
            values=value,
            mask=mask,
            before=self._filled,
            scaling=query.shape[3] ** -0.5 if scaling is None else scaling,
            tree=tree,
            shared=self._shared,
        )
        return self.attend(call)


def _attention_of(layer: Any) -> Any:
    for entry in _ATTENTIONS:
        found = getattr(layer, entry, None)
        if found is not None and hasattr(found, "layer_idx"):
            return found
    return None


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    return _SESSIONS[module].run(module, query, key, value, attention_mask, scaling, dropout=dropout, **kwargs), None


def _mask(**given: Any) -> torch.Tensor | None:
    """Only the padding, None where there is none: our layers make who sees whom of it themselves. Other rules come as
    they are."""
    plain = given.get("mask_function", causal_mask_function) is causal_mask_function
    if given.get("local_size") is None and plain:
        mask = given.get("attention_mask")
        return None if mask is not None and mask.dim() == 2 and bool(mask.all()) else mask
    return sdpa_mask(**given)


_SESSIONS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
