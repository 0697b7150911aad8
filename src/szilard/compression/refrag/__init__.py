"""REFRAG: retrieved passages as one vector per chunk, a few chunks left as tokens."""
