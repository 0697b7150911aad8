"""VL-JEPA: predict the embedding of an answer; write text only where somebody reads it."""
