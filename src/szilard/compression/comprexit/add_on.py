"""The trained part of ComprExIT: gates, transport and a projector, about a hundredth of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from szilard.compression.comprexit.depth import DepthTransmission
from szilard.compression.comprexit.width import WidthTransmission, fields, slots_per_window
from szilard.engines.model_parts import weights_fingerprint
from szilard.options import check_bool, check_choice, check_number
from szilard.training.add_on import AddOn


@dataclass(frozen=True)
class Transmitted:
    """A batch of compressed pieces; "places" are the windows' positions, W of each.

    Attributes:
        slots: Z, [batch, windows K_w, d]: what the decoder reads.
        valid: bool [batch, windows K_w], which of them are slots.
        pooled: z, the slots before the projector, [batch, windows K_w, d].
        gates: [batch, tokens, L + 1].
        plan: [batch, windows, W, K_w].
        capacity: [batch, windows, W].
        places: int64 [batch, windows, W]: the token at each place, -1 for none.
    """

    slots: torch.Tensor
    valid: torch.Tensor
    pooled: torch.Tensor
    gates: torch.Tensor
    plan: torch.Tensor
    capacity: torch.Tensor
    places: torch.Tensor


class ComprExITAddOn(AddOn):
    """Depth-wise transmission, width-wise transmission and the projector.

    Args:
        base: of the model, as `AddOn`.
        layers: L, decoder layers of the model.
        ratio: r, tokens per slot.
        window: W, tokens that share a plan.
        gate_width: g.
        metric_width: d_c.
        temperature: tau, of the gates.
        capacity_temperature: of the senders' softmax.
        floor: lambda, the share of the senders' capacity that is spread evenly.
        epsilon: of the plan's entropy.
        iterations: turns of Sinkhorn's algorithm.
        gain: of the projector's initial weights.
        transmission: "transport", or "attention" (the ablation: every slot takes for itself).
        capacity: "learned", or "uniform".
        source: None: gates over all layers; a number: only that hidden state, 0 the embeddings.
        unit_states: bring hidden states to a root mean square of 1 first. The paper does not; where the residual
            stream is large (in SmolLM2 hundreds, at the first token 24,000), gates are stuck on one layer without it.
        position: weight of a token's distance from a field, in windows, in the cost. The paper's is 0; larger ones keep
            slots to their places.
        alignment: where the windows of a piece begin: "first": at its first token, so that all but the last are full;
            "last": they end with its last token, so that all but the first are full (the released code, whose
            contexts are padded on the left to 512).
    """

    slug: ClassVar[str] = "comprexit"

    def __init__(
        self,
        base: dict[str, Any],
        layers: int,
        ratio: float = 4,
        window: int = 128,
        gate_width: int = 256,
        metric_width: int = 256,
        temperature: float = 0.7,
        capacity_temperature: float = 1.0,
        floor: float = 0.05,
        epsilon: float = 0.1,
        iterations: int = 30,
        gain: float = 0.4,
        transmission: str = "transport",
        capacity: str = "learned",
        source: int | None = None,
        unit_states: bool = False,
        alignment: str = "first",
        position: float = 0.0,
    ) -> None:
        super().__init__(base)
        for name, whole in (("layers", layers), ("window", window), ("iterations", iterations)):
            check_number(name, whole, low=1, integer=True)
        for name, whole in (("gate_width", gate_width), ("metric_width", metric_width)):
            check_number(name, whole, low=1, integer=True)
        check_number("ratio", ratio, low=1)
        for name, number in (("temperature", temperature), ("capacity_temperature", capacity_temperature)):
            check_number(name, number, low=1e-6)
        check_number("floor", floor, low=0, high=1)
        check_number("epsilon", epsilon, low=1e-6)
        check_number("gain", gain, low=0)
        check_number("source", source, low=0, high=layers, integer=True, optional=True)
        check_choice("transmission", transmission, ("transport", "attention"))
        check_choice("capacity", capacity, ("learned", "uniform"))
        check_choice("alignment", alignment, ("first", "last"))
        check_number("position", position, low=0)
        check_bool("unit_states", unit_states)
        self.layers, self.ratio, self.window, self.alignment = layers, ratio, window, alignment
        self.depth = DepthTransmission(
            self.hidden_size,
            layers + 1,
            gate_width=gate_width,
            temperature=temperature,
            source=source,
            unit_states=unit_states,
        )
        self.width = WidthTransmission(
            self.hidden_size,
            metric_width=metric_width,
            transmission=transmission,
            capacity=capacity,
            capacity_temperature=capacity_temperature,
            floor=floor,
            epsilon=epsilon,
            iterations=iterations,
            position=position,
        )
        self.projector = nn.Sequential(
            nn.Linear(self.hidden_size, self.hidden_size),
            nn.GELU(),
            nn.Linear(self.hidden_size, self.hidden_size),
        )
        for layer in (self.projector[0], self.projector[2]):
            nn.init.xavier_uniform_(layer.weight, gain=gain)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @classmethod
    def from_causal_lm(cls, model: Any, *, seed: int = 0, **settings: Any) -> ComprExITAddOn:
        """An untrained one for a model.

        Args:
            model: a causal language model of transformers, or an engine with one.
            seed: of the initial weights.
            settings: of the add-on.

        Raises:
            ValueError: an engine without such a model, or a setting out of range.
        """
        name = getattr(model, "name", None)
        if hasattr(model, "kind") and model.kind != "transformers":
            raise ValueError(f"comprexit reads hidden states, which {name} on {model.kind} does not give.")
        model = getattr(model, "model", model) if hasattr(model, "kind") else model
        config = model.config.get_text_config()
        base = {
            "name": name or model.name_or_path or type(model).__name__,
            "fingerprint": weights_fingerprint(model),
            "hidden_size": int(config.hidden_size),
            "vocab_size": int(config.vocab_size),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(base, int(config.num_hidden_layers), **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, by name."""
        return dict(self._hub_mixin_config)  # type: ignore[arg-type]

    def slots_per_window(self, ratio: float | None = None) -> int:
        """K_w at the trained ratio, or at another one: no weight depends on it."""
        return slots_per_window(self.window, self.ratio if ratio is None else ratio)

    def positions(self, length: int, slots: int, segment: int) -> int:
        """Slots of a context of so many tokens, read in segments, at K_w slots per window."""
        owner = fields(self.window, slots)
        whole, rest = divmod(length, segment)
        total = 0
        for times, tokens in ((whole, segment), (1, rest)):
            windows, left = divmod(tokens, self.window)
            part = owner[:left] if self.alignment == "first" else owner[self.window - left :]
            total += times * (windows * slots + len(part.unique()))
        return total

    def forward(self, hidden: Sequence[torch.Tensor], mask: torch.Tensor, slots: int | None = None) -> Transmitted:
        """Compress a batch of pieces.

        Args:
            hidden: what the model gives with `output_hidden_states`, L + 1 tensors [batch, tokens, d], padded on the
                right.
            mask: bool [batch, tokens].
            slots: K_w; None: of the trained ratio.
        """
        slots = self.slots_per_window() if slots is None else slots
        anchors, gates = self.depth(hidden, mask)
        places = self.places(mask.sum(1), mask.shape[1])
        inside = places >= 0
        index = places.clamp(min=0).flatten(1)[..., None].expand(-1, -1, anchors.shape[-1])
        windows = anchors.gather(1, index).unflatten(1, places.shape[1:]) * inside[..., None]
        moved = self.width(windows, inside, slots)
        pooled = moved.slots.flatten(1, 2)
        valid = moved.valid.flatten(1)
        made = self.projector(pooled) * valid[..., None]
        return Transmitted(made, valid, pooled, gates, moved.plan, moved.capacity, places)

    def places(self, lengths: torch.Tensor, longest: int) -> torch.Tensor:
        """The token at every place of every window, int64 [batch, windows, W]; -1: none.

        Paper: windows are counted in the padded sequence; here: in each row's own tokens, because then a text is
        compressed the same whatever it is batched with.

        Args:
            lengths: tokens of each row, int64 [batch].
            longest: of them, or more.
        """
        windows = -(-longest // self.window)
        place = torch.arange(windows * self.window, device=lengths.device).expand(len(lengths), -1)
        if self.alignment == "last":
            place = place - (-lengths % self.window)[:, None]
        return torch.where((place >= 0) & (place < lengths[:, None]), place, -1).unflatten(1, (windows, self.window))
