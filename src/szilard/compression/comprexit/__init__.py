"""ComprExIT: a context's hidden states of all layers, mixed token by token, moved into slots by optimal transport."""
