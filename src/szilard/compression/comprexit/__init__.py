"""ComprExIT: a context's hidden states of all layers, mixed token by token and moved into slots by optimal transport."""
