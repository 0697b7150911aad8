"""What can be read off a model without decoding: profiles over layers and heads."""
