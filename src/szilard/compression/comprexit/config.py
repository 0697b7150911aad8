"""Settings of `szilard train comprexit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import CorpusConfig, setting

# Of the add-on; `ComprExITAddOn` says what each is, and checks it.
SHAPE = (
    *("ratio", "window", "gate_width", "metric_width", "temperature", "capacity_temperature", "floor", "epsilon"),
    *("iterations", "gain", "transmission", "capacity", "source", "unit_states", "alignment", "position"),
)
PAPER_PROMPT = "Question: {prompt}Answer the question directly with a short span only, no explanation. Answer:"
WARMUP = {"ntp": 0.05, "sft": 0.0}


@dataclass(frozen=True)
class ComprExITConfig(CorpusConfig):
    """Settings of both stages; the paper's defaults for the first."""

    stage: str = setting("ntp", "ntp: contexts and the text that follows; sft: questions about contexts, with answers.")
    start: str | None = setting(None, "Folder or hub id of an add-on to go on from: sft after ntp.")
    context: int = setting(512, "Tokens of a context; of longer ones of questions the tail is kept.")
    target: int = setting(128, "Tokens behind a context: those that follow it, or question and answer, at most.")
    packed: bool = setting(True, "ntp: cut contexts from the texts joined, not from each text by itself.")
    prompt_form: str = setting(
        PAPER_PROMPT,
        "sft: what stands behind the slots, with {prompt} in it; or chat: the model's template, as in use.",
    )
    measured: int = setting(256, "Held-out contexts that are measured at the end, at most.")
    ratio: float = setting(4.0, "Tokens per slot, r.")
    window: int = setting(128, "Tokens that share a transport plan, W.")
    gate_width: int = setting(256, "Width of the gates' queries and keys, g.")
    metric_width: int = setting(256, "Width of the cost's metric, d_c.")
    temperature: float = setting(0.7, "Of the gates, tau.")
    capacity_temperature: float = setting(1.0, "Of the senders' capacities.")
    floor: float = setting(0.05, "Share of the senders' capacity that is spread evenly, lambda.")
    epsilon: float = setting(0.1, "Entropy of the plan.")
    iterations: int = setting(30, "Turns of Sinkhorn's algorithm.")
    gain: float = setting(0.4, "Of the projector's initial weights.")
    transmission: str = setting("transport", "transport, or attention: every slot takes for itself (ablation).")
    capacity: str = setting("learned", "learned or uniform (ablation).")
    source: int | None = setting(None, "Read this hidden state only, 0 the embeddings, instead of all (ablation).")
    unit_states: bool = setting(False, "Bring hidden states to a root mean square of 1, for models with large ones.")
    alignment: str = setting("first", "Windows begin at a context's first token, or end at its last (released code).")
    position: float = setting(
        0.0, "Weight of a token's distance from a field in the cost, in windows (ours; paper: 0)."
    )
    epochs: float = setting(1.0, "Passes over the data.")
    batch_size: int = setting(16, "Contexts per step and process.")
    gradient_accumulation: int = setting(32, "Batches whose gradients are added before a step.")
    learning_rate: float = setting(1e-4, "Largest learning rate of AdamW.")
    schedule: str = setting("linear", "cosine, linear or constant, after the warm-up.")
    warmup: float | None = setting(  # type: ignore[assignment]
        None, "Share of the steps in which the learning rate rises; none: 0.05 for ntp, 0 for sft."
    )
    max_grad_norm: float = setting(20.0, "Gradients are scaled down to this norm; 0: never.")
    max_length: int = setting(1_000_000, "Longer texts are cut, in tokens.")

    def __post_init__(self) -> None:
        check_choice("stage", self.stage, tuple(WARMUP))
        if self.warmup is None:
            object.__setattr__(self, "warmup", WARMUP[self.stage])
        super().__post_init__()
        for name in ("context", "target"):
            check_number(name, getattr(self, name), low=4, integer=True)
        check_number("measured", self.measured, low=1, integer=True)
        check_bool("packed", self.packed)
        if self.prompt_form != "chat" and "{prompt}" not in self.prompt_form:
            raise ValueError(f"prompt_form must be 'chat', or a text with {{prompt}} in it, not {self.prompt_form!r}.")

    @property
    def shape(self) -> dict[str, Any]:
        """The add-on's settings."""
        return {name: getattr(self, name) for name in SHAPE}
