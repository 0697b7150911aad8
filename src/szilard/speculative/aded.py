"""ADED (Adaptix): drafts from a tri-gram table that adapts to the text, found by Monte-Carlo tree search.

Liu, Lei, Zhang, Xu 2024, "Adaptive Draft-Verification for Efficient Large Language Model Decoding", arXiv 2407.12021;
reference code liuxukun2000/Adaptix (Apache-2.0). No training, no second model; lossless.

Each step: strengthen the tri-grams of the last w tokens in the table, search it from the last two tokens, merge the
most visited paths into a tree, verify. The table is shared by all rows and all runs that use it: drafts get better with
use.

Deviations from the released code: the reward looks up the new token (there, by a slip, the middle one); where
fewer nodes are verified, the most visited ones stay (there, paths with many distinct tokens are dropped first);
sampling is exact; the root is not one of the `keep` paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.decoding.method import Method
from szilard.decoding.state import DecodingState
from szilard.engines.pair import spelling
from szilard.options import check_bool, check_choice, check_number
from szilard.speculative.budget import NodeBudget
from szilard.speculative.drafter import Drafter, speculative_decode
from szilard.speculative.tree import DraftTree
from szilard.speculative.tree_search import best_first, greedy_chain, mcts
from szilard.speculative.trigram_table import HEADER, TrigramTable

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class Aded(Method):
    """Drafts from a tri-gram table.

    Attributes:
        table: a `TrigramTable` (updated in place), the folder of a saved one, or None: an empty one, which learns from
            the run alone.
        iterations: walks of the tree search per step.
        depth: states on a path of the search, the root included; one likeliest token more is put behind each.
        keep: paths of the search.
        exploration: c1 (1.814 in the code before August 2024).
        exploration_base: c2.
        update_increment: delta; 0: the table stays as it is.
        update_cap: largest weight that updates lead to.
        update_window: w, tokens whose tri-grams are strengthened at every step.
        max_nodes: drafted nodes of a tree, at most; 0: plain decoding.
        search: "mcts" (paper), "best_first" (product of weights; as good and faster), or "greedy" (a chain).
        observe_prompt: strengthen the tri-grams of the whole prompt once (ours).
        share_updates: rows and later runs see each other's updates; False: each row has its own, which are discarded.
        seed: of the roll-outs. What is written with greedy decoding does not depend on it.
        budget: "auto": verify only as many nodes as are worth their time, where `szilard doctor --profile` has measured
            what forwards of this model cost; "fixed": all of them.
    """

    slug: ClassVar[str] = "aded"
    family: ClassVar[str] = "speculative"
    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2407.12021"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "rewind"})

    table: TrigramTable | str | None = None
    iterations: int = 150
    depth: int = 4
    keep: int = 24
    exploration: float = 32.0
    exploration_base: float = 8.0
    update_increment: float = 0.04
    update_cap: float = 3.0
    update_window: int = 16
    max_nodes: int = 64
    search: str = "mcts"
    observe_prompt: bool = False
    share_updates: bool = True
    seed: int = 0
    budget: str = "auto"

    def __post_init__(self) -> None:
        check_number("iterations", self.iterations, low=1, integer=True)
        check_number("depth", self.depth, low=2, integer=True)
        check_number("keep", self.keep, low=1, integer=True)
        check_number("exploration", self.exploration, low=0)
        check_number("exploration_base", self.exploration_base, low=1e-6)
        check_number("update_increment", self.update_increment, low=0)
        check_number("update_cap", self.update_cap, low=0)
        check_number("update_window", self.update_window, low=3, integer=True)
        check_number("max_nodes", self.max_nodes, low=0, integer=True)
        check_choice("search", self.search, ("mcts", "best_first", "greedy"))
        check_choice("budget", self.budget, ("auto", "fixed"))
        check_bool("observe_prompt", self.observe_prompt)
        check_bool("share_updates", self.share_updates)
        check_number("seed", self.seed, low=0, high=2**63 - 1, integer=True)
        if isinstance(self.table, Path):
            object.__setattr__(self, "table", str(self.table))
        if self.table is not None and not isinstance(self.table, (str, TrigramTable)):
            raise TypeError(f"table must be a TrigramTable, the folder of one, or None, not {self.table!r}.")

    @classmethod
    def neutral(cls) -> Aded:
        """No drafts."""
        return cls(max_nodes=0)

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a folder without a table, and a table of another vocabulary."""
        table = self._table()
        if engine is not None and table is not None:
            _check_vocabulary(table, engine.vocab_size, engine.name)
            _check_spelling(table, partial(engine.tokenizer.encode, add_special_tokens=False), engine.name)

    def decode(self, state: DecodingState) -> None:
        table = self._table()
        if table is None:
            table = TrigramTable.empty(state.vocab_size)
        _check_vocabulary(table, state.vocab_size, state.model_name)
        _check_spelling(table, state.encode, state.model_name)
        budget = NodeBudget.of(state, _CHANCES) if self.budget == "auto" else None
        speculative_decode(state, _Adaptive(self, table), budget=budget)

    def _table(self) -> TrigramTable | None:
        if isinstance(self.table, str):
            header = Path(self.table) / HEADER
            return _opened(self.table, header.stat().st_mtime_ns if header.is_file() else 0)
        return self.table


