"""Settings of REFRAG's four stages."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import CorpusConfig, setting

# The paper's largest learning rates; it names none for the policy: 1e-4 (inferred).
LEARNING_RATES = {"reconstruction": 2e-4, "cpt": 5e-5, "policy": 1e-4, "sft": 2e-5}
STAGES = tuple(LEARNING_RATES)
POOLINGS = ("auto", "first", "mean", "last")
CHUNK, ENCODER = 16, "FacebookAI/roberta-large"


@dataclass(frozen=True)
class RefragConfig(CorpusConfig):
    """One stage. Defaults are the paper's where it names any."""

    stage: str = setting("reconstruction", "reconstruction, cpt, policy or sft, in this order.")
    start: str | None = setting(None, "Folder of the stage before; policy and sft need one.")
    chunk: int | None = setting(None, "Tokens of a chunk, k (without a start: 16).")
    encoder: str | None = setting(
        None, f"Folder or hub id of the chunks' encoder, or small (without a start: {ENCODER})."
    )
    pooling: str = setting("auto", "Which state of the encoder: first, mean, last, or auto (what fits it).")
    encoder_width: int = setting(128, "Of the encoder small.")
    encoder_layers: int = setting(2, "Of the encoder small.")
    context: int = setting(2048, "Context tokens of a passage, s; in sft those of a question, at most.")
    target: int = setting(2048, "Tokens that follow a context in cpt and policy, o.")
    curriculum: bool = setting(True, "From single chunks to whole contexts (reconstruction, cpt); else whole ones.")
    keep: float | None = setting(None, "Share of chunks that stay tokens, p (policy: 0.1; cpt, sft: 0; at random).")
    lora: bool = setting(False, "Low-rank changes of the decoder in cpt and sft, instead of all its weights.")
    rank: int = setting(16, "Of the low-rank changes.")
    group: int = setting(8, "Sequences that GRPO draws of a context, G.")
    clip: float = setting(0.2, "Of GRPO's ratio, epsilon.")
    inner_epochs: int = setting(4, "Steps on the same sequences of GRPO; divides save_every.")
    learning_rate: float = setting(0.0, "Largest of AdamW; 0: 2e-4, 5e-5, 1e-4 and 2e-5 for the four stages.")
    warmup: float = setting(0.04, "Share of the steps in which the learning rate rises.")
    epochs: float = setting(4.0, "Passes over the data.")
    max_length: int = setting(1_000_000, "Longer texts are cut, in tokens.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("stage", self.stage, STAGES)
        check_choice("pooling", self.pooling, POOLINGS)
        check_number("chunk", self.chunk, low=1, integer=True, optional=True)
        for name in ("encoder_width", "encoder_layers", "context", "target", "rank", "inner_epochs"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("group", self.group, low=2, integer=True)
        check_number("keep", self.keep, low=0, high=1, optional=True)
        check_number("clip", self.clip, low=0, high=1)
        check_bool("curriculum", self.curriculum)
        check_bool("lora", self.lora)
        if self.start is None and self.stage in ("policy", "sft"):
            raise ValueError(f"stage {self.stage!r} goes on from another: start='folder of it'.")
        if self.start is not None and (self.encoder is not None or self.pooling != "auto"):
            raise ValueError("encoder and pooling come with start: leave them out.")
        if self.stage == "reconstruction" and self.keep:
            raise ValueError("in reconstruction every chunk is a vector: leave keep out.")
        if self.stage == "policy" and self.save_every % self.inner_epochs:
            raise ValueError(
                f"save_every={self.save_every} must be a multiple of inner_epochs={self.inner_epochs}, so that a "
                "resumed run begins with new sequences."
            )
        if not self.learning_rate:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.stage])

    @property
    def share(self) -> float:
        """p of this stage."""
        return (0.1 if self.stage == "policy" else 0.0) if self.keep is None else self.keep

    @property
    def tunes(self) -> str:
        """What of the decoder learns: "nothing", "changes" or "everything"."""
        if self.stage in ("reconstruction", "policy"):
            return "nothing"
        return "changes" if self.lora else "everything"
