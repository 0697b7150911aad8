"""Medusa: heads that guess the tokens after the next from one hidden state."""
