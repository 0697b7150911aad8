"""What models and tokenizers call the tokens that stand for a picture, and those before and after it."""

from __future__ import annotations

# Where configurations keep the ids of the image placeholder, and of what stands before and after it.
PLACEHOLDER_FIELDS = ("image_token_id", "image_token_index")
BORDER_FIELDS = (
    "vision_start_token_id",
    "vision_end_token_id",
    "image_start_token_id",
    "image_end_token_id",
    "boi_token_id",
    "boi_token_index",
    "eoi_token_id",
    "eoi_token_index",
)
# What tokenizers call them, for configurations that do not say.
VISUAL_TOKENS = (
    "<|vision_start|>",
    "<|image_pad|>",
    "<|vision_end|>",
    "<vision_start>",
    "<image>",
    "<vision_end>",
    "<fake_token_around_image>",
    "<start_of_image>",
    "<image_soft_token>",
    "<end_of_image>",
    "<img>",
    "</img>",
)
