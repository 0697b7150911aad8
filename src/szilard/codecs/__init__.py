"""Learned image codecs: entropy models decide how many bits a latent costs, and a file is at the end."""
