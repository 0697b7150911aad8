"""Masked diffusion language models: answers that are unmasked, several tokens at a time."""
