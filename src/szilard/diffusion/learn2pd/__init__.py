"""Learn2PD: a learned filter says which predictions of a block are final."""
