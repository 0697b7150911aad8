"""What the loop trains: a batch of (pixels, question, answer) to the loss between predicted and true embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from szilard.information.contrastive import DUPLICATES, LOSSES
from szilard.options import check_choice
from szilard.representation.vl_jepa.model import VLJEPA, tokenized
from szilard.representation.vl_jepa.scenes import Example
from szilard.training.loop import Batch


class VLJEPAObjective(nn.Module):
    """A batch: {"loss", "alignment", "temperature"}.

    Args:
        model: what learns; its frozen parts do not.
        learning_rate: the largest; the Y-Encoder's body has `model.y_lr_mult` of it.
        weight_decay: of matrices; none for the temperature, biases and norms.
        loss: "info_nce", or, as an ablation, "cosine", "l1", "l2": those need a frozen Y-Encoder.
        duplicates: of equal answers in a batch, see `info_nce`. Published: "negatives", as far as the paper says; here
            "ignored" because questions have few answers, and "yes" is no negative of "yes" (inferred).
    """

    def __init__(
        self,
        model: VLJEPA,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        loss: str = "info_nce",
        duplicates: str = "ignored",
    ) -> None:
        super().__init__()
        check_choice("loss", loss, LOSSES)
        check_choice("duplicates", duplicates, DUPLICATES)
        self.model, self.kind, self.duplicates = model, loss, duplicates
        self._rate, self._decay = learning_rate, weight_decay

    @property
    def skips_parameters(self) -> bool:
        """Captions leave the token embeddings out, and regressions the temperature."""
        return True

    def learning_rate_of(self, name: str) -> float:
        """Of a parameter of this module."""
        return self._rate * _share(name.removeprefix("model."), self.model)

    def weight_decay_of(self, name: str) -> float:
        """Of a parameter of this module."""
        return self._decay if _decays(name) else 0.0

    def forward(
        self,
        pixels: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        groups: Tensor,
        query_ids: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See `collator` for the batch."""
        found = self.model(
            pixels,
            answer_ids,
            query_ids,
            query_mask,
            answer_mask,
            groups,
            loss=self.kind,
            duplicates=self.duplicates,
        )
        aligned = (found.predicted.detach() - found.target.detach()).square().sum(-1).mean()
        temperature = 1 / self.model.temperature().detach()
        return {"loss": found.loss, "alignment": aligned, "temperature": temperature}


def optimizer_param_groups(model: VLJEPA, learning_rate: float, *, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Groups for a PyTorch optimiser in a loop of one's own; `szilard train vl-jepa` sets the same rates.

    Args:
        model: whose learning parameters are grouped.
        learning_rate: of all but the Y-Encoder's body, which has `model.y_lr_mult` of it.
        weight_decay: of matrices.

    Returns:
        {"params", "lr", "weight_decay"} each.
    """
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            place = learning_rate * _share(name, model), weight_decay if _decays(name) else 0.0
            found.setdefault(place, []).append(parameter)
    return [{"params": own, "lr": rate, "weight_decay": decay} for (rate, decay), own in found.items()]


def _share(name: str, model: VLJEPA) -> float:
    """Of the learning rate, of a parameter of the model."""
    return model.y_lr_mult if name.startswith("y_encoder.body.") else 1.0


def _decays(name: str) -> bool:
    return not (name.endswith(("bias", "log_scale", "places")) or "norm" in name.lower())


class Collator:
    """Examples to a batch.

    Args:
        model: whose tokenizers are taken.
    """

    def __init__(self, model: VLJEPA) -> None:
        self.query_tokenizer, self.answer_tokenizer = model.query_tokenizer, model.answer_tokenizer
        self.longest = model.max_tokens

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """{"pixels" [B, ...], "answer_ids", "answer_mask" [B, m], "groups" int64 [B]: equal answers have equal
        numbers; "query_ids", "query_mask" [B, m] where a question is among them}."""
        answers = [example.answer for example in examples]
        ids, mask = tokenized(self.answer_tokenizer, answers, self.longest)
        batch: dict[str, Any] = {
            "pixels": torch.stack([example.pixels for example in examples]),
            "answer_ids": ids,
            "answer_mask": mask,
            "groups": torch.tensor([_number(answer) for answer in answers]),
        }
        if any(example.query for example in examples):
            queries = [example.query for example in examples]
            batch["query_ids"], batch["query_mask"] = tokenized(self.query_tokenizer, queries, self.longest)
        return batch


def _number(text: str) -> int:
    """The same for the same text, in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
