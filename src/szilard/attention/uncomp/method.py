"""UnComp: heads whose queries use many directions keep more of the cache; layers that do run on fewer tokens.

Xiong et al., "UNComp: Can Matrix Entropy Uncover Sparsity? A Compressor Design from an Uncertainty-Aware Perspective",
EMNLP 2025, arXiv 2410.03090. Reference code: menik1126/UNComp (Apache-2.0).

For a head of group g with budget b_g, window w (P: attention probabilities, mean over the query heads of a group):

    c_j  = maxpool_k( sum over the last w queries t of P_{t,j} ),  j older than the last w tokens
    kept = the b_g - w best of c, and the last w tokens

at the end of the prompt, and again after every new token, with W_g (the last w rows of P on the stored slots) kept
along: one slot leaves per step. Group by group: one pair of tensors each, one attention each.

With stages, layer l of stage c of C reads S_min + floor((N - S_min) / (C - 1)) (C - 1 - c) of a prompt's N tokens:
those that the last w tokens attended to most in the layer before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.attention.method import AttentionMethod
from szilard.attention.uncomp.plan import UnCompPlan
from szilard.attention.uncomp.session import UnCompSession
from szilard.options import check_bool, check_choice, check_number

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

GROUPS = ("high-more", "reversed", "random", "uniform")


@dataclass(frozen=True)
class UnComp(AttentionMethod):
    """Budgets per head group by matrix entropy, and hidden-state stages.

    Attributes:
        plan: what `szilard train uncomp` wrote for the model: a file, or the plan itself; needed by everything but the
            groups "random" and "uniform". A model that it was not made for is refused.
        budgets: slots of a key-value head of every group, the window among them, from the group of the lowest entropy
            to that of the highest; None: everything is kept. The default is 384 on average.
        window: w, last tokens that always stay and whose attention says what the others are worth.
        kernel: width of the pooling over neighbouring slots; 1: none.
        pool: "max" (paper) or "avg".
        phase: "both": also while generating, so that the cache stays at its budgets (paper); "prefill": evict once,
            when the prompt (or a chunk of it) was read, so that drafts can be taken back.
        groups: "high-more" (paper); controls: "reversed" (heads ordered the other way round), "random" (heads put into
            groups of the same sizes by chance), "uniform" (every head has the average budget).
        drop_heads: key-value heads of every layer that keep no cache: the first ones in that order, by "high-more" and
            "uniform" those of the lowest entropy. After the prompt they take the output of the head whose last keys are
            most similar (the paper's "delete-n", of query heads there).
        stages: whether deeper layers read fewer tokens of the prompt; only its first chunk is cut.
        min_tokens: S_min, tokens that the last stage reads.
        stage_drop: eps, by how much a layer's score must fall to begin a stage, on the scale of 32 heads.
        seed: of the random groups.
    """

    slug: ClassVar[str] = "uncomp"
    paper: ClassVar[str] = "Xiong et al., EMNLP 2025, arXiv 2410.03090"

    plan: str | UnCompPlan | None = None
    budgets: Sequence[int] | None = (256, 512)
    window: int = 8
    kernel: int = 7
    pool: str = "max"
    phase: str = "both"
    groups: str = "high-more"
    drop_heads: int = 0
    stages: bool = False
    min_tokens: int = 1536
    stage_drop: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.plan, Path):
            object.__setattr__(self, "plan", str(self.plan))
        if not isinstance(self.plan, (str, UnCompPlan, type(None))):
            raise TypeError(f"plan must be a file of `szilard train uncomp`, a UnCompPlan or None, not {self.plan!r}.")
        check_number("window", self.window, low=1, integer=True)
        check_number("kernel", self.kernel, low=1, integer=True)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a slot lies in the middle of it, not {self.kernel}.")
        check_choice("pool", self.pool, ("max", "avg"))
        check_choice("phase", self.phase, ("prefill", "both"))
        check_choice("groups", self.groups, GROUPS)
        check_number("drop_heads", self.drop_heads, low=0, integer=True)
        check_bool("stages", self.stages)
        check_number("min_tokens", self.min_tokens, low=1, integer=True)
        check_number("stage_drop", self.stage_drop, low=0)
        check_number("seed", self.seed, low=0, high=2**63 - 1, integer=True)
        if self.stages and self.min_tokens < self.window:
            raise ValueError(f"min_tokens={self.min_tokens} has no room for the window of {self.window} tokens.")
        if self.budgets is None:
            if self.drop_heads:
                raise ValueError("heads are dropped to save cache: give budgets, too.")
            return
        if isinstance(self.budgets, str) or not isinstance(self.budgets, Sequence) or not self.budgets:
            raise TypeError(f"budgets must be a list of whole numbers, one per group, or None, not {self.budgets!r}.")
        object.__setattr__(self, "budgets", tuple(self.budgets))
        for budget in self.budgets:
            check_number("budgets", budget, low=1, integer=True)
        if min(self.budgets) <= self.window:
            raise ValueError(
                f"a budget of {min(self.budgets)} has no room beside the window of {self.window} tokens: every one of "
                "the budgets must be larger."
            )
        if list(self.budgets) != sorted(self.budgets):
            raise ValueError(
                f"budgets go from the group of the lowest entropy, which keeps least, to the highest, not "
                f"{self.budgets!r}; the other way round is groups='reversed'."
            )

    @property
    def rewinds(self) -> bool:
        return self.budgets is None or self.phase == "prefill"

    @property
    def needs_plan(self) -> bool:
        """Whether something is decided by entropy."""
        orders_heads = self.groups in ("high-more", "reversed") or (self.groups == "uniform" and self.drop_heads > 0)
        return self.stages or (self.budgets is not None and orders_heads)

    def loaded_plan(self) -> UnCompPlan | None:
        """The plan, read from its file.

        Raises:
            ValueError: none was given where one is needed; or no plan in the file.
        """
        if self.plan is None and self.needs_plan:
            raise ValueError(
                "'uncomp' needs a plan of the model: make one with `szilard train uncomp --data TEXTS -o plan.json` "
                "and give plan='plan.json', or take groups='uniform' or 'random'."
            )
        return UnCompPlan.load(self.plan) if isinstance(self.plan, str) else self.plan

    @classmethod
    def neutral(cls) -> UnComp:
        return cls(budgets=None)

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        plan = self.loaded_plan()
        return self.changed_options() | ({} if plan is None else {"plan": plan.digest})

    def session(self, model: Any) -> UnCompSession:
        return UnCompSession(self, model)
