"""Hidden Transfer: pseudo hidden states of the next tokens, made at a middle layer and refined by the layers above."""
