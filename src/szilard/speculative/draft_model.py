"""A small draft model: what a second model of the same tokenizer would write next.

Leviathan, Kalman, Matias 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318. Greedy runs draft greedily;
sampled runs draw the drafts from the draft model's own distribution under the run's processors, and verify them by
rejection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.engines import step_profile
from szilard.engines.loading import find
from szilard.engines.pair import check_same_tokenizer, companion, second_engine
from szilard.options import check_choice, check_number
from szilard.speculative.budget import NodeBudget
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.tree import DraftTree, Proposal

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class DraftModel(Method):
    """Chains written by a small model. Lossless.

    Attributes:
        draft: the small model: an engine, a transformers model, or a name for `szilard.load` (loaded with the target's
            kind of engine). It must share the target's tokenizer.
        draft_tokens: tokens of a chain; 0: plain decoding.
        budget: "auto": draft only as many tokens as are worth their time, where `szilard doctor --profile` has measured
            what forwards of the models cost; "fixed": always all.
    """

    slug: ClassVar[str] = "draft-model"
    family: ClassVar[str] = "speculative"
    paper: ClassVar[str] = "Leviathan et al. 2022, arXiv 2211.17192"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "rewind"})

    draft: str | object | None = None
    draft_tokens: int = 5
    budget: str = "auto"

    def __post_init__(self) -> None:
        check_number("draft_tokens", self.draft_tokens, low=0, integer=True)
        check_choice("budget", self.budget, ("auto", "fixed"))

    @classmethod
    def neutral(cls) -> DraftModel:
        """No drafts."""
        return cls(draft_tokens=0)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing draft model, or one with another tokenizer."""
        if self.draft_tokens == 0:
            return
        if self.draft is None:
            raise ValueError("draft-model needs a small model: draft='path or name' (or an engine), same tokenizer.")
        if engine is not None:
            check_same_tokenizer(engine, second_engine(self.draft, engine.kind))
        elif isinstance(self.draft, str):
            find(self.draft)

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The draft model by its name and weights."""
        if self.draft_tokens == 0:
            return self.changed_options()
        draft = second_engine(self.draft, engine.kind)
        return self.changed_options() | {"draft": f"{draft.name}, {draft.fingerprint}"}

    def with_assistant(self, model: Any) -> DraftModel:
        """`assistant_model` of transformers' `generate` is the draft model, unless one was given."""
        return replace(self, draft=model) if model is not None and self.draft is None else self

    def decode(self, state: DecodingState) -> None:
        self.check()
        budget = NodeBudget.of(state) if self.budget == "auto" and self.draft_tokens else None
        speculative_decode(state, _SmallModel(self, budget), budget=budget)


class _SmallModel(Drafter):
    def __init__(self, method: DraftModel, budget: NodeBudget | None) -> None:
        self.method, self.budget = method, budget
        self.small: DecodingState | None = None
        self.behind = 0  # steps without drafts since it last read the text
        self.logits: torch.Tensor | None = None  # after the pending token; None: the small model has yet to read it

    def start(self, state: DecodingState) -> None:
        if self.method.draft_tokens:
            if state.prompt_width == 0:
                raise ValueError(
                    "draft-model needs the prompt as token ids, which both models can read; it came as embeddings: "
                    "take 'prompt-lookup', or a context in text."
                )
            self.small = companion(self.method.draft, state, role="draft")
            draft = step_profile.find(self.small)
            if self.budget is not None:
                self.budget.per_node = 0.0 if draft is None else draft(state.batch_size)
                if not self.budget.pays_at_best(self.method.draft_tokens, state.batch_size):
                    self.close()  # it need not even read the prompt
                    self.small = None
                    return
            self.small.prefill()
            self.logits = self._read(state.tokens[:, -1:])

    def propose(self, state: DecodingState) -> DraftTree:
        pending, small = state.tokens[:, -1], self.small
        if small is None:
            return DraftTree.root(pending)
        small.stop(state.finished)
        logits = self.logits
        if logits is None:  # of a chain that was accepted whole the last token is new to it, of others the bonus only
            new = 2 + self.behind
            small.rewind(state.lengths - new)
            logits = self._read(state.tokens[:, -new:])
            self.behind = 0
        state.cost.count("draft_forwards")
        self.logits = None
        vocab = min(small.vocab_size, state.vocab_size)
        text = state.tokens
        drawn: list[torch.Tensor] = []
        probabilities: list[torch.Tensor] = []
        wanted = self.method.draft_tokens
        if self.budget is not None:  # at least one, so that the small model keeps up with the text
            wanted = max(1, self.budget.nodes(wanted, int((~state.finished).sum())))
        for step in range(wanted):
            if step:
                logits = self._read(drawn[-1][:, None])
                state.cost.count("draft_forwards")
            scores = logits[:, :vocab].to(state.device)
            if state.do_sample:
                missing = state.vocab_size - vocab
                if missing:
                    scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
                q = state.probabilities(scores, text=text)
                token = torch.multinomial(q, 1, generator=state.generator)[:, 0]
                probabilities.append(q)
            else:
                token = scores.argmax(-1)
            drawn.append(token)
            text = torch.cat([text, token[:, None]], dim=1)
        tokens = torch.stack([pending, *drawn], dim=1)
        nodes = tokens.shape[1]
        parent = torch.arange(-1, nodes - 1, device=tokens.device).expand(len(tokens), -1)
        proposal = None
        if probabilities:
            slot = torch.arange(nodes, device=tokens.device)
            slot = torch.where(slot < nodes - 1, slot, -1).expand(len(tokens), -1)
            proposal = Proposal(torch.stack(probabilities, 1), slot)
        return DraftTree(tokens, parent, torch.ones_like(tokens, dtype=torch.bool), proposal)

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        """The small model's logits behind these tokens [batch, new]; one that it does not have is read as its last."""
        assert self.small is not None
        return self.small.feed(tokens.clamp(max=self.small.vocab_size - 1), rewindable=True)[:, -1]

    def rest(self, state: DecodingState) -> DraftTree:
        self.behind += 1
        return super().rest(state)

    def close(self) -> None:
        if self.small is not None:
            self.small.close()
