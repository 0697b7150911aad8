"""EAD: entropy adaptive decoding, dynamic switching between a small and a large model.

Simonds, "Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference", 2025, arXiv 2502.06833.

Two models of one family with one tokenizer. The rolling mean of the next-token entropy decides which of them writes:

    H_t    = -sum_v p_t[v] log2 p_t[v]          bits, of the active model, raw logits at temperature 1
    Hbar_t = mean of the last w entropies
    M_t+1  = large if Hbar_t >= tau, small if Hbar_t < tau       when the model has written d_min tokens; else M_t

Nothing is verified: the text may differ from the large model's. Each model keeps a cache of its own; a model that
takes over first reads, in one forward, every token that it has not seen. The paper counts the tokens that the large
model *writes*; both that and the tokens that it really *reads* are in the cost's counters.

Inferred, where the paper is silent (all are options): the small model starts; the window is kept over a switch and
averages what there is at first; H_t is that of the distribution from which token t is drawn, and governs token t + 1.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.method import Method, row_streams
from szilard.decoding.plain import plain_decode
from szilard.decoding.state import DecodingState
from szilard.information import entropy
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

SMALL, LARGE = 0, 1


@dataclass(frozen=True)
class Ead(Method):
    """Hand generation to a larger model while the rolling entropy is high.

    Attributes:
        threshold: tau in `units`; the dial between the small model (inf) and the large one (0). The paper sweeps it;
            1 bit is a start. `Ead.calibrate` finds the value for a wanted share of the large model.
        large: the large model: an engine, a transformers model, or a name for `szilard.load` (loaded with the small
            model's kind of engine). It must share the small model's tokenizer.
        window: w, entropies in the rolling mean; 1 decides on the last one alone.
        min_duration: d_min, tokens that a model writes before it may be replaced.
        start: the model that begins, "small" or "large".
        units: of the threshold, "bits" (paper) or "nats".
        reset_window: forget the entropies at a switch.
        control: "entropy", or "random": at every step at which a switch is allowed, switch with the probabilities
            `switch_up` and `switch_down` (set them to the rates of an entropy-driven run for the same share and run
            lengths).
        switch_up: probability of small -> large at random.
        switch_down: probability of large -> small at random.
        seed: of the random switches; every prompt has its own.
    """

    slug: ClassVar[str] = "ead"
    paper: ClassVar[str] = "Simonds 2025, arXiv 2502.06833"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "fork"})

    threshold: float = 1.0
    large: str | object | None = None
    window: int = 5
    min_duration: int = 10
    start: str = "small"
    units: str = "bits"
    reset_window: bool = False
    control: str = "entropy"
    switch_up: float = 0.1
    switch_down: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0)
        check_number("window", self.window, low=1, integer=True)
        check_number("min_duration", self.min_duration, low=1, integer=True)
        check_choice("start", self.start, ("small", "large"))
        check_choice("units", self.units, ("bits", "nats"))
        check_bool("reset_window", self.reset_window)
        check_choice("control", self.control, ("entropy", "random"))
        check_number("switch_up", self.switch_up, low=0, high=1)
        check_number("switch_down", self.switch_down, low=0, high=1)
        check_number("seed", self.seed, low=0, high=2**63 - 1, integer=True)

    @classmethod
    def neutral(cls) -> Ead:
        """The small model alone."""
        return cls(threshold=math.inf)

    @classmethod
    def calibrate(
        cls,
        small: Engine,
        large: Any,
        prompts: Sequence[Any],
        *,
        target_large_share: float = 0.3,
        runs: int = 6,
        low: float = 0.0,
        high: float = 4.0,
        max_new_tokens: int = 128,
        generate: dict[str, Any] | None = None,
        **options: Any,
    ) -> float:
        """The threshold at which the large model writes about this share of the tokens (ours, by bisection).

        Args:
            small, large: the pair, as in `generate` and `large`.
            prompts: texts like those to come.
            target_large_share: wanted share, 0..1.
            runs: halvings of the range; each generates for all prompts.
            low, high: range to search, in units of the threshold.
            max_new_tokens: per prompt.
            generate: further arguments of `Engine.generate` (raw, stop, ...).
            options: further hyperparameters of the method.

        Returns:
            Of the tried thresholds, the one whose share came closest. The share falls with the threshold only on
            average, so the result is as good as the prompts are many.
        """
        check_number("target_large_share", target_large_share, low=0, high=1)
        check_number("runs", runs, low=1, integer=True)
        if not prompts:
            raise ValueError("prompts is empty: give some texts like those to come.")
        best = (math.inf, low)
        for _ in range(runs):
            threshold = (low + high) / 2
            method = cls(threshold=threshold, large=large, **options)
            written = total = 0
            for prompt in prompts:
                result = small.generate(prompt, method, max_new_tokens=max_new_tokens, trace=False, **(generate or {}))
                written += round(result.cost.counters["large_share"] * len(result.tokens))
                total += len(result.tokens)
            share = written / total
            best = min(best, (abs(share - target_large_share), threshold))
            if share > target_large_share:
                low = threshold
            else:
                high = threshold
        return best[1]

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing large model, or one with another tokenizer."""
        if self._never_switches:
            return
        if self.large is None:
            raise ValueError("ead needs a second model: large='path or name' (or an engine), with the same tokenizer.")
        from szilard.engines.loading import find
        from szilard.engines.pair import check_same_tokenizer, second_engine

        if engine is not None:
            check_same_tokenizer(engine, second_engine(self.large, engine.kind))
        elif isinstance(self.large, str):
            find(self.large)

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The large model by its name and weights."""
        if self._never_switches:
            return self.changed_options()
        from szilard.engines.pair import second_engine

        large = second_engine(self.large, engine.kind)
        return self.changed_options() | {"large": f"{large.name}, {large.fingerprint}"}

    @property
    def _never_switches(self) -> bool:
        return self.start == "small" and self.threshold == math.inf and self.control == "entropy"

    def with_assistant(self, model: Any) -> Ead:
        """`assistant_model` of transformers' `generate` is the large model, unless one was given."""
        return replace(self, large=model) if model is not None and self.large is None else self

    def decode(self, state: DecodingState) -> None:
        """The switching loop; model, window and stay are per row. `state` is the small model's."""
        if self._never_switches:
            plain_decode(state)  # never switches: the large model is not even opened
            state.cost.counters |= {"large_share": 0.0, "switches": 0, "catch_up_tokens": 0}
            return
        self.check()
        if state.prompt_width == 0:
            raise ValueError("ead needs the prompt as token ids, which both models can read; it came as embeddings.")
        from szilard.engines.pair import companion

        other = companion(self.large, state)
        readers = (_Reader(state.fork(1)), _Reader(other))
        try:
            self._switching_loop(state, readers)
        finally:
            for reader in readers:
                reader.close()
            other.close()

    def _switching_loop(self, state: DecodingState, readers: tuple[_Reader, _Reader]) -> None:
        batch, cost = state.batch_size, state.cost
        streams = row_streams(self.seed, state) if self.control == "random" else [None] * batch
        switches = [_Switch(self, stream) for stream in streams]
        vocab = min(reader.template.vocab_size for reader in readers)
        written = [0, 0]
        prompt_lengths = state.prompt_mask.sum(1).tolist()
        cost.start()
        while True:
            open_rows = [row for row, finished in enumerate(state.finished.tolist()) if not finished]
            logits: torch.Tensor | None = None
            for model, reader in enumerate(readers):
                rows = [row for row in open_rows if switches[row].model == model]
                reader.leave_all_but(rows, open_rows)
                if not rows:
                    continue
                scored = reader.read(rows, state, prompt_lengths)[:, :vocab].float()
                if logits is None:
                    if len(rows) == batch:
                        logits = scored
                        continue
                    logits = scored.new_zeros(batch, vocab)
                logits[rows] = scored.to(logits.device)
            assert logits is not None
            uncertainty = entropy(logits)
            tokens = state.choose(logits)
            before = [switch.model for switch in switches]
            bits = uncertainty.tolist() if self.units == "nats" else (uncertainty / math.log(2)).tolist()
            for row in open_rows:
                written[before[row]] += 1
                switches[row].after_token(bits[row])
            if state.trace is not None:
                state.record(
                    tokens,
                    uncertainty,
                    model=torch.tensor(before),
                    rolling_entropy=torch.tensor([switch.mean for switch in switches]),
                    switched=torch.tensor([switch.model != was for switch, was in zip(switches, before, strict=True)]),
                )
            state.commit(tokens)
            if state.done:
                break
        share = written[LARGE] / sum(written)
        small, large = (reader.template.size.layer_parameters for reader in readers)
        cost.counters |= {
            "large_share": share,
            "relative_cost": share + (1 - share) * small / large,
            "large_tokens_written": written[LARGE],
            "switches": sum(switch.switches for switch in switches),
            "decisions_small": sum(switch.decisions[SMALL] for switch in switches),
            "decisions_large": sum(switch.decisions[LARGE] for switch in switches),
            "switches_up": sum(switch.changes[SMALL] for switch in switches),
            "switches_down": sum(switch.changes[LARGE] for switch in switches),
            "catch_up_tokens": sum(reader.catch_up_tokens for reader in readers),
        }


class _Switch:
    """Who writes a row, and the rolling entropy that decides it."""

    def __init__(self, method: Ead, chance: torch.Generator | None) -> None:
        self.method = method
        self.model = LARGE if method.start == "large" else SMALL
        self.mean = math.nan
        self.switches = 0
        self.decisions, self.changes = [0, 0], [0, 0]  # steps that could switch, and did, by the model then active
        self._window: deque[float] = deque(maxlen=method.window)
        self._written = 0  # c: tokens since the last change
        self._chance = chance

    def after_token(self, uncertainty: float) -> None:
        """Take the entropy under which a token was written; decides who writes the next."""
        method = self.method
        self._window.append(uncertainty)
        self.mean = sum(self._window) / len(self._window)
        self._written += 1
        if self._written < method.min_duration:
            return
        self.decisions[self.model] += 1
        if self._chance is not None:
            rate = method.switch_up if self.model == SMALL else method.switch_down
            change = float(torch.rand((), generator=self._chance)) < rate
        else:
            change = (LARGE if self.mean >= method.threshold else SMALL) != self.model
        if change:
            self.changes[self.model] += 1
            self.model = 1 - self.model
            self._written = 0
            self.switches += 1
            if method.reset_window:
                self._window.clear()


class _Reader:
    """One model's caches: the rows that it is writing together, and, one by one, those that it has left behind."""

    def __init__(self, template: DecodingState) -> None:
        self.template = template  # all rows, nothing in the cache
        self.rows: list[int] = []
        self.running: DecodingState | None = None
        self.parked: dict[int, DecodingState] = {}
        self.catch_up_tokens = 0

    def leave_all_but(self, rows: list[int], open_rows: list[int]) -> None:
        """Park the rows that this model no longer writes; finished ones are let go."""
        for row in [row for row in self.parked if row not in open_rows]:
            self.parked.pop(row).close()
        if self.running is None or all(row in rows for row in self.rows):
            return
        stay = [index for index, row in enumerate(self.rows) if row in rows]
        if not stay and len(self.rows) == 1 and self.rows[0] in open_rows:
            self.parked[self.rows[0]] = self.running
            self.running, self.rows = None, []
            return
        for index, row in enumerate(self.rows):
            if index not in stay and row in open_rows:
                self.parked[row] = self.running.fork(1, torch.tensor([index]))
        if stay:
            self.running.select(torch.tensor(stay))
            self.rows = [self.rows[index] for index in stay]
        else:
            self.running.close()
            self.running, self.rows = None, []

    def read(self, rows: list[int], text: DecodingState, prompt_lengths: list[int]) -> torch.Tensor:
        """Logits [rows, vocab] after the committed text of these rows; feeds what this model has not seen of it."""
        if rows == self.rows:
            assert self.running is not None
            return self.running.feed(text.tokens[rows, -1:].to(self.running.device))[:, -1]
        generated = text.generated.tolist()
        found: dict[int, torch.Tensor] = {}
        entering: list[tuple[list[int], DecodingState]] = []
        if self.rows:
            assert self.running is not None
            logits = self.running.feed(text.tokens[self.rows, -1:].to(self.running.device))[:, -1]
            found |= dict(zip(self.rows, logits, strict=True))
        fresh = [row for row in rows if row not in self.rows and row not in self.parked]
        if fresh:  # rows that are open have written equally much
            state, missing = self.template.fork(1, torch.tensor(fresh)), generated[fresh[0]]
            logits = state.prefill(text.tokens[fresh, -missing:].to(state.device) if missing else None)
            found |= dict(zip(fresh, logits, strict=True))
            self.catch_up_tokens += len(fresh) * max(missing - 1, 0)
            entering.append((fresh, state))
        for row in [row for row in rows if row in self.parked]:
            state = self.parked.pop(row)
            missing = prompt_lengths[row] + generated[row] - int(state.cached[0])
            found[row] = state.feed(text.tokens[row : row + 1, -missing:].to(state.device), only_last=True)[0, -1]
            self.catch_up_tokens += missing - 1
            entering.append(([row], state))
        for joining, state in entering:
            if self.running is None:
                self.running = state
            else:
                self.running.join(state)
            self.rows = [*self.rows, *joining]
        if self.rows != rows:  # in the order of the batch, as the next reads will want them
            assert self.running is not None
            self.running.select(torch.tensor([self.rows.index(row) for row in rows]))
            self.rows = list(rows)
        return torch.stack([found[row] for row in rows])

    def close(self) -> None:
        """Give all caches back."""
        for state in (self.running, *self.parked.values()):
            if state is not None:
                state.close()
        self.running, self.parked, self.rows = None, {}, []
