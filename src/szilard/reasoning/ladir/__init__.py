"""LaDiR: reasoning by the denoising of latent thought tokens, block after block."""
