"""What the decoding loop of masked diffusion asks of a model.

A canvas holds a left-padded prompt and an answer whose open places are mask tokens; the model says what it believes of
any of its columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from szilard.decoding.cost import ModelSize


@dataclass(frozen=True)
class MaskedDiffusionConfig:
    """The token ids and habits of a masked diffusion model, stored in its config.json as "masked_diffusion".

    Attributes:
        mask_token_id: stands where the answer is open.
        eos_token_id: ends, and pads, an answer.
        eot_token_id: ends a turn of a chat.
        shift_logits: the hidden state at i - 1 predicts token i (Dream); else that at i does (LLaDA).
        forbid_mask: the mask token is never predicted.
    """

    mask_token_id: int
    eos_token_id: int | None = None
    eot_token_id: int | None = None
    shift_logits: bool = False
    forbid_mask: bool = True


class CanvasModel(ABC):
    """A model that reads canvases.

    Attributes:
        config: ids and habits.
        vocab_size: width of the logits.
        size: for counts.
    """

    config: MaskedDiffusionConfig
    vocab_size: int
    size: ModelSize

    @abstractmethod
    def predict(self, tokens: Tensor, real: Tensor, wanted: Tensor) -> Tensor:
        """Logits [rows, n, vocab] of the token at each wanted column; the model has dealt with any shift.

        Args:
            tokens: int64 [rows, N], prompt and answer.
            real: bool [rows, N]; False: padding.
            wanted: int64 [rows, n], columns.
        """
