"""Settings of `szilard train arc-encoder`, stage by stage; no heavy import, so that the command line can show them.

Defaults are the paper's (ARC-Encoder, arXiv 2510.20535, and its configurations), except where it says "ours".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import CorpusConfig, setting

STAGES = ("pretrain", "finetune", "add-decoder")
_SETTLED = ("encoder", "truncate_layers", "attention", "queries")  # by the checkpoint that a later stage begins with


@dataclass(frozen=True)
class ArcConfig(CorpusConfig):
    """Pre-training: reconstruction and continuation of passages.

    # Paper: one-cycle cosine from 1e-20 to 1e-10; here: linear warm-up from 0, cosine to 0, as every training here.
    """

    stage: str = setting("pretrain", "pretrain or add-decoder (on texts), or finetune (on questions about contexts).")
    steps: int | None = setting(80_000, "Optimiser steps (finetune: 4000, add-decoder: 8000, ours); none: by epochs.")
    batch_size: int = setting(16, "Sequences per step and process (finetune: 8).")
    learning_rate: float = setting(1e-5, "Largest learning rate of the encoder (finetune: 2e-6).")
    special_learning_rate: float = setting(1e-5, "Of <Cont> and <Rec> (finetune: 2e-6, add-decoder: 1e-4).")
    projector_learning_rate: float = setting(5e-5, "Of the projectors (finetune: 3e-5, add-decoder: 1e-4).")
    warmup: float = setting(0.0125, "Share of the steps in which the learning rates rise.")
    weight_decay: float = setting(0.1, "Of AdamW (finetune: 0.05).")
    beta_2: float = setting(0.95, "Second momentum of AdamW.")
    max_length: int = setting(1_000_000, "Longer texts are cut, in tokens (ours).")
    window: int = setting(256, "Tokens of a context; longer documents of questions are cut (finetune: 2048).")
    target: int = setting(256, "Tokens that follow a context and are predicted, at most.")
    before: int = setting(256, "Plain tokens in front of a context, at most; how many is drawn; 0: none.")
    reconstruction: float = setting(0.2, "Share of the batches that repeat the context in the place of continuing it.")
    pooling_factor: int | None = setting(8, "x, tokens per vector (later stages: none, the checkpoint's).")
    pooling_layers: int = setting(1, "So many last layers pool by pooling_factor each.")
    vectors: int | None = setting(None, "This many vectors, whatever the length, in the place of pooling_factor.")
    truncate_layers: int = setting(2, "Last layers of the encoder's model that are left out.")
    bottleneck: int | None = setting(None, "b, width inside the projector; none: two thirds of the encoder's.")
    attention: str = setting("full", "Of the encoder: full, or causal (ablation).")
    queries: str = setting("mean", "Of a group: the mean of its hidden states, or the last of them (ablation).")
    encoder: str = setting("", "Hub id or folder of the model that becomes the encoder; empty: the decoder's own.")
    checkpoint: str = setting("", "Folder or hub id of the arc-encoder to begin with (finetune, add-decoder).")
    match_scale: bool = setting(False, "Begin with vectors as large as token embeddings (ours; pretrain, add-decoder).")
    decoder_name: str = setting("", "What the decoder is called in the add-on; empty: by its model.")
    decoder_steps: str = setting("uniform", "Of several decoders a step trains one: uniform (drawn), or alternating.")
    chunk: int | None = setting(None, "Contexts are read in pieces of so many tokens, which do not see one another.")
    instruct: bool = setting(False, "Ask in words through the chat template, without <Cont> and <Rec>.")
    shots: int = setting(5, "Questions with answers in front of the one that counts (finetune).")
    freeze_encoder: bool = setting(False, "Train projectors and special tokens alone (add-decoder: always).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("stage", self.stage, STAGES)
        for name in ("special_learning_rate", "projector_learning_rate"):
            check_number(name, getattr(self, name), low=0)
        check_number("target", self.target, low=2, integer=True)
        check_number("before", self.before, low=0, integer=True)
        check_number("shots", self.shots, low=0, integer=True)
        check_number("reconstruction", self.reconstruction, low=0, high=1)
        check_number("truncate_layers", self.truncate_layers, low=0, integer=True)
        check_number("pooling_layers", self.pooling_layers, low=1, integer=True)
        for name in ("pooling_factor", "vectors", "bottleneck", "chunk"):
            check_number(name, getattr(self, name), low=1, integer=True, optional=True)
        check_choice("attention", self.attention, ("full", "causal"))
        check_choice("queries", self.queries, ("mean", "last"))
        check_choice("decoder_steps", self.decoder_steps, ("uniform", "alternating"))
        check_bool("instruct", self.instruct)
        check_bool("match_scale", self.match_scale)
        check_bool("freeze_encoder", self.freeze_encoder)
        if self.stage == "pretrain":
            if self.checkpoint:
                raise ValueError("pretrain makes a new encoder: checkpoint belongs to finetune and add-decoder.")
            if self.pooling_factor is None and self.vectors is None:
                raise ValueError("pretrain needs pooling_factor or vectors.")
            return
        changed = [f.name for f in fields(self) if f.name in _SETTLED and getattr(self, f.name) != f.default]
        if changed:
            raise ValueError(f"{changed[0]} is settled by the checkpoint in the stage {self.stage}: leave it out.")
        if self.stage == "add-decoder" and not self.freeze_encoder:
            raise ValueError("add-decoder leaves the encoder as its other decoders know it: leave freeze_encoder on.")


@dataclass(frozen=True)
class ArcFinetuneConfig(ArcConfig):
    """Fine-tuning on questions, in a few-shot prompt of which every document is compressed."""

    stage: str = setting("finetune", "")
    steps: int | None = setting(4_000, "")
    batch_size: int = setting(8, "")
    learning_rate: float = setting(2e-6, "")
    special_learning_rate: float = setting(2e-6, "")
    projector_learning_rate: float = setting(3e-5, "")
    weight_decay: float = setting(0.05, "")
    window: int = setting(2048, "")
    pooling_factor: int | None = setting(None, "")


@dataclass(frozen=True)
class ArcAddDecoderConfig(ArcConfig):
    """A projector, <Cont> and <Rec> for one more decoder; the encoder stays as it is."""

    stage: str = setting("add-decoder", "")
    steps: int | None = setting(8_000, "")
    special_learning_rate: float = setting(1e-4, "")
    projector_learning_rate: float = setting(1e-4, "")
    pooling_factor: int | None = setting(None, "")
    freeze_encoder: bool = setting(True, "")


CONFIGS: dict[str, type[ArcConfig]] = {
    "pretrain": ArcConfig,
    "finetune": ArcFinetuneConfig,
    "add-decoder": ArcAddDecoderConfig,
}
