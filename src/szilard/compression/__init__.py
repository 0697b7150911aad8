"""Prompts and contexts in fewer tokens: words dropped (text for any model), or vectors in the place of tokens."""
