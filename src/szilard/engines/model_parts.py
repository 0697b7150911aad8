"""What is asked of a transformers model beside running it: its output layer, its figures, its fingerprint."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch

from szilard.decoding.cost import ModelSize
from szilard.engines.model_use import running_on


def unembed(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states that went through the final norm, as the model's own head: [..., d] -> [..., vocab]."""
    layer = model.get_output_embeddings()
    logits = layer(hidden.to(layer.weight.dtype))
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask that every attention takes: 0 where `mask` says there is something to see, the lowest number elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def weights_fingerprint(model: Any) -> str:
    """A short hash that tells a model's weights, in their precision, from others: of a few numbers here and there."""
    with running_on(model):  # not while another thread's run has changed it
        named = sorted(model.named_parameters())
        weights = [getattr(parameter, "qdata", parameter).detach() for _, parameter in named]  # quantised ones: torchao
        sample = weights[:: max(1, len(weights) // 16)]
        state = tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in sample)
        known = _FINGERPRINTS.get(model)
        if known is None or known[0] != state:
            found = hashlib.sha256(f"{model.config.model_type} {model.dtype} {len(weights)}".encode())
            for weight in sample:
                found.update(weight.flatten()[:64].float().cpu().numpy().tobytes())
            known = _FINGERPRINTS[model] = state, found.hexdigest()[:12]
        return known[1]


_FINGERPRINTS: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


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
