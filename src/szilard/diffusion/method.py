"""What every way of filling a canvas is: a frozen dataclass that says, round by round, which columns to commit."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.decoding.method import Method
from szilard.diffusion.look import Look
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState

END_OF_TEXT = ("keep", "committed", "predicted", "block")
BANS = ("allow", "forbid", "last")


@dataclass(frozen=True, kw_only=True)
class DiffusionMethod(Method):
    """A rule of which masks to commit. Subclasses implement `select`; the rest of a round is the same for all.

    A round: the model reads the canvas, every open column gets a proposal and its confidence, `select` chooses, what is
    chosen is written for good. A rule that chooses nothing in a row gets that row's most confident candidate.

    Attributes:
        block_length: columns that are filled before the next ones come (semi-autoregressive); the last block may be
            shorter; None: the whole answer is one block.
        end_of_text: when an answer ends before its last column. "keep": never, all columns are filled; "committed":
            once an end-of-text token is committed, what is behind it is dropped (EoTP as its paper says it);
            "predicted": once one is committed or, of any open column, proposed, the row is cut behind the most
            confident one (EoTP as its code does it; what a dual or window cache does not compute proposes nothing);
            "block": once a finished block holds one (Fast-dLLM, LocalLeap).
        eos: "allow"; "forbid": end-of-text tokens are never proposed, so all columns hold text; "last": they count as
            confidence 0 and rank behind all others, so they are committed when nothing else is left (LLaDA).
        guidance: w of classifier-free guidance, logits u + (w + 1)(c - u) with u of the masked prompt; 0: none. Twice
            the rows are computed.
        tempered: confidence, margin and entropy are those of the distribution drawn from (Dream); off: of the model's
            own (LLaDA).
        revise: columns per block that are opened once more, the least sure, when seven eighths of it are filled
            (ReMDM as ParallelBench runs it).
    """

    family: ClassVar[str] = "diffusion"
    needs: ClassVar[frozenset[str]] = frozenset({"denoising"})
    reads_whole_blocks: ClassVar[bool] = False  # whether it looks at all columns of a block, visible ones too
    block_length: int | None = 32
    end_of_text: str = "keep"
    eos: str = "allow"
    guidance: float = 0.0
    tempered: bool = False
    revise: int = 0

    def __post_init__(self) -> None:
        check_number("block_length", self.block_length, low=1, integer=True, optional=True)
        check_choice("end_of_text", self.end_of_text, END_OF_TEXT)
        check_choice("eos", self.eos, BANS)
        check_number("guidance", self.guidance, low=0)
        check_bool("tempered", self.tempered)
        check_number("revise", self.revise, low=0, integer=True)

    @abstractmethod
    def select(self, look: Look) -> torch.Tensor:
        """Which columns to commit in this round, bool [rows, n]; only what is masked counts."""

    def check_canvas(self, state: DenoisingState) -> None:
        """Refuse, before any work, a canvas that the rule cannot fill.

        Raises:
            ValueError: a length that does not fit the rule.
        """

    def blocks_ahead(self, state: DenoisingState) -> int:
        """Blocks after the current one whose logits the rule wants."""
        return 0

    def accepted_ends(self, look: Look, chosen: torch.Tensor) -> torch.Tensor:
        """Of what is committed, what may count as an end under "predicted", bool [rows, n]."""
        return chosen

    def chosen(self, state: DenoisingState, look: Look) -> torch.Tensor:
        """What is committed in this round, at least one column per row, bool [rows, n]."""
        chosen = self.select(look) & look.masked
        stuck = ~chosen.any(1, keepdim=True)
        if bool(stuck.any()):
            chosen = chosen | (stuck & look.best(look.score("confidence"), 1))
        return chosen

    def decode(self, state: DenoisingState) -> None:  # type: ignore[override]
        """Rounds until every row is done."""
        policy = state.policy
        if self.reads_whole_blocks and policy is not None and not policy.whole_blocks:
            raise ValueError(
                f"'{self.slug}' reads the confidence of every column of a block, of which '{policy.slug}' computes "
                "some: take a prefix or dual cache, or none."
            )
        self.check_canvas(state)
        state.open(self)
        while not state.done:
            for look in state.look():
                state.commit(look, self.chosen(state, look))

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Refused: `generate` writes from left to right.

        Raises:
            ValueError: always, with what to do.
        """
        raise ValueError(
            f"'{self.slug}' fills a canvas, which transformers' generate cannot: load the model with szilard.load(...) "
            "and call engine.generate(prompt, method=...)."
        )
