"""Draft trees: masks, depths, tries, fixed shapes, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.speculative.tree import SMALL_TREE, DraftTree, TreeShape

PENDING = torch.tensor([7, 8])


def rows(mask):
    return ["".join(map(str, row)) for row in mask.int().tolist()]


def test_the_worked_mask():
    tree = DraftTree.from_parents(torch.tensor([[7, 3, 5, 4, 9, 4]]), torch.tensor([[-1, 0, 0, 1, 1, 2]]))
    assert rows(tree.ancestors[0]) == ["100000", "110000", "101000", "110100", "110010", "101001"]
    assert tree.depth.tolist() == [[0, 1, 1, 2, 2, 2]]
    assert tree.leaves(0) == [3, 4, 5] and tree.path(0, 5) == [0, 2, 5]


def test_paths_that_begin_alike_share_nodes_and_short_rows_are_padded():
    tree = DraftTree.from_paths(PENDING, [[[3, 3], [3, 9], [5, 4]], [[1]]])
    assert tree.tokens[0].tolist() == [7, 3, 3, 9, 5, 4] and tree.parent[0].tolist() == [-1, 0, 1, 1, 0, 4]
    assert tree.size.tolist() == [6, 2] and tree.leaves(1) == [1]
    assert rows(tree.ancestors[1])[2] == "001000"  # padding sees itself, and no real node sees it
    assert not tree.ancestors[1, :2, 2:].any()
    assert not tree.is_chain and DraftTree.chain(PENDING, [[1, 2], []]).is_chain


paths = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6)


@given(st.lists(paths, min_size=2, max_size=2))
@settings(max_examples=60, deadline=None)
def test_a_trie_holds_exactly_the_prefixes_of_its_paths(both):
    tree = DraftTree.from_paths(PENDING, both)
    checked = DraftTree.from_parents(tree.tokens, tree.parent, tree.valid)
    for row, given_paths in enumerate(both):
        prefixes = {tuple(path[:end]) for path in given_paths for end in range(len(path) + 1)} | {()}
        count = int(checked.size[row])
        held = {tuple(tree.tokens[row, tree.path(row, node)[1:]].tolist()) for node in range(count)}
        assert held == prefixes and count == len(prefixes)
        assert tree.depth[row, :count].tolist() == [len(tree.path(row, node)) - 1 for node in range(count)]


@given(st.lists(paths, min_size=2, max_size=2), st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_cut_tree_is_the_beginning_of_the_tree(both, max_nodes, max_depth):
    tree = DraftTree.from_paths(PENDING, both)
    cut = tree.truncate(max_nodes=max_nodes, max_depth=torch.tensor([max_depth, 5]))
    DraftTree.from_parents(cut.tokens, cut.parent, cut.valid)
    for row, bound in enumerate((max_depth, 5)):
        kept = [node for node in range(int(tree.size[row])) if tree.depth[row, node] <= bound][:max_nodes]
        expected = [tuple(tree.tokens[row, tree.path(row, node)].tolist()) for node in kept]
        found = [tuple(cut.tokens[row, cut.path(row, node)].tolist()) for node in range(int(cut.size[row]))]
        assert found == expected


def test_merging_keeps_both_trees_paths():
    one = DraftTree.from_paths(PENDING, [[[1, 2]], []])
    other = DraftTree.from_paths(PENDING, [[[1, 3], [4]], [[5]]])
    both = one.merge(other)
    assert both.tokens.tolist() == [[7, 1, 2, 3, 4], [8, 5, 0, 0, 0]]
    assert both.parent[0].tolist() == [-1, 0, 1, 1, 0]


def test_a_fixed_shape_takes_its_tokens_from_the_candidates_of_each_depth():
    shape = TreeShape.of([(0,), (1,), (0, 0), (0, 1), (1, 0)])
    candidates = torch.tensor([[[10, 11], [20, 21]], [[30, 31], [40, 41]]])
    tree = DraftTree.static(shape, PENDING, candidates)
    assert tree.tokens.tolist() == [[7, 10, 11, 20, 21, 20], [8, 30, 31, 40, 41, 40]]
    assert tree.parent[1].tolist() == [-1, 0, 0, 1, 1, 2]
    assert len(SMALL_TREE.parent) == 26 and SMALL_TREE.max_depth == 5 and SMALL_TREE.max_rank == 3
    assert sum(node not in SMALL_TREE.parent.tolist() for node in range(26)) == 15  # leaves
    cut = SMALL_TREE.truncate(max_depth=4)
    assert len(cut.parent) == 24 and cut.max_depth == 4
    with pytest.raises(ValueError, match="needs 5 depths and 4 candidates, but there are 2 and 2"):
        DraftTree.static(SMALL_TREE, PENDING, candidates)


def test_the_greedy_shape_takes_the_likeliest_nodes():
    shape = TreeShape.greedy([[0.6, 0.2, 0.1], [0.5, 0.1]], 6)  # 0.6, 0.3, 0.2, 0.1, 0.1
    assert shape.choices()[:3] == [(0,), (0, 0), (1,)] and sorted(shape.depth.tolist()) == [0, 1, 1, 1, 2, 2]
    assert len(TreeShape.greedy([[0.6]], 10).parent) == 2
    assert len(TreeShape.greedy([], 10).parent) == 1


@pytest.mark.parametrize(
    ("tokens", "parent", "message"),
    [
        ([[1, 2]], [[-1, -1]], "every node but the root must have a parent"),
        ([[1, 2]], [[0, 0]], "node 0 must be the root"),
        ([[1, 2, 3]], [[-1, 2, 0]], "a parent with a smaller index"),
        ([[1, 2, 2]], [[-1, 0, 0]], "siblings must carry distinct tokens"),
        ([[1, 2]], [[-1, 0, 0]], "must have one shape"),
    ],
)
def test_what_is_no_tree_is_refused(tokens, parent, message):
    with pytest.raises(ValueError, match=message):
        DraftTree.from_parents(torch.tensor(tokens), torch.tensor(parent))


@pytest.mark.parametrize("choices", [[(0, 0)], [(0,), (0,)], [()], [(-1,)]])
def test_what_is_no_shape_is_refused(choices):
    with pytest.raises(ValueError, match="the tree shape holds"):
        TreeShape.of(choices)
