"""An optional stage before stage 1: the encoder learns the words that its latent tokens will have to lead to. (ours)

    L = mean_i mean over the words w of S_{i+1} of -log alpha_i(w)        for i = N: over the words of the answer

alpha_i is then close to the even mixture of the next chunk's words. Paper: stage 1 begins with the decoder's loss; here
it can begin with this one, because a small model whose distributions are nearly certain does not find the way: its
softmax saturates before the decoder has learned to read it, and the latent tokens stay empty.
"""

from __future__ import annotations

import torch
from torch import nn

from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.masks import ANSWER, LATENT, TEXT

WORDS = "words"  # the stage


class WarmStart(nn.Module):
    """{"loss"}, nats per word.

    Args:
        encoder: theta_enc, which learns.
        close: tokens of what ends a chain: they and the end of the answer are no words that a latent token stands for.
    """

    def __init__(self, encoder: LatentTokenEncoder, close: int) -> None:
        super().__init__()
        self.encoder, self.close = encoder, close

    def forward(
        self,
        encoder_ids: torch.Tensor,
        encoder_role: torch.Tensor,
        ids: torch.Tensor,
        role: torch.Tensor,
        chunk: torch.Tensor,
        labels: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """A batch of `Stage1Data.collate`, int64 [batch, slots] each."""
        log_alpha = self.encoder.space.logits(self.encoder.states(encoder_ids, encoder_role)).log_softmax(-1)
        latent, answer = role == LATENT, role == ANSWER
        place = answer.cumsum(1)  # 1, 2, ... in the answer, which close and the end of sequence enclose
        word = (role == TEXT) | (answer & (place > self.close) & (place < answer.sum(1, keepdim=True)))
        before = latent.sum(1).cumsum(0) - latent.sum(1)  # latent tokens of the rows above
        whose = (before[:, None] + chunk - 1)[word]  # the latent token that leads to each word
        said = -log_alpha[whose, ids[word]]
        sums = said.new_zeros(len(log_alpha)).index_add(0, whose, said)
        counts = torch.bincount(whose, minlength=len(log_alpha))
        return {"loss": (sums[counts > 0] / counts[counts > 0]).mean()}
