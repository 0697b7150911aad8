"""Soft Thinking: always think in mixtures of a few likely tokens, until the end of thinking.

Zhang et al. 2025, arXiv 2505.15778; reference code eric-ai-lab/Soft-Thinking (MIT).

    q_t = softmax(z_t / T), filtered by top-k, top-p and min-p, its n likeliest entries renormalised
    fed:      sum over those n of q_t[v] e(v)              emitted: their likeliest
    cold stop: the entropy of softmax(z_t / T) below a bound for a number of steps in a row forces the end of thinking
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from szilard.decoding.latent import CANDIDATES_SHOWN, ForcedTokens, Marker
from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import without_warpers
from szilard.information import entropy as entropy_of
from szilard.options import check_ids, check_number


@dataclass(frozen=True)
class SoftThinking(Method):
    """Soft thinking with its paper's constants. Its authors warn that small models (<= 7-14 B) do poorly with it.

    Attributes:
        temperature, top_k, top_p, min_p: the filter of q_t (0.6, 30, 0.95, 0.001); after the end of thinking they are
            the ordinary sampling settings where the run samples (otherwise the answer is greedy).
        mixture_size: n, tokens in a mixture (max_topk in the reference code).
        cold_entropy: nats; a step below it is cold. 0: no cold stop.
        cold_steps: cold steps in a row that force the end of thinking.
        end_of_thinking: text or ids of the marker after which a row decodes ordinarily; None: it never does.
    """

    slug: ClassVar[str] = "soft-thinking"
    paper: ClassVar[str] = "Zhang et al. 2025, arXiv 2505.15778"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "embeddings_in"})
    honours_do_sample: ClassVar[bool] = False  # while thinking, nothing is drawn

    temperature: float = 0.6
    top_k: int = 30
    top_p: float = 0.95
    min_p: float = 0.001
    mixture_size: int = 10
    cold_entropy: float = 0.01
    cold_steps: int = 256
    end_of_thinking: str | Sequence[int] | None = "</think>"

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, low=1e-6)
        check_number("top_k", self.top_k, low=1, integer=True)
        check_number("top_p", self.top_p, low=0, high=1)
        check_number("min_p", self.min_p, low=0, high=1)
        check_number("mixture_size", self.mixture_size, low=1, integer=True)
        check_number("cold_entropy", self.cold_entropy, low=0)
        check_number("cold_steps", self.cold_steps, low=1, integer=True)
        if self.end_of_thinking is not None and not isinstance(self.end_of_thinking, str):
            object.__setattr__(self, "end_of_thinking", check_ids("end_of_thinking", self.end_of_thinking))

    @classmethod
    def neutral(cls) -> SoftThinking:
        """Mixtures of one token and no cold stop: greedy decoding."""
        return cls(mixture_size=1, cold_entropy=0.0)

    def decode(self, state: DecodingState) -> None:
        """Latent until the marker, ordinary afterwards, row by row."""
        marker = Marker(state, self.end_of_thinking, name="end_of_thinking")
        forced = ForcedTokens(state)
        processors = without_warpers(state.logits_processor)
        answering = marker.ends_prompt(state)
        cold = torch.zeros(state.batch_size, dtype=torch.long, device=state.device)

        logits = state.prefill()  # [batch, vocab]
        while True:
            scores = logits.to(torch.float32, copy=bool(processors))
            for processor in processors:
                scores = processor(state.tokens, scores)
            weights, ids = self.mixture(scores)  # [batch, n], the likeliest first
            state.watch(weights)
            tokens = ids[:, 0]
            if bool(answering.any()):
                ordinary = self._answer_processors(processors, state.do_sample)
                tokens = torch.where(answering, state.choose(logits, processors=ordinary), tokens)
            else:
                state.keep_scores(scores, logits)
            tokens = state.pad(forced.override(tokens))

            entropy = entropy_of(logits.float() / self.temperature)  # tempered, but not filtered
            cold = torch.where(entropy < self.cold_entropy, cold + 1, 0)
            if marker.ids and self.cold_entropy > 0:
                for row in ((cold == self.cold_steps) & ~answering).nonzero()[:, 0].tolist():
                    forced.queue(row, marker.ids)
            answering = answering | marker.completed_by(tokens, state)
            latent = ~answering & ~state.finished & ~forced.speaking
            if self.mixture_size == 1:
                latent = torch.zeros_like(latent)
            latent_here = bool(latent.any())
            if state.trace is not None:
                shown = slice(0, CANDIDATES_SHOWN)
                state.record(
                    tokens,
                    entropy_of(logits),
                    mode=latent.long(),
                    tempered_entropy=entropy,
                    candidates=(ids[:, shown], torch.where(latent[:, None], weights[:, shown], torch.nan)),
                )
            state.commit(tokens)
            if state.done:
                return
            if latent_here:
                embeddings = state.mix(weights, ids)
                embeddings = torch.where(latent[:, None], embeddings, state.embed(tokens).to(embeddings.dtype))
                logits = state.feed(embeddings=embeddings[:, None])[:, -1]
            else:
                logits = state.feed(tokens)[:, -1]

    def mixture(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The filtered, renormalised distribution: [batch, vocab] -> weights [batch, n] and ids [batch, n], sorted."""
        likeliest, ids = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
        # Equal scores (common in half precision) stand in the order of their ids, so that the first is the argmax.
        ids, order = ids.sort(dim=-1)
        likeliest, order = likeliest.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, order)
        weights = torch.softmax(likeliest / self.temperature, dim=-1)  # [batch, top_k], descending
        before = weights.cumsum(-1) - weights
        kept = (before < self.top_p) | (torch.arange(weights.shape[-1], device=weights.device) == 0)
        weights = torch.where(kept, weights, 0)
        weights = torch.where(weights >= self.min_p * weights[:, :1], weights, 0)[:, : self.mixture_size]
        return weights / weights.sum(-1, keepdim=True), ids[:, : self.mixture_size]

    def _answer_processors(self, processors: LogitsProcessorList, do_sample: bool) -> LogitsProcessorList:
        if not do_sample:
            return processors
        filters = [hf.TemperatureLogitsWarper(float(self.temperature)), hf.TopKLogitsWarper(self.top_k)]
        return LogitsProcessorList([*processors, *filters, hf.TopPLogitsWarper(float(self.top_p))])
