"""Settings of the trainings of drafting heads; no heavy import, so that the command line can show them."""

from __future__ import annotations

from dataclasses import dataclass

from szilard.options import check_choice, check_number
from szilard.training.config import CorpusConfig, setting


@dataclass(frozen=True)
class DraftConfig(CorpusConfig):
    """Settings that the training of every drafting head shares."""

    positions: int = setting(256, "Positions per batch from which tokens are drafted; bounds memory.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("positions", self.positions, low=1, integer=True)


@dataclass(frozen=True)
class HeadsConfig(DraftConfig):
    """Settings of trainings with one loss per depth."""

    decay: float = setting(1.0, "Weight of the loss of depth j is decay ** (j - 1).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, low=0, high=1)


@dataclass(frozen=True)
class MedusaConfig(HeadsConfig):
    """Settings of `szilard train medusa`."""

    heads: int = setting(4, "Heads, which is how many tokens ahead are drafted.")
    head: str = setting("shared", "shared: the model's output layer; full: one of its own per head.")
    decay: float = setting(0.8, "Weight of the loss of depth j is decay ** (j - 1).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("heads", self.heads, low=1, integer=True)
        check_choice("head", self.head, ("shared", "full"))


@dataclass(frozen=True)
class ChimeraConfig(HeadsConfig):
    """Settings of `szilard train chimera`."""

    learning_rate: float = setting(2e-4, "Largest learning rate of AdamW.")
    heads: int = setting(4, "Depths that are drafted.")
    head: str = setting("shared", "shared: through the model's output layer; full: a matrix of its own per depth.")
    trigram: str = setting("official", "Trigram encoder: official, paper, or off (the last token alone).")
    use_context: bool = setting(True, "Let the drafter see the text's hidden states; false: ablation.")
    use_hidden: bool = setting(True, "Let the heads see the last true hidden state; false: ablation.")
    w_hidden: float = setting(1.0, "Weight of the distance of outputs from the hidden states they stand for.")
    w_logits: float = setting(0.0, "Weight of the distance from the model's own logits.")
    logits_distance: str = setting("kl", "Of w_logits: kl (divergence of the distributions), or mse (of the logits).")
    labels: str = setting("gold", "Tokens to be guessed: gold (the text's own), or base (what the model would choose).")
    draft_inputs: str = setting("gold", "Tokens behind the pending one in training: gold, or predicted.")
    detach_heads: bool = setting(False, "Keep the heads' loss from the encoders, which then learn by w_hidden alone.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("heads", self.heads, low=1, integer=True)
        check_choice("head", self.head, ("shared", "full"))
        check_choice("trigram", self.trigram, ("official", "paper", "off"))
        check_choice("draft_inputs", self.draft_inputs, ("gold", "predicted"))
        check_choice("logits_distance", self.logits_distance, ("kl", "mse"))
        check_choice("labels", self.labels, ("gold", "base"))
        check_number("w_hidden", self.w_hidden, low=0)
        check_number("w_logits", self.w_logits, low=0)
        if self.detach_heads and not self.w_hidden:
            raise ValueError("detach_heads needs w_hidden above 0: with neither, nothing trains the encoders.")


@dataclass(frozen=True)
class HiddenTransferConfig(HeadsConfig):
    """Settings of `szilard train hidden-transfer`."""

    transfer_steps: int = setting(3, "Pseudo states per token, which is how many tokens ahead are drafted.")
    layers: str = setting("", "Layer after which each step enters, as in 22,20,20; empty: 0.75 and 0.65 of all.")
    bias: bool = setting(False, "Give the projections a bias.")
    pseudo_attention: bool = setting(True, "Let a step see the steps before it.")
    positions: int = setting(64, "Positions of a batch from which tokens are drafted (the paper: 64 of a text).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("transfer_steps", self.transfer_steps, low=1, integer=True)
        if self.layers:
            entered = [part.strip() for part in self.layers.split(",")]
            if len(entered) != self.transfer_steps or not all(part.isdigit() for part in entered):
                raise ValueError(
                    f"layers must be {self.transfer_steps} numbers, one per step, as in 22,20,20, not {self.layers!r}."
                )


@dataclass(frozen=True)
class FlashConfig(DraftConfig):
    """Settings of `szilard train flash`."""

    learning_rate: float = setting(3e-5, "Largest learning rate of AdamW.")
    schedule: str = setting("linear", "cosine, linear or constant, after the warm-up.")
    beta_2: float = setting(0.95, "Second momentum of AdamW.")
    max_grad_norm: float = setting(0.0, "Gradients are scaled down to this norm; 0: never.")
    max_grad_value: float = setting(0.5, "Gradients are cut to this size, each number; 0: never.")
    draft_tokens: int = setting(5, "Tokens drafted per forward of the drafter, K.")
    latents: int = setting(64, "Vectors that stand for an image, C; 0: images are left out.")
    compression: str = setting("latents", "Image slots: latents, mean (of C equal parts), or none.")
    head: str = setting("block", "block: a decoder layer and the joint projection; official: attention alone.")
    w_feature: float = setting(1.0, "Weight of the distance of predicted from true features, v_w.")
    w_token: float = setting(0.1, "Weight of the cross-entropy with the model's own distribution, p_w.")
    noise: float = setting(0.1, "Half-width of the noise on features, times 512 / length of the stretch.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("draft_tokens", self.draft_tokens, low=1, integer=True)
        check_number("latents", self.latents, low=0, integer=True)
        check_choice("compression", self.compression, ("latents", "mean", "none"))
        check_choice("head", self.head, ("block", "official"))
        for name in ("w_feature", "w_token", "noise"):
            check_number(name, getattr(self, name), low=0)


@dataclass(frozen=True)
class LudConfig(DraftConfig):
    """Settings of `szilard train lud`."""

    learning_rate: float = setting(1e-4, "Largest learning rate of AdamW (1e-5 to 2e-5 without LoRA).")
    alpha: float = setting(0.9, "Tokens of at least this probability form lexical units.")
    window_tokens: int = setting(4, "Tokens predicted at once, k; longer units are split.")
    supervise: str = setting("window", "unit: only tokens of units; window: all k, so that confidence is calibrated.")
    lora: bool = setting(True, "Tune low-rank adapters; false: every weight.")
    rank: int = setting(16, "Of the adapters.")
    w_parallel: float = setting(1.0, "Weight of the tokens predicted at once against those one by one.")
    branches: int = setting(32, "Windows per stretch of text that are trained; bounds memory.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, low=0)
        check_number("window_tokens", self.window_tokens, low=2, integer=True)
        check_choice("supervise", self.supervise, ("unit", "window"))
        check_number("rank", self.rank, low=1, integer=True)
        check_number("w_parallel", self.w_parallel, low=0)
        check_number("branches", self.branches, low=1, integer=True)
