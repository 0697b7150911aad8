"""Settings of `szilard train vl-jepa`."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.information.contrastive import DUPLICATES, LOSSES
from szilard.options import check_bool, check_choice, check_number
from szilard.representation.vl_jepa.scenes import MOST_WORDINGS
from szilard.training.config import TrainingConfig, setting


@dataclass(frozen=True)
class VLJEPAConfig(TrainingConfig):
    """Settings of training VL-JEPA: of the parts, of the generated data, and of each stage."""

    vision: str = setting("", "Hub id or folder of a vision model; nothing: a patch encoder of ours, trained first.")
    predictor: str = setting("", "Hub id or folder of a Llama-like model; nothing: a small one from scratch.")
    predictor_layers: str = setting("8:16", "Which of its layers, as first:last+1.")
    text_encoder: str = setting("", "Hub id or folder of a text encoder; nothing: a small one from scratch.")
    bidirectional: bool = setting(True, "The predictor looks in both directions.")
    embed_dim: int = setting(128, "Width of the embeddings, D; 1536 in the paper.")
    width: int = setting(128, "Of the small predictor.")
    layers: int = setting(4, "Of the small predictor.")
    text_width: int = setting(96, "Of the small text encoder and decoder.")
    text_layers: int = setting(2, "Of the small text encoder and decoder.")
    vision_width: int = setting(96, "Of our patch encoder.")
    vision_layers: int = setting(3, "Of our patch encoder.")
    heads: int = setting(4, "Of all small parts.")
    size: int = setting(32, "Side of the pictures, in pixels.")
    patch: int = setting(8, "Side of a patch, in pixels.")
    y_lr_mult: float = setting(0.05, "The text encoder's share of the learning rate; 0 freezes it.")
    temperature: float = setting(0.07, "First temperature, which learns.")
    loss: str = setting("info_nce", "info_nce, or cosine, l1, l2 (which collapse when the text encoder learns).")
    duplicates: str = setting("ignored", "Equal answers in a batch: ignored, positives or negatives.")
    caption_share: float = setting(0.1, "Captions among the questions, so that they are not forgotten; 0.5 keeps them.")
    decoder_noise: float = setting(0.3, "Length of the noise that the decoder learns to bear.")
    vision_steps: int = setting(300, "Steps of our patch encoder on pictures alone.")
    decoder_steps: int = setting(300, "Steps of the decoder; 0: no decoder.")
    scenes: int = setting(8000, "Generated scenes, where no data is given.")
    wordings: int = setting(MOST_WORDINGS, "Wordings of generated captions and answers, 1 to 5.")
    held_out: int = setting(128, "Generated scenes that are measured on; of data, records.")
    evaluate_every: int | None = setting(None, "Steps between evaluations; none: at the beginning and the end.")
    batch_size: int = setting(64, "Samples per step and process: the negatives of InfoNCE.")
    epochs: float = setting(4.0, "Passes over the captions, and then over the questions.")
    warmup: float = setting(0.05, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(0.01, "Of AdamW.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "embed_dim",
            "width",
            "layers",
            "text_width",
            "text_layers",
            "vision_width",
            "vision_layers",
            "heads",
            "patch",
            "scenes",
        ):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("size", self.size, low=max(8, self.patch), integer=True)
        for name in ("vision_steps", "decoder_steps"):
            check_number(name, getattr(self, name), low=0, integer=True)
        check_number("held_out", self.held_out, low=2, integer=True)
        check_number("y_lr_mult", self.y_lr_mult, low=0, high=1)
        check_number("temperature", self.temperature, low=0.01)
        check_number("decoder_noise", self.decoder_noise, low=0)
        check_number("caption_share", self.caption_share, low=0, high=0.9)
        check_number("wordings", self.wordings, low=1, high=MOST_WORDINGS, integer=True)
        check_number("evaluate_every", self.evaluate_every, low=1, integer=True, optional=True)
        check_bool("bidirectional", self.bidirectional)
        check_choice("loss", self.loss, LOSSES)
        check_choice("duplicates", self.duplicates, DUPLICATES)
        widths = {"width": self.width, "text_width": self.text_width, "vision_width": self.vision_width}
        for name, width in widths.items():
            if width % (2 * self.heads):
                raise ValueError(f"{name}={width} must be a multiple of twice heads={self.heads}.")
        if self.size % self.patch:
            raise ValueError(f"patch={self.patch} must divide size={self.size}.")
        _ = self.chosen_layers

    @property
    def chosen_layers(self) -> slice:
        """`predictor_layers` as a slice."""
        first, colon, last = self.predictor_layers.partition(":")
        try:
            if not colon:
                raise ValueError
            return slice(int(first) if first else 0, int(last) if last else None)
        except ValueError:
            raise ValueError(
                f"predictor_layers must be written first:last+1, as in 8:16, not {self.predictor_layers!r}."
            ) from None
