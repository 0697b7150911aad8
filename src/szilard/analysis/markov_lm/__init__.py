"""Diagnostics of a language model as a composition of channels: context, hidden state, next token."""

from szilard.analysis.markov_lm.report import MarkovReport, markov_report

__all__ = ["MarkovReport", "markov_report"]
