"""Latent-SFT: a tuned model thinks in distributions over its vocabulary, then answers in words.

Deng, Pang, Wei, Xu, Duan, Xu, Song, Shen, Cheng, "Latent Reasoning in LLMs as a Vocabulary-Space Superposition", 2025,
arXiv 2510.15522 (second version: "LLM Latent Reasoning as Chain of Superposition"). Reference code:
DJC-GO-SOLO/Latent-SFT (MIT).

    1. the prompt and <think> are read
    2. z_t = sum over the k likeliest tokens of softmax_k(l_t) e(v)      fed in the place of a token, [batch, hidden]
       until argmax l_t begins </think> (this z is thrown away), or there were as many steps as are allowed
    3. </think> is fed, and the answer decoded, from the same cache
       (the authors' code reads the whole sequence again; the result is the same)

A latent step writes its likeliest token into the text, as in Soft Thinking: the text shows what the chain is about, and
the model never sees it. The trace tells latent steps by their mode and keeps each superposition; the cost counts them
as "latent_steps".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from szilard.decoding.latent import ForcedTokens, Marker
from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import without_warpers
from szilard.information import entropy as entropy_of
from szilard.options import check_choice, check_ids, check_number
from szilard.reasoning.examples import delimiter_ids
from szilard.reasoning.latent_sft.superposition import gumbel, superposition

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

CONFIG_ENTRY = "latent_sft"  # in a tuned model's config.json
TOP_K = 10  # where a model does not say
_SHOWN = 10  # tokens of a superposition kept in the trace
# of a step: scores [batch, vocab], the superposition's probabilities and ids [batch, k], which rows took it [batch]
Watch = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | None", torch.Tensor], None]


@dataclass(frozen=True)
class LatentSFT(Method):
    """Decoding of a model that `szilard train latent-sft` made; what is left open is as the model was trained.

    Attributes:
        top_k: k, tokens in a superposition; 0: the whole vocabulary; None: as trained, else 10.
        max_latent_steps: latent steps after which the chain is ended by force; None: no bound.
        max_answer_tokens: tokens behind the chain's end after which a row ends; None: the run's own limit alone.
        stop: for an end of chain of several tokens, "whole": the chain ends where the model would go on to write all
            of it (one more forward of a copy of the rows in question); "first_id": where the likeliest token is its
            first, as in the authors' code, so that any text which begins alike ends a chain.
        gumbel_scale: noise on each superposition, not cut; 0: none. (The authors' command line has 0.5 where it is on.)
        feedback: what a latent step feeds: "soft_embedding"; "hidden_state": the last hidden state (the paper's
            ablation); None: as trained.
        temperature, top_p: of the answer where the run samples (0.6, 0.95); otherwise it is greedy.
        think_open: text or ids put behind a prompt that does not end with them; None: nothing; "auto": as trained,
            else "<think>".
        think_close: text or ids that end a chain; None: nothing does; "auto": as trained, else "</think>".
    """

    slug: ClassVar[str] = "latent-sft"
    paper: ClassVar[str] = "Deng et al. 2025, arXiv 2510.15522"
    family: ClassVar[str] = "reasoning"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "embeddings_in", "fork"})
    honours_do_sample: ClassVar[bool] = False  # a chain is not drawn

    top_k: int | None = None
    max_latent_steps: int | None = 128
    max_answer_tokens: int | None = None
    stop: str = "whole"
    gumbel_scale: float = 0.0
    feedback: str | None = None
    temperature: float = 0.6
    top_p: float = 0.95
    think_open: str | Sequence[int] | None = "auto"
    think_close: str | Sequence[int] | None = "auto"

    def __post_init__(self) -> None:
        check_number("top_k", self.top_k, low=0, integer=True, optional=True)
        check_number("max_latent_steps", self.max_latent_steps, low=0, integer=True, optional=True)
        check_number("max_answer_tokens", self.max_answer_tokens, low=1, integer=True, optional=True)
        check_choice("stop", self.stop, ("whole", "first_id"))
        check_number("gumbel_scale", self.gumbel_scale, low=0)
        if self.feedback is not None:
            check_choice("feedback", self.feedback, ("soft_embedding", "hidden_state"))
        check_number("temperature", self.temperature, low=1e-6)
        check_number("top_p", self.top_p, low=0, high=1)
        for name in ("think_open", "think_close"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, name, check_ids(name, value))

    @classmethod
    def neutral(cls) -> LatentSFT:
        """Superpositions of one token, and a chain that nothing begins or ends: greedy decoding."""
        return cls(top_k=1, max_latent_steps=None, feedback="soft_embedding", think_open=None, think_close=None)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse an engine that cannot feed back what is asked for, or whose tokenizer lacks a delimiter."""
        if engine is None:
            return
        trained = self.as_trained(getattr(engine, "model", None))
        for name in ("think_open", "think_close"):
            if isinstance(mark := getattr(trained, name), str):
                delimiter_ids(engine.tokenizer, mark, name)
        feeds = trained.feedback
        if feeds == "hidden_state" and "hidden_states" not in engine.provides:
            raise ValueError(f"feedback='hidden_state' needs hidden states, which {engine.name} does not give.")

    def as_trained(self, model: Any) -> LatentSFT:
        """The method with what was left open taken from the model's config, else the paper's."""
        said = getattr(getattr(model, "config", None), CONFIG_ENTRY, None)
        said = said if isinstance(said, dict) else {}
        closed: dict[str, Any] = {}
        if self.top_k is None:
            closed["top_k"] = int(said.get("top_k", TOP_K))
        if self.feedback is None:
            closed["feedback"] = said.get("feedback", "soft_embedding")
        for name, usual in (("think_open", "<think>"), ("think_close", "</think>")):
            if getattr(self, name) == "auto":
                closed[name] = said.get(name, usual)
        return type(self)(**(self.options() | closed))

    def decode(self, state: DecodingState, watch: Watch | None = None) -> None:
        """Latent until the chain ends, ordinary afterwards, row by row; `watch` is told of every latent step."""
        method = self.as_trained(getattr(state, "model", None))
        opening = Marker(state, method.think_open, name="think_open")
        closing = Marker(state, method.think_close, name="think_close")
        forced = ForcedTokens(state)
        processors = without_warpers(state.logits_processor)
        answering = closing.ends_prompt(state)  # thinking was switched off by the prompt
        for row in (~opening.ends_prompt(state) & ~answering).nonzero()[:, 0].tolist():
            forced.queue(row, opening.ids)
        steps = torch.zeros(state.batch_size, dtype=torch.long, device=state.device)  # of the chain
        answered = torch.zeros_like(steps)
        hidden = method.feedback == "hidden_state"

        logits = state.prefill(hidden_states=hidden)  # [batch, vocab]
        while True:
            # 1. The superposition, and the token of the text.
            scores = logits.to(torch.float32, copy=bool(processors))
            for processor in processors:
                scores = processor(state.tokens, scores)
            likeliest = scores.argmax(-1)
            probabilities, ids = method.superposition(scores, likeliest, state.generator)
            state.watch(probabilities)
            tokens = likeliest
            if bool(answering.any()):
                ordinary = method._answer_processors(processors, state.do_sample)
                tokens = torch.where(answering, state.choose(logits, processors=ordinary), tokens)
            else:
                state.keep_scores(scores, logits)
            tokens = state.pad(forced.override(tokens))
            # 2. Does the chain end here?
            thinking = ~answering & ~state.finished & ~forced.speaking
            ended = method._ended(state, thinking, likeliest, steps, closing.ids)
            latent = thinking & ~ended
            ending, going_on = torch.stack([ended.sum(), latent.sum()]).tolist()
            if ending:
                if closing.ids:
                    tokens = torch.where(ended, closing.ids[0], tokens)
                    for row in ended.nonzero()[:, 0].tolist():
                        forced.queue(row, closing.ids[1:])
                answering = answering | ended
            steps = steps + latent
            # 3. Record and commit.
            if state.trace is not None:
                shown = method._shown(probabilities, ids)
                weights = torch.where(latent[:, None], shown[1], torch.nan)
                state.record(tokens, entropy_of(logits), mode=latent.long(), candidates=(shown[0], weights))
            if going_on:
                state.cost.count("latent_steps", going_on)
                if watch is not None:
                    watch(scores, probabilities, ids, latent)
            state.commit(tokens)
            if method.max_answer_tokens is not None:
                answered = answered + (answering & ~ended & ~forced.speaking)
                state.stop(answered >= method.max_answer_tokens)
            if state.done:
                return
            # 4. Feed.
            if going_on:
                embedded = state.embed(tokens)
                if hidden:
                    assert state.hidden is not None
                    vectors = state.hidden[:, -1]
                else:
                    vectors = state.mix(probabilities, ids)
                embedded = torch.where(latent[:, None], vectors.to(embedded.dtype), embedded)
                logits = state.feed(embeddings=embedded[:, None], hidden_states=hidden)[:, -1]
            else:
                logits = state.feed(tokens, hidden_states=hidden)[:, -1]

    def superposition(
        self, scores: torch.Tensor, likeliest: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Probabilities and ids [batch, k], or over the whole vocabulary and None, with the noise that is asked for.

        Args:
            scores: [batch, vocab].
            likeliest: their argmax [batch], which of equal scores is the first.
            generator: of the noise.
        """
        assert self.top_k is not None
        if self.top_k == 1:
            return torch.ones_like(scores[:, :1]), likeliest[:, None]
        probabilities, ids = superposition(scores, self.top_k)
        if self.gumbel_scale:
            # Paper: as in training the scaled noise is cut; here, as in the authors' inference: it is not.
            probabilities = gumbel(probabilities, scale=self.gumbel_scale, generator=generator)
        return probabilities, ids

    def _ended(
        self,
        state: DecodingState,
        thinking: torch.Tensor,
        likeliest: torch.Tensor,
        steps: torch.Tensor,
        close: tuple[int, ...],
    ) -> torch.Tensor:
        """Rows whose chain ends in the place of this step, bool [batch]."""
        over = torch.zeros_like(thinking)
        if self.max_latent_steps is not None:
            over = thinking & (steps >= self.max_latent_steps)
        if not close:
            return over
        begins = thinking & ~over & (likeliest == close[0])
        if self.stop == "whole" and len(close) > 1 and bool(begins.any()):
            rows = begins.nonzero()[:, 0]
            ahead = torch.tensor(close, device=state.device)
            copied = state.fork(1, rows)
            said = copied.feed(ahead[:-1].expand(len(rows), -1)).argmax(-1)  # [rows, ids - 1]
            copied.close()
            begins = begins.index_put((rows,), (said == ahead[1:]).all(-1))
        return over | begins

    def _shown(self, probabilities: torch.Tensor, ids: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and weights [batch, n] of the heaviest tokens of each superposition, the heaviest first."""
        weights, places = probabilities.topk(min(_SHOWN, probabilities.shape[-1]), dim=-1)
        return places if ids is None else ids.gather(1, places), weights

    def _answer_processors(self, processors: LogitsProcessorList, do_sample: bool) -> LogitsProcessorList:
        if not do_sample:
            return processors
        tempered = hf.TemperatureLogitsWarper(float(self.temperature))
        return LogitsProcessorList([*processors, tempered, hf.TopPLogitsWarper(float(self.top_p))])
