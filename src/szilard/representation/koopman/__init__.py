"""Koopman models: a latent space in which a nonlinear system moves linearly."""
