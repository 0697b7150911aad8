"""LLMLingua-2: a small encoder says of every word whether it is worth keeping."""