# How often the best nodes were accepted, best first, when answers of SmolLM2-135M-Instruct were replayed: of a table
# counted on 900 others 0.45, 0.23, 0.15, 0.11, 0.08, ..., of an empty one that learns 0.51, 0.30, 0.25, 0.17, 0.09, ...
_CHANCES = [0.45 / (place + 1) for place in range(64)]


class _Adaptive(Drafter):
    def __init__(self, method: Aded, table: TrigramTable) -> None:
        self.method, self.table = method, table
        self.random = Random(method.seed)
        self.tables: list[TrigramTable] = []

    def start(self, state: DecodingState) -> None:
        rows = state.batch_size
        self.tables = [self.table if self.method.share_updates else self.table.overlay() for _ in range(rows)]
        if self.method.observe_prompt and self.method.update_increment > 0:
            for table, ids in zip(self.tables, self._texts(state, None), strict=True):
                table.update(ids, increment=self.method.update_increment, cap=self.method.update_cap)

    def propose(self, state: DecodingState) -> DraftTree:
        if self.method.max_nodes == 0:
            return DraftTree.root(state.tokens[:, -1])
        texts = self._texts(state, self.method.update_window)
        finished = state.finished.tolist()
        if self.method.update_increment > 0:
            for table, ids, over in zip(self.tables, texts, finished, strict=True):
                if not over:
                    table.update(ids, increment=self.method.update_increment, cap=self.method.update_cap)
        paths = [
            [] if over or len(ids) < 2 else self._search(table, ids[-2], ids[-1])
            for table, ids, over in zip(self.tables, texts, finished, strict=True)
        ]
        return DraftTree.from_paths(state.tokens[:, -1], paths).truncate(max_nodes=self.method.max_nodes + 1)

    def _texts(self, state: DecodingState, window: int | None) -> list[list[int]]:
        """The last tokens of every row, the pending one included, without padding."""
        width = state.tokens.shape[1] if window is None else min(window, state.tokens.shape[1])
        lengths = state.lengths.clamp(max=width).tolist()
        return [ids[width - length :] for ids, length in zip(state.tokens[:, -width:].tolist(), lengths, strict=True)]

    def _search(self, table: TrigramTable, first: int, second: int) -> list[tuple[int, ...]]:
        method = self.method
        if method.search == "best_first":
            return best_first(table.row, first, second, max_nodes=method.max_nodes, depth=method.depth)
        if method.search == "greedy":
            return greedy_chain(table.row, first, second, depth=method.depth)
        return mcts(
            table.row,
            first,
            second,
            iterations=method.iterations,
            depth=method.depth,
            keep=method.keep,
            exploration=method.exploration,
            exploration_base=method.exploration_base,
            random=self.random,
        )


def _check_vocabulary(table: TrigramTable, vocab_size: int, name: str) -> None:
    if table.vocab_size > vocab_size:
        raise ValueError(
            f"the tri-gram table holds tokens of a vocabulary of {table.vocab_size}, but {name} has {vocab_size}: "
            "build one with this model's tokenizer."
        )


def _check_spelling(table: TrigramTable, encode: Any, name: str) -> None:
    """Refuse a table of another tokenizer; an empty one becomes this one's."""
    found = spelling(encode)
    if table.spelling is None and not len(table):
        table.spelling = found
    elif None not in (table.spelling, found) and table.spelling != found:
        raise ValueError(
            f"the tri-gram table is one of another tokenizer than {name}'s: build one with this model's (szilard train "
            "aded)."
        )


@lru_cache(maxsize=4)
def _opened(folder: str, written: int) -> TrigramTable:
    """The table in a folder, opened once for each time it was written."""
    return TrigramTable.load(folder)
