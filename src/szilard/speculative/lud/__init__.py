"""Lexical Unit Decoding: a model tuned to write several sure tokens at once."""
