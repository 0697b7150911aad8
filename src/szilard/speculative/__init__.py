"""Speculative decoding: drafters propose trees of continuations, one forward of the model verifies them."""

from szilard.speculative.tree import DraftTree, Proposal, TreeShape

__all__ = ["DraftTree", "Proposal", "TreeShape"]
