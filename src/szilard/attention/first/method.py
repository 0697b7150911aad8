"""FiRST: a tiny router in front of every layer reads the prompt and says which layers its answer needs.

Jain, Sharma, Mukherjee, Pal 2024, "FiRST: Finetuning Router-Selective Transformers for Input-Adaptive Latency
Reduction", Findings of EMNLP 2025, arXiv 2410.12513. No code was released. What is marked (inferred) is a
reconstruction: the form of the routers, how tokens' probabilities become a decision, and its threshold.

Layer i computes H_{i+1} = H_i + Phi_i(H_i). While the prompt is read, with x_t the hidden state of token t before it,

    rho_{i,t} = sigmoid(w_i x_t + b_i)        probability that the layer is kept                 [batch, prompt]
    rho_i     = mean_t rho_{i,t}              over the prompt's tokens (inferred)                 [batch]
    keep_i    = rho_i > tau                   or: skip exactly so many layers, the smallest rho_i first (inferred)

The decision holds for every generated token: a skipped layer is the identity and stores nothing. Positions are counted
in the text, never in a skipped layer's cache.

# Paper: how a batch is decoded is not said, the nearest reading is one set of layers for the batch (`batch="union"`);
# here: by default every row gets the layers that it gets alone, because its text should not depend on its neighbours.
# A layer runs for the batch where some row needs it, and rows that skip it keep their hidden states.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.attention.first.choose import below, lowest, most_skippable
from szilard.attention.first.routers import LayerRouters
from szilard.attention.method import AttentionMethod
from szilard.attention.skippable import SkippableLayer
from szilard.attention.skipping import PREFILL, SkippingSession
from szilard.engines.model_parts import weights_fingerprint
from szilard.options import check_choice, check_ids, check_number
from szilard.training.add_on import opened

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class First(AttentionMethod):
    """Layers skipped while generating, chosen by the prompt.

    Attributes:
        routers: a `LayerRouters`, or the folder or hub id of one; `szilard train first` makes it. Weights that were
            tuned with it are the model's while the method is open.
        threshold: tau: layers whose keep-probability is at most this are skipped; 0: none (inferred).
        rate: share of the layers to skip in the place of a threshold: exactly round(rate L), those with the smallest
            keep-probabilities (ours); 0: none.
        prefill: "full": the prompt is read by all layers, skipped ones are left afterwards; "skip": layers are skipped
            for the prompt, too, so later routers see what the layers before them left (inferred).
        batch: "rows": each row its own layers (ours); "union": a layer that some row of the batch needs is run for all.
        protect: layers that are never skipped, negative ones from the end (inferred).
        max_consecutive: layers in a row that may be skipped; None: any number (inferred).
        aggregate: of the prompt's tokens: "mean" of their probabilities, the "last" one's, or "vote": the share of
            them above one half (inferred).
    """

    slug: ClassVar[str] = "first"
    paper: ClassVar[str] = "Jain et al., Findings of EMNLP 2025, arXiv 2410.12513"

    routers: LayerRouters | str | None = None
    threshold: float = 0.5
    rate: float | None = None
    prefill: str = "full"
    batch: str = "rows"
    protect: tuple[int, ...] = (0, -1)
    max_consecutive: int | None = None
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0, high=1)
        check_number("rate", self.rate, low=0, high=1, optional=True)
        check_choice("prefill", self.prefill, PREFILL)
        check_choice("batch", self.batch, ("rows", "union"))
        object.__setattr__(self, "protect", check_ids("protect", self.protect))
        check_number("max_consecutive", self.max_consecutive, low=1, integer=True, optional=True)
        check_choice("aggregate", self.aggregate, ("mean", "last", "vote"))
        if isinstance(self.routers, Path):
            object.__setattr__(self, "routers", str(self.routers))
        if self.routers is not None and not isinstance(self.routers, (str, LayerRouters)):
            raise TypeError(f"routers must be a LayerRouters, its folder or hub id, not {self.routers!r}.")
        if self.rate and self.prefill == "skip":
            raise ValueError(
                "rate compares all layers, but prefill='skip' decides on each before the next is seen: take a "
                "threshold, or prefill='full'."
            )

    @property
    def skips(self) -> bool:
        """Whether any layer may be skipped."""
        return bool(self.threshold if self.rate is None else self.rate)

    @classmethod
    def neutral(cls) -> First:
        return cls(threshold=0)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> First:
        """The method with the routers in a folder or hub repository.

        Raises:
            ValueError: there are none, or they are broken.
        """
        return cls(routers=LayerRouters.from_pretrained(folder), **options)

    def add_on(self) -> LayerRouters | None:
        """The routers; None where none are needed.

        Raises:
            ValueError: they are needed and were not given, or are broken.
        """
        if isinstance(self.routers, str):
            return opened(LayerRouters, self.routers)
        if self.routers is None and self.skips:
            raise ValueError(
                "first needs trained routers: routers='folder or hub id'; `szilard train first --model ... --data ... "
                "-o folder` makes them."
            )
        return self.routers

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The routers by the hash of their weights."""
        routers = self.add_on()
        return self.changed_options() | ({} if routers is None else {"routers": routers.fingerprint})

    def session(self, model: Any) -> FirstSession:
        return FirstSession(self, model)


