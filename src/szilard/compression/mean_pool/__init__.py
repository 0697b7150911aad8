"""Mean pooling of a frozen model's hidden states: the baseline of every soft compressor."""
