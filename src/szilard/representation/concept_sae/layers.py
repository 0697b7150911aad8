"""Hidden states of one layer of a model of transformers, without keeping those of the others.

hidden_states[k] is what layer k takes in, and hidden_states[-1] what the output layer reads. A hook takes it there and
ends the forward: no layer above runs, and no cache is filled. Whether a model is built so is tried on two tokens; of
one that is not, hidden_states[k] is taken from the whole forward.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_number


class _Reached(Exception):
    """The wanted states are there."""


class LayerReader:
    """Reads hidden_states[k] of token ids.

    Args:
        model: of transformers, in evaluation mode; of an encoder-decoder the encoder is read.
        layer: k; -1 is what the output layer reads.

    Attributes:
        layer: k, from 0.
        width: d.
        vocabulary: token ids are below it.
        positions: tokens that the model takes; None: it does not say.

    Raises:
        TypeError: a layer that is no whole number.
        ValueError: no such layer, or a model that does not run on token ids alone.
    """

    def __init__(self, model: Any, layer: int) -> None:
        check_number("layer", layer, integer=True)
        self.name = type(model).__name__
        config = model.config.get_text_config()
        sizes = ("num_hidden_layers", "hidden_size", "vocab_size")
        if not all(isinstance(getattr(config, name, None), int) for name in sizes):
            raise ValueError(f"{self.name} does not read token ids: take a model of texts.")
        self.layers = int(config.num_hidden_layers)
        if not -self.layers - 1 <= layer <= self.layers:
            raise ValueError(f"layer must be between {-self.layers - 1} and {self.layers} for this model, not {layer}.")
        self.layer, self.width = layer % (self.layers + 1), int(config.hidden_size)
        self.vocabulary = int(config.vocab_size)
        self.body = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model.base_model
        self.positions = _positions(self.body, config)
        self.device = next(self.body.parameters()).device
        cached = "use_cache" in inspect.signature(self.body.forward).parameters
        self.options: dict[str, Any] = {"use_cache": False} if cached else {}
        self.stop = self._stop()

    @torch.no_grad()
    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, d] of ids [B, T]; mask [B, T]: 1 at tokens. What is padded must be on the right."""
        given = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device), **self.options}
        if self.stop is None:
            return self.body(**given, output_hidden_states=True).hidden_states[self.layer]
        if self.stop is self.body:
            return self.body(**given).last_hidden_state
        found: list[Tensor] = []
        handle = self.stop.register_forward_pre_hook(_taker(found, ends=True), with_kwargs=True)
        try:
            self.body(**given)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]

    @torch.no_grad()
    def _stop(self) -> nn.Module | None:
        """The layer that takes the states in, the body where it gives them itself, or None: neither."""
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        stacks = [
            module
            for module in self.body.modules()
            if isinstance(module, nn.ModuleList) and len(module) == self.layers and self.layer < self.layers
        ]
        taken: list[list[Tensor]] = [[] for _ in stacks]
        handles = [
            stack[self.layer].register_forward_pre_hook(_taker(found, ends=False), with_kwargs=True)
            for stack, found in zip(stacks, taken, strict=True)
        ]
        try:
            out = self.body(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **self.options
            )
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"{self.name} does not run on token ids alone ({str(error).splitlines()[0]:.80}): take a model of "
                "texts, or the part of it that reads them, such as its text_model."
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        states = getattr(out, "hidden_states", None)
        if not isinstance(states, (tuple, list)) or len(states) != self.layers + 1:
            raise ValueError(f"{self.name} does not give the hidden states of its {self.layers} layers.")
        wanted = states[self.layer]
        for stack, found in zip(stacks, taken, strict=True):
            if len(found) == 1 and found[0].shape == wanted.shape and torch.equal(found[0], wanted):
                return stack[self.layer]
        last = getattr(out, "last_hidden_state", None)
        if self.layer == self.layers and isinstance(last, Tensor) and torch.equal(last, wanted):
            return self.body
        return None


def _taker(found: list[Tensor], *, ends: bool) -> Any:
    """A hook before a layer, which keeps the states that it is given."""

    def take(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = given[0] if given else named.get("hidden_states")
        if isinstance(states, Tensor):
            found.append(states)
            if ends:
                raise _Reached

    return take


def _positions(body: nn.Module, config: Any) -> int | None:
    """Tokens that a model takes; tables as RoBERTa's begin behind the place of their padding."""
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    for name, module in body.named_modules():
        table = isinstance(module, nn.Embedding) and module.num_embeddings == most and "position" in name
        if table and module.padding_idx is not None:
            return most - module.padding_idx - 1
    return most
