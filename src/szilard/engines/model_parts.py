"""What is asked of a transformers model beside running it: its output layer, and its figures for the cost counts."""

from __future__ import annotations

from typing import Any

import torch

from szilard.decoding.cost import ModelSize


def unembed(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states that went through the final norm, as the model's own head: [..., d] -> [..., vocab]."""
    layer = model.get_output_embeddings()
    logits = layer(hidden.to(layer.weight.dtype))
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def model_size(model: Any) -> ModelSize:
    """The figures of a model that the cost counts need."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    embeddings: torch.Tensor = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    inner = getattr(model, "model", model)
    vision: Any = getattr(inner, "vision_tower", None) or getattr(inner, "visual", None)
    parameters = sum(p.numel() for p in model.parameters()) - embeddings.numel()
    if vision is not None:
        parameters -= sum(p.numel() for p in vision.parameters())
    if head is not None and getattr(head, "weight", None) is embeddings:
        parameters += embeddings.numel()  # tied: used as the output layer by every token
    return ModelSize(
        name=type(model).__name__,
        layers=int(text.num_hidden_layers),
        layer_parameters=parameters,
        attention_width=heads * head_dim,
        kv_bytes_per_token=2 * kv_heads * head_dim * embeddings.element_size() * int(text.num_hidden_layers),
    )
