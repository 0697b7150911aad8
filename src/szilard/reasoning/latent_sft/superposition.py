"""The vocabulary space of a model: distributions over its tokens, and the soft embeddings that they stand for.

    alpha = softmax over the k largest of l, in float32                z = sum_j alpha_j e(id_j), in float32

l is E h of an encoder's state h (with the input embeddings E, or the model's head). No gradient goes into E, neither
through the logits nor through the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

_TINY = 1e-10  # inside the logarithm of a noisy label


def superposition(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The softmax over the k likeliest tokens alone.

    Args:
        logits: [..., vocab].
        top_k: k; 0, or at least the vocabulary: all of it.

    Returns:
        Probabilities [..., k], float32 or better, the largest first, and their ids [..., k]; over the whole vocabulary
        [..., vocab] in the vocabulary's order, and None.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not 0 < top_k < logits.shape[-1]:
        return wide.softmax(-1), None
    largest, ids = wide.topk(top_k, dim=-1)
    return largest.softmax(-1), ids


def gumbel(
    probabilities: torch.Tensor,
    *,
    scale: float,
    temperature: float = 1.0,
    clamp: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Noisy probabilities: softmax((log p + clamp(scale g)) / tau) over the last axis, g = -log Exp(1).

    Args:
        probabilities: float [..., k].
        scale: of the noise; 0: none.
        temperature: tau.
        clamp: bounds of the scaled noise; None: it is not cut.
        generator: of the draws; None: PyTorch's own.
    """
    logits = (probabilities + _TINY).log()
    if scale:
        drawn = torch.empty_like(probabilities).exponential_(generator=generator)
        noise = -scale * drawn.clamp(min=torch.finfo(drawn.dtype).tiny).log()
        logits = logits + (noise if clamp is None else noise.clamp(*clamp))
    elif temperature == 1.0:
        return probabilities
    return (logits / temperature).softmax(-1)


def soft_embedding(
    embedding: torch.nn.Module, probabilities: torch.Tensor, tokens: torch.Tensor | None
) -> torch.Tensor:
    """z, float32 or better: the probability-weighted sum of what the model would look up.

    Args:
        embedding: the input embeddings, as a layer.
        probabilities: [n, k], or [n, vocab] in the vocabulary's order.
        tokens: their ids [n, k], or None.

    Returns:
        [n, hidden].
    """
    if tokens is None:
        tokens = torch.arange(probabilities.shape[-1], device=probabilities.device)
    vectors = embedding(tokens).detach()  # [n, k, hidden] or [vocab, hidden]
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    weights = probabilities.to(vectors.dtype)
    return weights @ vectors if vectors.dim() == 2 else torch.einsum("nk,nkh->nh", weights, vectors)


@dataclass(frozen=True)
class VocabularySpace:
    """What makes a latent token of a hidden state, on the side of the model that will read it.

    Attributes:
        model: the decoder.
        readout: "input_embedding": l = E h, as in the authors' code; "lm_head": l = W h, the head that stage 2 trains.
            The same for tied models. Paper: W is the head in both stages; here: E by default, because the code that
            gave the numbers has it.
        top_k: k; 0: the whole vocabulary.
    """

    model: Any
    readout: str
    top_k: int

    @property
    def embedding(self) -> Any:
        """The model's input embeddings, a layer."""
        return self.model.get_input_embeddings()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """l of hidden states that went through the final norm: [..., d] -> float32 [..., vocab]."""
        text = self.model.config.get_text_config()
        layer = self.embedding if self.readout == "input_embedding" else self.model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        logits = functional.linear(
            hidden.to(layer.weight.dtype), layer.weight.detach(), None if bias is None else bias.detach()
        )
        cap = getattr(text, "final_logit_softcapping", None)
        logits = logits[..., : int(text.vocab_size)]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if cap is None or self.readout == "input_embedding" else torch.tanh(logits / cap) * cap

    def distribution(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """alpha of hidden states [n, d]: see `superposition`."""
        return superposition(self.logits(hidden), self.top_k)

    def vectors(self, probabilities: torch.Tensor, tokens: torch.Tensor | None) -> torch.Tensor:
        """z of distributions [n, k]: [n, hidden]."""
        return soft_embedding(self.embedding, probabilities, tokens)
