"""ARC-Encoder: an encoder whose last layer pools its queries, and a linear way into the decoder's embeddings."""
