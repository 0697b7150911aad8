"""Searches for likely continuations in a tri-gram table; each gives paths, the best first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from random import Random

Row = Callable[[int, int], tuple[Sequence[int], Sequence[float]]]
Path = tuple[int, ...]


class _Node:
    """A bigram in the search tree: visits n, score sum W, prior p."""

    __slots__ = ("children", "first", "prior", "score", "second", "visits")

    def __init__(self, first: int, second: int, prior: float) -> None:
        self.first, self.second, self.prior = first, second, prior
        self.visits, self.score = 0, 0.0
        self.children: list[_Node] | None = None  # None: not expanded


def mcts(
    row: Row,
    first: int,
    second: int,
    *,
    iterations: int,
    depth: int,
    keep: int,
    exploration: float,
    exploration_base: float,
    random: Random,
) -> list[Path]:
    """ADED's draft maker: Monte-Carlo tree search by PUCT, most visited nodes first.

    Args:
        row: successors of a bigram and their weights.
        first, second: the last two tokens of the text; the second is the root.
        iterations: walks.
        depth: states on a path, the root included.
        keep: paths.
        exploration, exploration_base: c1 and c2 of PUCT = W / n + (c1 + ln((N + c2 + 1) / c2)) p sqrt(N) / (1 + n).
        random: source of the roll-outs.

    Returns:
        Paths below the root, the most visited first, and then each again with its likeliest next token behind it.
    """
    rows: dict[tuple[int, int], tuple[Sequence[int], Sequence[float]]] = {}

    def successors(a: int, b: int) -> tuple[Sequence[int], Sequence[float]]:
        found = rows.get((a, b))
        if found is None:
            found = rows[a, b] = row(a, b)
        return found

    root = _Node(first, second, 1.0)
    if not successors(first, second)[0]:
        return []
    for _ in range(iterations):
        node, path = root, [root]
        total = 1.0
        while node.children and len(path) < depth:  # 1 select
            scale = (exploration + math.log((node.visits + exploration_base + 1) / exploration_base)) * math.sqrt(
                node.visits
            )
            best, best_value = None, -1.0
            for child in node.children:
                n = child.visits
                if n == 0:
                    best = child
                    break
                value = child.score / n + scale * child.prior / (1 + n)
                if value > best_value:
                    best, best_value = child, value
            assert best is not None
            node = best
            path.append(node)
            total += node.prior
        if node.children is None and len(path) < depth:  # 2 expand
            tokens, weights = successors(node.first, node.second)
            node.children = [_Node(node.second, token, p) for token, p in zip(tokens, weights, strict=True)]
            if node.children:
                node = node.children[0]
                path.append(node)
                total += node.prior
        a, b = node.first, node.second
        for _ in range(depth - len(path)):  # 3 roll out
            tokens, weights = successors(a, b)
            if not tokens:
                break
            at = _draw(weights, random)
            total += weights[at]  # Paper's code: looks the middle token up; here: the new one, as its text says
            a, b = b, tokens[at]
        for passed in path:  # 4, 5: reward and back up
            passed.visits += 1
            passed.score += total
    visited: list[tuple[int, int, Path]] = []
    _collect(root, (), visited)
    visited.sort(key=lambda entry: (-entry[0], entry[1]))
    paths = [path for _, _, path in visited[:keep]]
    longer = (_extended(path, second, successors) for path in paths)
    return [*paths, *(path for path in longer if path is not None)]


def best_first(row: Row, first: int, second: int, *, max_nodes: int, depth: int) -> list[Path]:
    """The `max_nodes` continuations with the largest product of weights, at most `depth` tokens long."""
    order = 0
    heap: list[tuple[float, int, Path, int, int]] = []

    def push(product: float, path: Path, a: int, b: int) -> None:
        nonlocal order
        tokens, weights = row(a, b)
        for token, weight in zip(tokens, weights, strict=True):
            order += 1
            heapq.heappush(heap, (-product * min(weight, 1.0), order, (*path, token), b, token))

    push(1.0, (), first, second)
    found: list[Path] = []
    while heap and len(found) < max_nodes:
        product, _, path, a, b = heapq.heappop(heap)
        found.append(path)
        if len(path) < depth:
            push(-product, path, a, b)
    return found


def greedy_chain(row: Row, first: int, second: int, *, depth: int) -> list[Path]:
    """The likeliest token after the likeliest token, and so on."""
    path: list[int] = []
    for _ in range(depth):
        tokens, _weights = row(first, second)
        if not tokens:
            break
        first, second = second, tokens[0]
        path.append(second)
    return [tuple(path)] if path else []


def _draw(weights: Sequence[float], random: Random) -> int:
    if len(weights) == 1:
        return 0
    rest = random.random() * sum(weights)
    for index, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return index
    return len(weights) - 1


def _collect(node: _Node, path: Path, found: list[tuple[int, int, Path]]) -> None:
    for child in node.children or ():
        if child.visits:
            below = (*path, child.second)
            found.append((child.visits, len(found), below))
            _collect(child, below, found)


def _extended(path: Path, second: int, row: Row) -> Path | None:
    tokens, _ = row(*(second, *path)[-2:])
    return (*path, tokens[0]) if tokens else None
