"""szilard: information-aware inference."""

__version__ = "0.1.0"
