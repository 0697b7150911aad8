"""Beam search: the likeliest text among those that k beams reach. A baseline; transformers' rules, on any engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from szilard.decoding.greedy import Greedy
from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import without_warpers
from szilard.information import entropy
from szilard.options import check_bool, check_number

_NONE = -1.0e9  # the score of a beam that is not there


@dataclass(frozen=True)
class BeamSearch(Method):
    """Keeps the `beams` likeliest texts at every step and returns the best that ended.

        score(x_1..n) = sum_t log p(x_t | x_<t) / n^length_penalty

    The text is known only at the end: a streamer gets it then.

    Attributes:
        beams: k; 1: greedy.
        length_penalty: exponent of the length; larger favours longer texts.
        early_stopping: stop as soon as k texts have ended. Otherwise go on until no beam can beat the worst of them
            at its present length.
    """

    slug: ClassVar[str] = "beam-search"
    paper: ClassVar[str] = "folklore; the rules of transformers' generate(num_beams=k)"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "fork"})
    honours_do_sample: ClassVar[bool] = False

    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        check_number("beams", self.beams, low=1, integer=True)
        check_number("length_penalty", self.length_penalty)
        check_bool("early_stopping", self.early_stopping)

    @classmethod
    def neutral(cls) -> BeamSearch:
        """One beam is greedy decoding."""
        return cls(beams=1)

    def decode(self, state: DecodingState) -> None:
        """All beams of all rows run as one batch on a fork; the winners are committed at the end."""
        if self.beams == 1:
            Greedy().decode(state)
            return
        search = _Search(self, state)
        logits = state.prefill().repeat_interleave(self.beams, dim=0)  # [batch x beams, vocab]
        beams = state.fork(self.beams)
        while True:
            tokens, rows = search.step(logits, beams)
            if search.over:
                break
            beams.select(rows)
            beams.commit(tokens)
            beams.stop(search.closed.repeat_interleave(self.beams))
            logits = beams.feed(tokens)[:, -1]
        beams.close()
        search.commit_best()


class _Search:
    """Running and ended texts of every row."""

    def __init__(self, method: BeamSearch, state: DecodingState) -> None:
        self.method, self.state = method, state
        batch, k = state.batch_size, method.beams
        self.processors = without_warpers(state.logits_processor)
        self.length = 0
        self.scores = torch.full((batch, k), _NONE, device=state.device)  # of the running beams: log-probabilities
        self.scores[:, 0] = 0.0
        self.texts = torch.zeros(batch, k, 0, dtype=torch.long, device=state.device)
        self.entropies = torch.zeros(batch, k, 0, device=state.device)  # kept for a trace only
        self.ended_scores = torch.full((batch, k), _NONE, device=state.device)
        self.ended_texts, self.ended_entropies = self.texts, self.entropies
        self.ended_lengths = torch.zeros(batch, k, dtype=torch.long, device=state.device)
        self.closed = torch.zeros(batch, dtype=torch.bool, device=state.device)  # rows that search no longer
        self.over = False

    def step(self, logits: torch.Tensor, beams: DecodingState) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of every beam and the beam that it continues, both int64 [batch x beams]."""
        batch, k = self.scores.shape
        log_probabilities = torch.log_softmax(logits.float(), dim=-1)
        for processor in self.processors:
            log_probabilities = processor(beams.tokens, log_probabilities)
        beams.watch(log_probabilities.amax(-1))
        self.state.keep_scores(log_probabilities, logits)  # [batch x beams, vocab], as transformers does
        uncertainty = entropy(logits).view(batch, k) if self.state.trace is not None else None
        vocab = log_probabilities.shape[-1]
        totals = (self.scores[:, :, None] + log_probabilities.view(batch, k, vocab)).view(batch, k * vocab)
        candidates, flat = totals.topk(2 * k, dim=-1)  # [batch, 2k]: if k of them end, k still go on
        parents, tokens = flat // vocab, flat % vocab
        self.length += 1
        texts = torch.cat([_take(self.texts, parents), tokens[:, :, None]], dim=2)
        entropies = self.entropies
        if uncertainty is not None:
            entropies = torch.cat([_take(self.entropies, parents), uncertainty.gather(1, parents)[:, :, None]], dim=2)
        ends = self._ends(beams, parents, tokens)
        self._take_ended(candidates, texts, entropies, ends)
        self.scores, kept = torch.where(ends, _NONE, candidates).topk(k, dim=-1)
        self.texts = _take(texts, kept)
        self.entropies = _take(entropies, kept) if uncertainty is not None else self.entropies
        self.closed = self.closed | self._cannot_improve() | ends.all(-1)
        self.over = bool(self.closed.all())
        offsets = torch.arange(batch, device=kept.device)[:, None] * k
        return tokens.gather(1, kept).flatten(), (parents.gather(1, kept) + offsets).flatten()

    def _ends(self, beams: DecodingState, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Whether a candidate is at its end, bool [batch, 2k]."""
        limit = self.state.max_new_tokens
        if limit is not None and self.length >= limit:
            return torch.ones_like(tokens, dtype=torch.bool)
        batch, width = tokens.shape
        if not self.state.stopping_criteria:
            return torch.zeros_like(tokens, dtype=torch.bool)
        offsets = torch.arange(batch, device=parents.device)[:, None] * self.method.beams
        before = beams.tokens[(parents + offsets).flatten()]
        sequences = torch.cat([before, tokens.view(-1, 1)], dim=1)
        ends = self.state.ended(sequences, torch.full((batch * width,), self.length, device=tokens.device))
        assert ends is not None
        return ends.view(batch, width)

    def _take_ended(
        self, candidates: torch.Tensor, texts: torch.Tensor, entropies: torch.Tensor, ends: torch.Tensor
    ) -> None:
        """Of the k best candidates, those that ended join the ended texts; the k best of these are kept."""
        k = self.method.beams
        scores = candidates / self.length**self.method.length_penalty
        eligible = ends & ~self.closed[:, None]
        eligible[:, k:] = False
        if self.method.early_stopping:
            eligible &= ~(self.ended_scores > _NONE).all(-1, keepdim=True)
        scores = torch.where(eligible, scores, _NONE)
        longer = texts.shape[2] - self.ended_texts.shape[2]
        pad = torch.nn.functional.pad
        lengths = torch.full_like(candidates, self.length, dtype=torch.long)
        self.ended_scores, best = torch.cat([self.ended_scores, scores], dim=1).topk(k, dim=-1)
        self.ended_texts = _take(torch.cat([pad(self.ended_texts, (0, longer)), texts], dim=1), best)
        self.ended_lengths = torch.cat([self.ended_lengths, lengths], dim=1).gather(1, best)
        if entropies.shape[2]:
            padded = pad(self.ended_entropies, (0, longer))
            self.ended_entropies = _take(torch.cat([padded, entropies], dim=1), best)

    def _cannot_improve(self) -> torch.Tensor:
        """Rows with k ended texts, none of which a running beam could still beat, bool [batch]."""
        full = (self.ended_scores > _NONE).all(-1)
        if self.method.early_stopping:
            return full
        best = self.scores[:, 0] / self.length**self.method.length_penalty
        return full & (best <= self.ended_scores[:, -1])

    def commit_best(self) -> None:
        """Write the best ended text of every row into the state."""
        texts, lengths, state = self.ended_texts[:, 0], self.ended_lengths[:, 0], self.state
        for column in range(int(lengths.max())):
            tokens, rows = texts[:, column], lengths > column
            if state.trace is not None:
                columns: dict[str, Any] = {"score": self.ended_scores[:, 0]}
                state.record(tokens, self.ended_entropies[:, 0, column], **columns)
            state.commit(state.pad(tokens), None if bool(rows.all()) else rows.long())
            if state.done:
                return


def _take(values: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
    """Rows of [batch, beams, n] by index [batch, chosen] -> [batch, chosen, n]."""
    return values.gather(1, beams[:, :, None].expand(-1, -1, values.shape[2]))
