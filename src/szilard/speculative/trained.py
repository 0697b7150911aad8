"""What methods with trained drafters share: the add-on, the tree, the rule of acceptance."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.engines.model_parts import weights_fingerprint
from szilard.options import check_choice, check_number
from szilard.speculative.budget import NodeBudget
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.tree import SMALL_TREE, DraftTree, TreeShape
from szilard.speculative.verify import Typical, check_typical
from szilard.training.add_on import AddOn, opened

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

Self = TypeVar("Self", bound="TrainedDrafts")
WHOLE_PROMPT = (
    "{} needs the tokens and hidden states of the whole prompt: no prompt as embeddings, no chunked prefill, no cache "
    "of an earlier call."
)
CANDIDATES = 10  # likeliest tokens that are looked at per depth, in training statistics and in drafts


class DraftHeads(AddOn):
    """An add-on that proposes tokens for several depths.

    Attributes:
        depth: how many tokens ahead of the pending one it drafts.
        accuracy: how often candidate r of depth d was right on held-out text, float32 [depth, CANDIDATES]; zeros
            before training.
    """

    def __init__(self, base: dict[str, Any], depth: int) -> None:
        super().__init__(base)
        self.depth = depth
        self.accuracy: torch.Tensor
        self.register_buffer("accuracy", torch.zeros(depth, CANDIDATES))


@dataclass(frozen=True)
class TrainedDrafts(Method):
    """A method whose drafts come from an add-on.

    Attributes:
        drafter: the add-on, or the folder or hub id of one; `szilard train` makes it.
        max_nodes: drafted nodes of a tree, at most; 0: plain decoding.
        tree: "static": the published tree of 25 drafts, cut to the drafter's depth; "measured": grown from the
            accuracies that the drafter had on held-out text; "probable": grown at every step, row by row, from the
            drafter's own probabilities, narrow where it is sure and wide where it is not; or a `TreeShape`.
        acceptance: "exact", or "typical": Medusa's lossy rule, under which the text is not that of plain decoding.
        epsilon, delta: of the typical rule; see `Typical`.
        budget: "auto": verify only as many nodes as are worth their time, where `szilard doctor --profile` has measured
            what forwards of this model cost; "fixed": all of them.
    """

    family: ClassVar[str] = "speculative"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "hidden_states", "rewind"})
    add_on: ClassVar[type[DraftHeads]]

    drafter: AddOn | str | None = None
    max_nodes: int = 25
    tree: TreeShape | str = "static"
    acceptance: str = "exact"
    epsilon: float = Typical.epsilon
    delta: float = Typical.delta
    budget: str = "auto"

    def __post_init__(self) -> None:
        check_number("max_nodes", self.max_nodes, low=0, integer=True)
        check_choice("acceptance", self.acceptance, ("exact", "typical"))
        check_choice("budget", self.budget, ("auto", "fixed"))
        if not isinstance(self.tree, TreeShape):
            check_choice("tree", self.tree, ("static", "measured", "probable"))
        Typical(self.epsilon, self.delta)  # refuses what is out of range
        if isinstance(self.drafter, Path):
            object.__setattr__(self, "drafter", str(self.drafter))
        if self.drafter is not None and not isinstance(self.drafter, (str, self.add_on)):
            raise TypeError(f"drafter must be a {self.add_on.__name__}, its folder or hub id, not {self.drafter!r}.")

    @classmethod
    def neutral(cls: type[Self]) -> Self:
        """No drafts."""
        return cls(max_nodes=0)

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | Path, **options: Any) -> Self:
        """The method with the add-on in a folder or hub repository.

        Raises:
            ValueError: there is none, or it is broken.
        """
        return cls(drafter=cls.add_on.from_pretrained(folder), **options)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing drafter, a broken one, and one of another model."""
        if self.max_nodes == 0:
            return
        heads = self.heads()
        if engine is not None:
            heads.check_base(
                vocab_size=engine.vocab_size, hidden_size=None, name=engine.name, fingerprint=engine.fingerprint
            )

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The drafter by the hash of its weights."""
        changed = self.changed_options()
        if self.max_nodes:
            changed["drafter"] = self.heads().fingerprint
        return changed

    def heads(self) -> DraftHeads:
        """The add-on.

        Raises:
            ValueError: none was given, or it is broken.
        """
        if self.drafter is None:
            raise ValueError(
                f"{self.slug} needs a trained drafter: drafter='folder or hub id'; {_HOW.format(self.slug)}"
            )
        if isinstance(self.drafter, str):
            return opened(self.add_on, self.drafter)
        assert isinstance(self.drafter, DraftHeads)
        return self.drafter

    def shape(self, heads: DraftHeads) -> TreeShape:
        """The tree of this method's drafts.

        Raises:
            ValueError: "measured" with a drafter whose accuracy nobody measured.
        """
        if isinstance(self.tree, TreeShape):
            if self.tree.max_rank >= CANDIDATES:
                raise ValueError(f"a tree has at most {CANDIDATES} candidates per node, not {self.tree.max_rank + 1}.")
            return self._cut(self.tree.truncate(max_depth=self.drafted_depth(heads)), heads)
        if self.tree == "probable":
            return TreeShape.of(
                [(0,) * depth for depth in range(1, min(self.drafted_depth(heads), self.max_nodes) + 1)]
            )
        if self.tree == "static":
            return self._cut(SMALL_TREE.truncate(max_depth=heads.depth), heads)
        if not bool(heads.accuracy.any()):
            raise ValueError("tree='measured' needs a drafter that was trained, which measures it; take 'static'.")
        return TreeShape.greedy(heads.accuracy.tolist(), self.max_nodes + 1)

    def _cut(self, shape: TreeShape, heads: DraftHeads) -> TreeShape:
        """The most valuable nodes first, where the heads' accuracy is known for all depths; `max_nodes` of them."""
        if shape.max_depth <= heads.depth and bool(heads.accuracy.any()):
            shape = shape.by_value(heads.accuracy.tolist())
        return shape.truncate(max_nodes=self.max_nodes + 1)

    def trees(self, heads: DraftHeads) -> Trees:
        """What makes trees of this method's candidates."""
        return Trees(self.shape(heads), self.max_nodes if self.tree == "probable" else 0)

    def chances(self, heads: DraftHeads) -> list[float]:
        """How often each node of a fixed tree was accepted on held-out text; empty where nobody measured it."""
        shape = self.shape(heads)
        if self.tree == "probable" or shape.max_depth > heads.depth or not bool(heads.accuracy.any()):
            return []
        return shape.values(heads.accuracy.tolist())

    def slots_per_node(self, heads: DraftHeads, layers: int) -> float:
        """What each drafted node adds to the forward of a target with so many layers, in nodes."""
        return 0.0

    def drafted_depth(self, heads: DraftHeads) -> int:
        """Tokens ahead of the pending one for which there are candidates."""
        return heads.depth

    @abstractmethod
    def proposer(self, heads: DraftHeads) -> Drafter:
        """Who drafts in one run."""

    def decode(self, state: DecodingState) -> None:
        if self.max_nodes == 0:
            speculative_decode(state, _NoDrafts())
            return
        heads = self.heads()
        width = state.embedding_matrix.shape[1]
        heads.check_base(
            vocab_size=state.vocab_size,
            hidden_size=width,
            name=state.model_name,
            fingerprint=weights_fingerprint(state.model),  # type: ignore[attr-defined]
        )
        heads = heads.to(state.device).eval()
        typical = Typical(self.epsilon, self.delta) if self.acceptance == "typical" else None
        if typical is not None:
            check_typical(state)
        budget = None
        if self.budget == "auto":
            budget = NodeBudget.of(
                state, self.chances(heads), slots_per_node=self.slots_per_node(heads, state.size.layers)
            )
        speculative_decode(state, self.proposer(heads), typical, budget=budget)


