"""LEAD: Latent Entropy-Aware Decoding.

Xu, Wang, Qian, Shi, ..., Ge, "Thinking in Uncertainty: Mitigating Hallucinations in MLRMs with Latent Entropy-Aware
Decoding", CVPR 2026, arXiv 2603.13366. Reference code: mlrm-LEAD/mlrm-LEAD (MIT).

While the next token is uncertain, the model is fed the probability-weighted mixture of all token embeddings, which
keeps several hypotheses alive; at the first step of such a stretch a visual anchor is blended in; when the entropy
falls again it goes back to ordinary tokens. With p_t = softmax(z_t) over the full vocabulary at temperature 1:

    (3) latent embedding   e~_t = sum_v p_t[v] e(v)                                            [batch, hidden]
    (4) entropy            H_t = -sum_v p_t[v] ln p_t[v]                                       nats
    (6) latent -> discrete when H_t < H^
    (7) discrete -> latent when H_t > H^ and at least W steps were spent discrete
    (8) on a change        H^ <- H_t, steps in the mode <- 0
    (9) first latent step  e~_t = (1 - lambda) sum_v p_t[v] e(v) + lambda e_vis

Every step emits the ordinarily chosen token; in latent steps the model just does not see it. One forward per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from szilard.decoding.latent import (
    CANDIDATES_SHOWN,
    ForcedTokens,
    Marker,
    anchor_vector,
    structural_token_mask,
    token_ids,
)
from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.information import entropy
from szilard.options import check_bool, check_choice, check_ids, check_number


@dataclass(frozen=True)
class Lead(Method):
    """Latent entropy-aware decoding, with the paper's constants; `Lead.released()` has those of the authors' code.

    Attributes:
        anchor_strength: lambda in (9), 0..1. (The released code's flag is alpha_0 = 1 - lambda.)
        window: W, steps to stay discrete before thinking latently again; `inf` for never again.
        max_switches: C_max. At a latent -> discrete switch number C >= C_max the end of thinking is forced; at
            C > 2 C_max also `answer_prefix`, and the row answers, discretely, within `answer_budget`. None: no bound.
        enter_entropy: latent mode is entered only above this entropy (nats), on top of (7). Released code: 1.0.
        exit_entropy: latent mode is left only below this entropy (nats), on top of (6). Released code: 0.2.
        initial_mode: the mode of the first step, "latent" or "discrete".
        threshold: "dynamic" for H^ of (8), or a constant H^ in nats (0: always latent, inf: always discrete), which
            also decides the first step; with window=0 it is the paper's Fig. 5.
        anchor: e_vis. "auto": mean input embedding of the model's visual special tokens, none for a text model;
            "image": the image placeholder's alone (released code); or text, token ids, a vector [hidden], or None.
        anchor_first_phase: anchor the stretch that decoding starts with, too.
        anchor_decay: lambda falls linearly to 0 over max_new_tokens (released code).
        closing_mix: beta_0. The first discrete step feeds beta_t e~_t + (1 - beta_t) e(end_of_thinking), beta_t rising
            from beta_0 to 1 over max_new_tokens (released code 0.7); 0, or no marker: the token itself (paper). For a
            marker of several tokens e is the mean of their embeddings (inferred).
        structural_tokens: tokens fed as themselves even in latent mode: None, "math", or a set of ids.
        end_of_thinking: text or ids of the marker after which a row stays discrete; None when there is none. A prompt
            that ends with it (thinking switched off by the chat template) is discrete from the start.
        answer_prefix: text forced after the marker when the bound is passed twice.
        answer_budget: B; of the steps from that switch on, itself included, B are left.
    """

    slug: ClassVar[str] = "lead"
    paper: ClassVar[str] = "Xu et al., CVPR 2026, arXiv 2603.13366"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "embeddings_in"})

    anchor_strength: float = 0.4
    window: int | float = 128
    max_switches: int | None = 5
    enter_entropy: float = -math.inf
    exit_entropy: float = math.inf
    initial_mode: str = "latent"
    threshold: float | str = "dynamic"
    anchor: str | Sequence[int] | torch.Tensor | None = "auto"
    anchor_first_phase: bool = False
    anchor_decay: bool = False
    closing_mix: float = 0.0
    structural_tokens: str | Sequence[int] | frozenset[int] | None = None
    end_of_thinking: str | Sequence[int] | None = "</think>"
    answer_prefix: str = "\n\nThe final answer is"
    answer_budget: int = 32

    def __post_init__(self) -> None:
        check_number("anchor_strength", self.anchor_strength, low=0, high=1)
        check_number("window", self.window, low=0)
        check_number("max_switches", self.max_switches, low=0, integer=True, optional=True)
        check_number("enter_entropy", self.enter_entropy)
        check_number("exit_entropy", self.exit_entropy)
        check_choice("initial_mode", self.initial_mode, ("latent", "discrete"))
        if self.threshold != "dynamic":
            if isinstance(self.threshold, str):
                raise ValueError(f"threshold must be 'dynamic' or a number of nats, not {self.threshold!r}.")
            check_number("threshold", self.threshold, low=0)
        check_bool("anchor_first_phase", self.anchor_first_phase)
        check_bool("anchor_decay", self.anchor_decay)
        check_number("closing_mix", self.closing_mix, low=0, high=1)
        if isinstance(self.structural_tokens, str) and self.structural_tokens != "math":
            raise ValueError(f"structural_tokens must be None, 'math' or token ids, not {self.structural_tokens!r}.")
        if not isinstance(self.answer_prefix, str):
            raise TypeError(f"answer_prefix must be text, not {self.answer_prefix!r}.")
        check_number("answer_budget", self.answer_budget, low=1, integer=True)
        for name in ("anchor", "structural_tokens", "end_of_thinking"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and not (name == "anchor" and torch.is_tensor(value)):
                object.__setattr__(self, name, check_ids(name, value))
        if torch.is_tensor(self.anchor) and not bool(self.anchor.isfinite().all()):
            raise ValueError("anchor must be a vector of finite numbers.")

    @classmethod
    def neutral(cls) -> Lead:
        """Never latent: discrete from the start, and no entropy is high enough to leave."""
        return cls(initial_mode="discrete", enter_entropy=math.inf)

    @classmethod
    def released(cls) -> Lead:
        """The constants of the authors' code; sampling (0.6, top-p 0.95, top-k 20 there) stays with the run.

        Left out: its mix of the two-character token backslash-n into step 0. Differs: an anchor that falls on a
        structural token is kept for the next latent step, where the code loses it.
        """
        return cls(
            window=256,
            enter_entropy=1.0,
            exit_entropy=0.2,
            anchor="image",
            anchor_decay=True,
            closing_mix=0.7,
            structural_tokens="math",
        )

    def decode(self, state: DecodingState) -> None:
        """The switching loop; all of its state is per row."""
        marker = Marker(state, self.end_of_thinking, name="end_of_thinking")
        structural = structural_token_mask(state, self.structural_tokens)
        anchor = anchor_vector(state, self.anchor) if self.anchor_strength > 0 else None
        closing = self._closing_vector(state, marker) if self.closing_mix > 0 else None
        switch = ModeSwitch(self, state)
        regulation = _Regulation(self, state, marker)
        anchor_due = torch.full_like(state.finished, self.anchor_first_phase)
        locked = marker.ends_prompt(state)
        step = 0

        logits = state.prefill()  # [batch, vocab]
        while True:
            # 1. How uncertain is the next token? Full vocabulary, temperature 1, no processors.
            uncertainty = entropy(logits)
            # 2. The token of the text, by the ordinary rule.
            tokens = state.pad(regulation.forced.override(state.choose(logits)))
            locked = locked | regulation.ended | marker.completed_by(tokens, state)
            # 3. The gates; a switch already governs this step's embedding. Forced text is fed as it is.
            to_latent, to_discrete = switch.step(uncertainty, locked | regulation.forced.speaking)
            anchor_due = (anchor_due | to_latent) & switch.latent
            # 4. What the model is fed in the token's place.
            latent = switch.latent & ~state.finished
            if structural is not None:
                latent = latent & ~structural[tokens.clamp(max=structural.shape[0] - 1)]
            closes = to_discrete & ~state.finished if closing is not None else None
            mixing = latent if closes is None else latent | closes
            over = regulation.over(to_discrete & ~locked, switch.switches)
            any_mixing, all_mixing, any_over = torch.stack([mixing.any(), mixing.all(), over.any()]).tolist()
            embeddings = candidates = None
            anchored = torch.zeros_like(latent)
            if any_mixing:
                rows = None if all_mixing else mixing.nonzero()[:, 0]
                wide = torch.promote_types(logits.dtype, torch.float32)
                probabilities = torch.softmax(logits if rows is None else logits[rows], dim=-1, dtype=wide)
                mixture = state.mix(probabilities)  # [rows, hidden]
                if anchor is not None:
                    # Paper: the anchor enters at the switching step; here: at the first step of the stretch that is
                    # really fed latently, because a structural token at the switch would lose it.
                    anchored = anchor_due & latent
                    strength = self._annealed(self.anchor_strength, step, state)
                    blended = (1 - strength) * mixture + strength * anchor
                    mixture = torch.where(_of(anchored, rows)[:, None], blended, mixture)
                    anchor_due = anchor_due & ~anchored
                if closes is not None and closing is not None:
                    beta = 1 - self._annealed(1 - self.closing_mix, step, state, always=True)
                    mixture = torch.where(_of(closes, rows)[:, None], beta * mixture + (1 - beta) * closing, mixture)
                if rows is None:
                    embeddings = mixture
                else:
                    embeddings = state.embed(tokens).to(mixture.dtype).index_copy(0, rows, mixture)
                if state.trace is not None:
                    candidates = self._candidates(probabilities, rows, latent)
            # 5. Too many switches: put the end of thinking, or the answer's beginning, into the text.
            over_budget = regulation.step(over if any_over else None, switch.switches)
            # 6. Commit, and feed.
            if state.trace is not None:
                state.record(
                    tokens,
                    uncertainty,
                    mode=latent.long(),
                    switched=to_latent | to_discrete,
                    reference=switch.reference,
                    anchored=anchored,
                    switches=switch.switches,
                    stay=switch.stay,
                    candidates=candidates,
                )
            state.commit(tokens)
            if over_budget is not None:
                state.stop(over_budget)
            if state.done:
                return
            if embeddings is None:
                logits = state.feed(tokens)[:, -1]
            else:
                logits = state.feed(embeddings=embeddings[:, None])[:, -1]
            step += 1

    def _candidates(
        self, probabilities: torch.Tensor, rows: torch.Tensor | None, latent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and weights [batch, k] of the likeliest tokens in each mixture; NaN where a row's step is discrete."""
        weights, ids = probabilities.topk(min(CANDIDATES_SHOWN, probabilities.shape[-1]), dim=-1)
        if rows is not None:
            shape = (latent.shape[0], ids.shape[1])
            ids = ids.new_zeros(shape).index_copy(0, rows, ids)
            weights = weights.new_zeros(shape).index_copy(0, rows, weights)
        return ids, torch.where(latent[:, None], weights, torch.nan)

    def _annealed(self, strength: float, step: int, state: DecodingState, always: bool = False) -> float:
        """`strength`, or with decay `strength` (1 - t / T_max)."""
        if not (self.anchor_decay or always) or not state.max_new_tokens:
            return strength
        return strength * (1 - step / state.max_new_tokens)

    def _closing_vector(self, state: DecodingState, marker: Marker) -> torch.Tensor | None:
        """e(end_of_thinking), [hidden]; the mean of its rows when the marker is several tokens (inferred)."""
        return anchor_vector(state, marker.ids) if marker.ids else None


def _of(mask: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return mask if rows is None else mask[rows]


class ModeSwitch:
    """Equations (6)-(8): the mode of every row, the entropy at its last change, and the steps since."""

    def __init__(self, method: Lead, state: DecodingState) -> None:
        self.method = method
        shape, device = (state.batch_size,), state.device
        self.latent = torch.full(shape, method.initial_mode == "latent", device=device)
        self.reference = torch.zeros(shape, device=device)  # H^
        self.stay = torch.zeros(shape, dtype=torch.long, device=device)  # rho
        self.switches = torch.zeros(shape, dtype=torch.long, device=device)  # C, counts latent -> discrete
        self._first = True

    def step(self, entropy: torch.Tensor, locked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Advance by one step; returns which rows switched (to latent, to discrete), bool [batch] each."""
        method, never = self.method, torch.zeros_like(self.latent)
        constant = isinstance(method.threshold, (int, float))
        if self._first:
            self._first = False
            self.reference = torch.full_like(entropy, method.threshold) if constant else entropy.clone()  # type: ignore[arg-type]
            if constant:  # Paper, Fig. 5: inf is plain decoding, so the first step obeys the threshold, too.
                self.latent = self.latent & ~(entropy < self.reference)
            self.latent = self.latent & ~locked
            return never, never
        # The steps are counted before the test, so discrete -> latent is possible at exactly W steps (released code).
        self.stay = self.stay + 1
        to_discrete = self.latent & (entropy < self.reference) & (entropy < method.exit_entropy)
        to_latent = (
            ~self.latent
            & ~locked
            & (entropy > self.reference)
            & (entropy > method.enter_entropy)
            & (self.stay >= method.window)
        )
        changed = to_discrete | to_latent
        self.latent = (self.latent ^ changed) & ~locked
        self.stay = torch.where(changed, 0, self.stay)
        self.switches = self.switches + to_discrete
        if not constant:
            self.reference = torch.where(changed, entropy, self.reference)
        return to_latent, to_discrete


class _Regulation:
    """C_max: which tokens a row that switched too often is made to say, and when it must end."""

    def __init__(self, method: Lead, state: DecodingState, marker: Marker) -> None:
        self.method = method
        self.state = state
        self.marker = marker
        self.forced = ForcedTokens(state)
        self.ended = torch.zeros_like(state.finished)  # rows that were told to answer: discrete from here on
        self._left = torch.zeros(state.batch_size, dtype=torch.long, device=state.device)  # steps they have
        self._prefix = token_ids(state, method.answer_prefix, name="answer_prefix")

    def over(self, to_discrete: torch.Tensor, switches: torch.Tensor) -> torch.Tensor:
        """Of the rows that just switched, those that have now switched too often, bool [batch]."""
        if self.method.max_switches is None:
            return torch.zeros_like(to_discrete)
        return to_discrete & (switches >= self.method.max_switches) & ~self.state.finished & ~self.ended

    def step(self, over: torch.Tensor | None, switches: torch.Tensor) -> torch.Tensor | None:
        """Queue what the rows that are `over` must say; returns the rows whose budget ends here, or None."""
        if over is not None:
            assert self.method.max_switches is not None
            for row in over.nonzero()[:, 0].tolist():
                # Without a tokenizer there is no text to force, and a row is not cut off in the middle of a thought.
                terminate = int(switches[row]) > 2 * self.method.max_switches and bool(self._prefix)
                self.forced.queue(row, self.marker.ids + (self._prefix if terminate else ()))
                if terminate:
                    self.ended[row] = True
                    self._left[row] = self.method.answer_budget
                    self._any_ended = True
        if not self._any_ended:
            return None
        self._left = self._left - 1
        return self.ended & (self._left == 0)

    _any_ended = False
