"""Masked diffusion language models: a canvas of masks, filled in rounds."""