@dataclass(frozen=True)
class Trees:
    """Makes draft trees of the candidates of every depth.

    Attributes:
        shape: of the tree; where it is grown, a chain of the deepest.
        grown: nodes of a tree that is grown from the candidates' probabilities, the root not counted; 0: the shape is
            fixed.
    """

    shape: TreeShape
    grown: int = 0

    def of(self, pending: torch.Tensor, logits: torch.Tensor) -> DraftTree:
        """A tree per row, from the logits of every depth, whatever stands above: [batch, depth, vocab]."""
        best = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
        if not self.grown:
            return DraftTree.static(self.shape, pending, best.indices.to(pending.device))
        chances = (best.values.float() - logits.float().logsumexp(-1, keepdim=True)).exp().tolist()
        paths = []
        for row, tokens in zip(chances, best.indices.tolist(), strict=True):
            choices = TreeShape.greedy(row, self.grown + 1).choices()
            paths.append([tuple(tokens[depth][rank] for depth, rank in enumerate(choice)) for choice in choices])
        return DraftTree.from_paths(pending, paths)


class _NoDrafts(Drafter):
    def propose(self, state: DecodingState) -> DraftTree:
        return DraftTree.root(state.tokens[:, -1])


def last_accepted(state: DecodingState, path: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Hidden states of the last node of each row's path, [batch, hidden], after a feed that kept them."""
    assert state.hidden is not None
    rows = torch.arange(state.batch_size, device=state.hidden.device)
    return state.hidden[rows, path.gather(1, counts[:, None] - 1)[:, 0].clamp(min=0)]


_HOW = "`szilard train {} --model ... --data ... -o folder` makes one."
