"""Concepts in hidden states: posteriors, probes, and sparse autoencoders that are to find them."""
