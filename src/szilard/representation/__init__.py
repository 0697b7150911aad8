"""What a representation holds: quantised latents, operators of dynamics, concepts, embeddings of what is seen."""
