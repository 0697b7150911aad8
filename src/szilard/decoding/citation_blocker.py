"""The citation blocker: what a model was tuned on cannot be written again at length.

Carlsson et al. 2025, "The Hyperfitting Phenomenon", ICLR 2025, arXiv 2412.04318. With the set D of sequences and
a window w = 5:

    forbidden(x_1 .. x_t) = {d_(i+w) : (d_i .. d_(i+w-1)) = (x_(t-w+1) .. x_t) for a d in D}

so after five tokens that stand in D none that followed them there may come. A blocked text holds no w+1 tokens of D in
a row. The paper blocks only "once the current word is complete", so that no word is broken in two; where words begin is
the tokenizer's convention (inferred; see `word_edges`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from szilard.decoding.followers import Followers, ids_of
from szilard.decoding.word_starts import word_edges
from szilard.options import check_bool, check_number


class CitationBlocker(LogitsProcessor):
    """A logits processor for `model.generate` and `engine.generate(..., logits_processor=[blocker])`.

    Args:
        train_ids: the sequences that are not to be cited, each [tokens].
        window: w, tokens in a row after which one is forbidden (5 in the paper).
        word_boundary: forbid only where a word is complete: a token inside a word is let through, and the citation ends
            at the word's end. False: always, and no w+1 tokens of the set are written in a row.
        tokenizer: of the model; needed for `word_boundary`.
        prompt_length: so many first columns of `input_ids`, padding included, are not looked at. 0: what the prompt
            says counts, too (inferred).

    Raises:
        ValueError: `word_boundary` without a tokenizer, no sequence longer than the window, or numbers out of range.
        TypeError: settings of another type.
    """

    def __init__(
        self,
        train_ids: Iterable[Sequence[int] | torch.Tensor],
        window: int = 5,
        word_boundary: bool = True,
        tokenizer: Any = None,
        prompt_length: int = 0,
    ) -> None:
        check_number("window", window, low=1, integer=True)
        check_number("prompt_length", prompt_length, low=0, integer=True)
        check_bool("word_boundary", word_boundary)
        if word_boundary and tokenizer is None:
            raise ValueError("word_boundary=True needs the model's tokenizer, which knows where words begin.")
        self.window, self.word_boundary, self.tokenizer = window, word_boundary, tokenizer
        self.prompt_length = prompt_length
        rows = [ids_of(sequence) for sequence in train_ids]
        self.followers = Followers(rows, window)
        self.digest = hashlib.sha256(repr([row.tolist() for row in rows]).encode()).hexdigest()[:12]
        self._edges: tuple[torch.Tensor, torch.Tensor] | None = None

    def __repr__(self) -> str:
        return f"CitationBlocker({self.digest}, window={self.window}, word_boundary={self.word_boundary})"

    @torch.no_grad()
    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores with the forbidden tokens at -inf.

        Args:
            input_ids: int64 [batch, length].
            scores: [batch, vocab]; a row of which nothing would be left stays as it is.

        Returns:
            [batch, vocab].
        """
        looked_at = input_ids[:, self.prompt_length :][:, -self.window :]
        if looked_at.shape[1] < self.window:
            return scores
        rows, tokens = self.followers(looked_at)  # [forbidden] each
        wanted = tokens < scores.shape[-1]
        if self.word_boundary:
            opens, ends = self._words(scores)
            wanted &= ends[input_ids[rows, -1]] | opens[tokens.clamp(max=scores.shape[-1] - 1)]
        rows, tokens = rows[wanted], tokens[wanted]
        if not len(rows):
            return scores
        left = scores.clone()
        left[rows, tokens] = float("-inf")
        nothing = torch.isneginf(left).all(-1, keepdim=True)  # [batch, 1]
        return torch.where(nothing, scores, left)  # type: ignore[return-value]

    def _words(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens open and which end words, bool [vocab] on the scores' device."""
        edges = self._edges
        if edges is None or edges[0].shape[0] != scores.shape[-1]:
            edges = word_edges(self.tokenizer, scores.shape[-1])
        if edges[0].device != scores.device:
            edges = (edges[0].to(scores.device), edges[1].to(scores.device))
        self._edges = edges
        return edges
