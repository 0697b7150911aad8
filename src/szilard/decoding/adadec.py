"""AdaDec: adaptive decoding with uncertainty guidance, for code generation.

He, Liu, Wang, Li, Wang, Peng, Zheng, "Towards Better Code Generation: Adaptive Decoding with Uncertainty Guidance",
2025, arXiv 2506.08980. Reference code: SYSUSELab/AdaDec (MIT).

Decode greedily; where the entropy of the next token reaches a learned threshold tau, pause: continue each of the B
likeliest tokens greedily for up to L tokens, and emit the candidate whose continuation is the likeliest on average.

    H_t  = -sum_v p_t[v] ln p_t[v]                                                             nats; pause if H_t >= tau
    s_i  = (ln p(c_i | x) + sum_{j=1..L_i} ln p(g_ij | x, c_i, g_i<j)) / (L_i + 1)             mean log-probability
    x_t  = c_argmax(s)                                                                         the lookahead is dropped

A lookahead is one batched pass over all candidates of all paused rows per step, on a fork of the state: B rows, L
sequential forwards. Its winner's forwards are not repeated: while the following steps stay below the threshold, they
are what greedy decoding would compute next (one row at a time, greedy runs only; same output).

Deviations: a candidate whose continuation ends early stops adding log-probabilities, too (the released loop goes on
adding while the length stands still); end of text, the run's stopping criteria and its length limit end a lookahead;
processors of the run act on candidates and lookahead, so a banned token is never chosen, while the entropy is measured
on the raw logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.adadec_threshold import ThresholdFit
from szilard.decoding.method import Method, row_streams
from szilard.decoding.plain import plain_decode
from szilard.decoding.state import DecodingState
from szilard.decoding.warpers import without_warpers
from szilard.information import entropy
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

# Thresholds that the authors learned (nats), for the models' own prompts and full-precision weights.
PUBLISHED_THRESHOLDS = {
    "deepseek-ai/deepseek-coder-1.3b-instruct": 0.985025,
    "deepseek-ai/deepseek-coder-6.7b-instruct": 1.133754,
    "stabilityai/stable-code-3b": 1.100469,
    "codellama/CodeLlama-7b-hf": 1.9353,
    "Qwen/Qwen3-0.6B": 1.321288,
    "Qwen/Qwen3-1.7B": 0.615292,
    "Qwen/Qwen3-4B": 0.713369,
    "Qwen/Qwen3-8B": 0.705955,
}


@dataclass(frozen=True)
class AdaDec(Method):
    """Adaptive decoding: greedy, with a look ahead at uncertain tokens.

    Attributes:
        threshold: tau in nats; steps with at least this entropy pause (inf: never). A number, the path of a file that
            `szilard train adadec` wrote for this model, or the hub id of a model whose threshold the authors published.
            There is no default: it depends on the model, its quantisation and the style of the prompts.
        candidates: B, tokens that are tried at a pause; 1 is greedy decoding.
        lookahead: L, tokens by which each is continued; 0 is greedy decoding.
        dynamic: the variant of the first versions: look ahead to the end of the line, at most `max_lookahead` tokens.
        max_lookahead: L_max of the dynamic variant.
        reuse_lookahead: take the winner's forwards over instead of repeating them. Same output, fewer forwards.
        pause: "entropy", or a control: "random" pauses at `random_rate` of the steps, "always" at every one.
        random_rate: share of the steps that pause at random.
        seed: of the random pauses; every prompt has its own.
    """

    slug: ClassVar[str] = "adadec"
    paper: ClassVar[str] = "He et al. 2025, arXiv 2506.08980"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "fork"})

    threshold: float | str | None = None
    candidates: int = 3
    lookahead: int = 5
    dynamic: bool = False
    max_lookahead: int = 10
    reuse_lookahead: bool = True
    pause: str = "entropy"
    random_rate: float = 0.07
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold is not None and not isinstance(self.threshold, str):
            check_number("threshold", self.threshold, low=0)
        check_number("candidates", self.candidates, low=1, integer=True)
        check_number("lookahead", self.lookahead, low=0, integer=True)
        check_bool("dynamic", self.dynamic)
        check_number("max_lookahead", self.max_lookahead, low=1, integer=True)
        check_bool("reuse_lookahead", self.reuse_lookahead)
        check_choice("pause", self.pause, ("entropy", "random", "always"))
        check_number("random_rate", self.random_rate, low=0, high=1)
        check_number("seed", self.seed, low=0, high=2**63 - 1, integer=True)

    @classmethod
    def neutral(cls) -> AdaDec:
        """Never pause."""
        return cls(threshold=math.inf)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing threshold."""
        self.resolved_threshold(engine)

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The threshold as a number."""
        if self.pause != "entropy":
            return self.changed_options()
        return self.changed_options() | {"threshold": self.resolved_threshold()}

    def resolved_threshold(self, engine: Engine | None = None) -> float:
        """tau as a number.

        Args:
            engine: on which it is to run; None: not looked at.

        Raises:
            ValueError: none was given, the file or model id is unknown, or the file belongs to another model.
        """
        if self.pause != "entropy":
            return -math.inf
        if self.threshold is None:
            raise ValueError(
                "adadec needs a threshold, which is learned per model: run `szilard train adadec --model ... --task "
                "mbpp -o threshold.json` and give threshold='threshold.json' (or a number of nats, or the hub id of a "
                f"model that the authors measured: {', '.join(PUBLISHED_THRESHOLDS)})."
            )
        if isinstance(self.threshold, str):
            if self.threshold in PUBLISHED_THRESHOLDS:
                return PUBLISHED_THRESHOLDS[self.threshold]
            fit = ThresholdFit.load(self.threshold)
            if engine is not None and not fit.belongs_to(engine):
                raise ValueError(
                    f"the threshold in {self.threshold!r} was learned for {fit.model}, not for {engine.name} as it is "
                    f"here: learn one for this model, or give the number (threshold={fit.threshold:.4f})."
                )
            return fit.threshold
        return float(self.threshold)

    def decode(self, state: DecodingState) -> None:
        """The greedy (or sampled) loop with its pauses; rows pause independently."""
        threshold = self.resolved_threshold()
        depth = self.max_lookahead if self.dynamic else self.lookahead
        processors = None if state.do_sample else without_warpers(state.logits_processor)
        if threshold == math.inf or self.candidates == 1 or depth == 0:
            plain_decode(state, processors=processors)
            return
        if self.dynamic and state.decode is None:
            raise ValueError("adadec with dynamic=True must see line ends in the text: give the model's tokenizer.")
        streams = row_streams(self.seed, state) if self.pause == "random" else []
        known: list[torch.Tensor] = []  # logits of the next steps that a lookahead has computed already

        logits = state.prefill()  # [batch, vocab]
        look = _Lookahead(self, state, depth)
        while True:
            uncertainty = entropy(logits)
            tokens = state.choose(logits, processors=processors)
            if streams:
                draws = torch.stack([torch.rand((), generator=stream) for stream in streams])
                paused = (draws < self.random_rate).to(state.device)
            else:
                paused = uncertainty >= threshold
            paused = paused & ~state.finished
            pausing = bool(paused.any())
            columns: dict[str, Any] = {}
            if pausing:
                rows = paused.nonzero()[:, 0]
                look.settle(pending=0)
                found = look.at(rows, logits)
                changed = torch.zeros_like(paused).index_copy(0, rows, tokens[rows] != found.winners)
                tokens = tokens.index_copy(0, rows, found.winners)
                known = found.known
                if state.trace is not None:
                    columns = look.columns(found, rows, changed)
                state.cost.count("changed", int(changed.sum()))
            if state.trace is not None:
                state.record(tokens, uncertainty, **(columns or look.columns(None, None, torch.zeros_like(paused))))
            state.commit(tokens)
            if state.done:
                state.cost.count("steps", int(state.generated.sum()))
                look.settle(pending=1)
                return
            if known:
                logits = known.pop(0)
                state.cost.count("reused_tokens")
            else:
                look.settle(pending=1)
                logits = state.feed(tokens)[:, -1]


@dataclass
class _Found:
    winners: torch.Tensor  # int64 [paused]
    candidates: torch.Tensor  # int64 [paused, B]
    scores: torch.Tensor  # s_i, float32 [paused, B]
    lengths: torch.Tensor  # L of the winners, int64 [paused]
    known: list[torch.Tensor]  # logits [1, vocab] after the winner and after each of its lookahead tokens


class _Lookahead:
    """Trying candidates on forks of a state."""

    def __init__(self, method: AdaDec, state: DecodingState, depth: int) -> None:
        self.method, self.state, self.depth = method, state, depth
        self.processors = without_warpers(state.logits_processor)
        # Only a lone greedy row says next what its lookahead said.
        self.reuse = method.reuse_lookahead and state.batch_size == 1 and not state.do_sample and state.can_rewind
        self._prompt_lengths = state.cached
        self._ahead = False  # whether the state's cache holds more than the committed text
        self.width = min(method.candidates, state.vocab_size)

    def at(self, rows: torch.Tensor, logits: torch.Tensor) -> _Found:
        """Choose the next token of `rows` (int64 [paused]) whose next-token logits are `logits` [batch, vocab]."""
        state, before = self.state, self.state.cost.total_forward_passes
        everyone = rows.shape[0] == state.batch_size
        fork = state.fork(self.width, None if everyone else rows)
        ahead = self._log_probabilities(state, logits)[rows]
        total, candidates = (part.flatten() for part in ahead.topk(self.width, dim=-1))
        first = candidates.view(-1, self.width)
        length = torch.zeros_like(candidates)
        fork.commit(candidates)
        self._end_at_line_ends(fork, candidates)
        tokens, steps = candidates, []
        for _ in range(self.depth):
            if fork.done:
                break
            alive = ~fork.finished
            raw = fork.feed(tokens, rewindable=self.reuse)[:, -1]
            likeliest, tokens = self._log_probabilities(fork, raw).max(dim=-1)
            total = total + torch.where(alive, likeliest, 0)
            length = length + alive
            if self.reuse:
                steps.append(raw)
            tokens = fork.pad(tokens)
            fork.commit(tokens)
            self._end_at_line_ends(fork, tokens)
        scores = (total / (length + 1)).view(-1, self.width)
        best = scores.argmax(dim=-1)
        chosen = torch.arange(rows.shape[0], device=rows.device) * self.width + best
        known = []
        if self.reuse and steps:
            winner = int(chosen[0])
            known = [raw[winner : winner + 1] for raw in steps[: int(length[winner])]]
            fork.select(chosen)
            state.adopt(fork)
            self._ahead = True
        else:
            fork.close()
        state.cost.count("pauses", rows.shape[0])
        state.cost.count("lookahead_tokens", int(length.sum()))
        state.cost.count("lookahead_forwards", state.cost.total_forward_passes - before)
        return _Found(first.gather(1, best[:, None])[:, 0], first, scores, length[chosen], known)

    def settle(self, *, pending: int) -> None:
        """Cut the cache of an adopted lookahead back to the committed text, the last `pending` tokens left out."""
        if self._ahead:
            self._ahead = False
            self.state.rewind(self._prompt_lengths + self.state.generated - pending)

    def columns(self, found: _Found | None, rows: torch.Tensor | None, changed: torch.Tensor) -> dict[str, Any]:
        """The trace's columns of a step; e^s_i (a mean probability) are the candidates' weights."""
        batch = changed.shape[0]
        paused, lengths = torch.zeros_like(changed), torch.zeros_like(changed, dtype=torch.long)
        ids = lengths[:, None].expand(batch, self.width)
        weights = torch.full((batch, self.width), torch.nan, device=changed.device)
        if found is not None and rows is not None:
            paused = paused.index_fill(0, rows, True)
            lengths = lengths.index_copy(0, rows, found.lengths)
            ids = ids.index_copy(0, rows, found.candidates)
            weights = weights.index_copy(0, rows, found.scores.exp().float())
        return {"paused": paused, "changed": changed, "lookahead": lengths, "candidates": (ids, weights)}

    def _log_probabilities(self, state: DecodingState, logits: torch.Tensor) -> torch.Tensor:
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=bool(self.processors))
        for processor in self.processors:
            scores = processor(state.tokens, scores)
        return torch.log_softmax(scores, dim=-1)

    def _end_at_line_ends(self, fork: DecodingState, tokens: torch.Tensor) -> None:
        if self.method.dynamic and not fork.done:
            assert fork.decode is not None
            ends = [bool("\n" in fork.decode([token])) for token in tokens.tolist()]
            fork.stop(torch.tensor(ends, device=tokens.device))
