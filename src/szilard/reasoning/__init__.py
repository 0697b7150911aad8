"""Reasoning that is not spelled out: latent chains, what they are trained on, and the spelled-out baselines."""
