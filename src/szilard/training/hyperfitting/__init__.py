"""Hyperfitting: tune a model on very few sequences until nothing is left to learn; greedy text stops looping."""
