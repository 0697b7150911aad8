"""Latent-SFT: a chain of thought as a short chain of distributions over the vocabulary."""