class FirstSession(SkippingSession):
    """An open FiRST.

    Attributes:
        probabilities: of the latest prompt, the aggregated keep-probability of each layer, [batch, layers]; None:
            before one was read, or where the prompt itself was read with layers skipped.
    """

    method: First

    def __init__(self, method: First, model: Any) -> None:
        super().__init__(method, model)
        count, name = len(self.layers), type(model).__name__
        self.probabilities: torch.Tensor | None = None
        self.routers = method.add_on()
        if self.routers is not None:
            text = model.config.get_text_config()
            self.routers.check_base(
                vocab_size=int(text.vocab_size),
                hidden_size=int(text.hidden_size),
                name=name,
                fingerprint=weights_fingerprint(model),
            )
            if self.routers.layers != count:
                raise ValueError(
                    f"these routers are for {self.routers.layers} layers, but {name} has {count}: train some for it."
                )
        beyond = [layer for layer in method.protect if not -count <= layer < count]
        if beyond and method.skips:
            raise ValueError(f"protect {beyond} lies beyond the {count} layers of {name}.")
        self.protected = {layer % count for layer in method.protect} if method.skips else set(range(count))
        self.skipped = round((method.rate or 0) * count)
        most = most_skippable(count, self.protected, method.max_consecutive)
        if self.skipped > most:
            raise ValueError(
                f"rate={method.rate} skips {self.skipped} of the {count} layers of {name}, but protect and "
                f"max_consecutive allow {most}: lower the rate, or allow more."
            )

    def enter(self, stack: contextlib.ExitStack) -> None:
        super().enter(stack)
        if self.routers is not None:
            stack.enter_context(self.routers.applied(self.model))

    @torch.no_grad()
    def look(self, index: int, hidden: torch.Tensor, real: torch.Tensor | None, state: SkippableLayer) -> None:
        if index in self.protected or self.routers is None:
            return
        rho = self.routers.keep_probability(index, hidden)  # [batch, new]
        seen = torch.ones_like(rho) if real is None else real.to(rho)
        total, count = state.evidence or (torch.zeros_like(rho[:, 0]), torch.zeros_like(rho[:, 0]))
        if self.method.aggregate == "last":
            place = (seen * torch.arange(1, rho.shape[1] + 1, device=rho.device)).argmax(1)
            found = seen.any(1)
            state.evidence = torch.where(found, rho.gather(1, place[:, None])[:, 0], total), torch.ones_like(count)
            return
        worth = (rho > 0.5).to(rho) if self.method.aggregate == "vote" else rho
        state.evidence = total + (worth * seen).sum(1), count + seen.sum(1)

    def _score(self, index: int, batch: int, state: SkippableLayer) -> list[float]:
        """The aggregated keep-probability of a layer in every row."""
        if state.evidence is None:
            return [1.0] * batch
        total, count = state.evidence
        return (total / count.clamp(min=1)).tolist()

    def decide_one(self, index: int, batch: int, states: list[SkippableLayer]) -> tuple[bool, ...]:
        if index in self.protected:
            return (True,) * batch
        cap = self.method.max_consecutive
        keeps = []
        for row, score in enumerate(self._score(index, batch, states[index])):
            before = [bool((state.keep or ())[row]) for state in states[:index]]
            full = cap is not None and not any(before[index - cap :]) and index >= cap
            keeps.append(full or score > self.method.threshold)
        return (any(keeps),) * batch if self.method.batch == "union" else tuple(keeps)

    def decide_all(self, batch: int, states: list[SkippableLayer]) -> list[tuple[bool, ...]]:
        method = self.method
        scores = [self._score(index, batch, state) for index, state in enumerate(states)]
        self.probabilities = torch.tensor(scores).T
        keeps = []
        for row in range(batch):
            own = [layer[row] for layer in scores]
            if method.rate is not None:
                keeps.append(lowest(own, self.skipped, self.protected, method.max_consecutive))
            else:
                keeps.append(below(own, method.threshold, self.protected, method.max_consecutive))
        if method.batch == "union":
            keeps = [[any(layer) for layer in zip(*keeps, strict=True)]] * batch
        return list(zip(*keeps, strict=True))

    def unseen(self, batch: int, filled: int) -> None:
        if self.method.skips:
            raise ValueError(
                f"the cache holds {filled} tokens that were read before 'first' was open: it decides by the prompt, so "
                "read it under the open method."
            )
        super().unseen(batch, filled)
