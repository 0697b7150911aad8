"""ComprExIT: soft compression by explicit information transmission over layers and tokens of a frozen model.

Ye, Yan, Shen, Chang, Mao, He 2026, "Context Compression via Explicit Information Transmission", arXiv 2602.03784.
Reference code: Jiangnan0522/ComprExIT (Apache-2.0).

The frozen model reads a context of N tokens once. Gates mix each token's hidden states of all L + 1 layers into an
anchor (`depth.py`), an optimal transport plan moves the anchors of each window of W tokens into K_w = ceil(W / r) slots
(`width.py`), and a projector makes of a slot what the same frozen model reads in the place of a token embedding.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from szilard.compression.comprexit.add_on import ComprExITAddOn
from szilard.compression.comprexit.encode import Slots, transmit
from szilard.compression.method import Budget, SoftCompressor, check_budget, tokens_of_budget
from szilard.engines.prepared_context import SoftPrompt
from szilard.options import check_number
from szilard.training.add_on import opened

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

EVERYTHING = sys.maxsize


@dataclass(frozen=True)
class ComprExIT(SoftCompressor):
    """Contexts as slots: convex combinations of what the decoder itself computed of them, in any of its layers.

    No weight depends on the number of slots, so that any budget is met; the add-on was trained for one of them.

    Attributes:
        checkpoint: the add-on, or its folder, hub id or name in the zoo ("zoo/..."); `szilard train comprexit` makes
            one, `from_causal_lm` an untrained one.
        segment: tokens that are read together, fewer where the model's window is shorter; longer contexts are
            compressed piece by piece and their slots joined.
        batch_size: segments per forward. The hidden states of all layers are in memory at once.
        keep_below: contexts of fewer tokens are left as they are (their token embeddings), whatever the budget.
    """

    slug: ClassVar[str] = "comprexit"
    paper: ClassVar[str] = "Ye et al. 2026, arXiv 2602.03784"
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings_in", "hidden_states"})

    checkpoint: ComprExITAddOn | str | None = None
    segment: int = 512
    batch_size: int = 8
    keep_below: int = 0

    def __post_init__(self) -> None:
        check_number("segment", self.segment, low=1, integer=True)
        check_number("batch_size", self.batch_size, low=1, integer=True)
        check_number("keep_below", self.keep_below, low=0, integer=True)
        if isinstance(self.checkpoint, Path):
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, ComprExITAddOn)):
            raise TypeError(f"checkpoint must be a ComprExITAddOn, its folder or hub id, not {self.checkpoint!r}.")

    @classmethod
    def neutral(cls) -> ComprExIT:
        """Every context as its own token embeddings."""
        return cls(keep_below=EVERYTHING)

    @classmethod
    def from_causal_lm(cls, model: Any, ratio: float = 4, window: int = 128, **settings: Any) -> ComprExIT:
        """The method with an untrained add-on for a model of transformers, or an engine with one.

        Args:
            model: the decoder.
            ratio: r, tokens per slot.
            window: W, tokens that share a plan.
            settings: further ones of `ComprExITAddOn`, and "seed" of its weights.

        Raises:
            ValueError: an engine that gives no hidden states, or a setting out of range.
        """
        return cls(ComprExITAddOn.from_causal_lm(model, ratio=ratio, window=window, **settings))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> ComprExIT:
        """The method with the add-on in a folder, hub repository or the zoo.

        Raises:
            ValueError: there is none, or it is broken.
        """
        return cls(checkpoint=ComprExITAddOn.from_pretrained(folder), **options)

    def add_on(self) -> ComprExITAddOn:
        """The trained part.

        Raises:
            ValueError: none was given, or it is broken.
        """
        if self.checkpoint is None:
            raise ValueError(
                "comprexit needs a trained add-on: checkpoint='folder or hub id'; `szilard train comprexit --model ... "
                "--data ... -o folder` makes one."
            )
        return opened(ComprExITAddOn, self.checkpoint) if isinstance(self.checkpoint, str) else self.checkpoint

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        """The add-on by the hash of its weights."""
        changed = self.changed_options()
        if self.checkpoint is not None:
            changed["checkpoint"] = self.add_on().fingerprint
        return changed

    def check(self, engine: Engine | None = None) -> None:
        """Refuse a missing add-on, a broken one, and one of another model."""
        if engine is not None and not self.needs <= engine.provides:
            raise ValueError(
                f"comprexit reads the hidden states of all layers and writes vectors, which {engine.name} on "
                f"{engine.kind} does not give and take: load the model on transformers, or shorten the text instead."
            )
        if self.keep_below == EVERYTHING:
            return
        add_on = self.add_on()
        if engine is None:
            return
        model: Any = engine.model  # type: ignore[attr-defined]
        width = int(model.config.get_text_config().hidden_size)
        add_on.check_base(
            vocab_size=engine.vocab_size, hidden_size=width, name=engine.name, fingerprint=engine.fingerprint
        )

    @torch.no_grad()
    def compress(self, contexts: Sequence[Any], budget: Budget = None, *, engine: Engine) -> list[SoftPrompt]:
        """Compress each context for the model of an engine; see `SoftCompressor.compress`.

        A budget is the most that a context gets: the largest K_w, the same in all of its windows, that stays within it.
        Without one K_w is that of the trained ratio, whose rounding up in each window may give a position more.

        The trace of a soft prompt: "tokens" int64 [N]; "gates" [N, L + 1]; "plan" [windows, W, K_w], "capacity"
        [windows, W], "places" int64 [windows, W] (the context's token at each place of each window, -1 for none),
        "valid" bool [windows, K_w] (which fields have a slot); "pooled" [slots, d], the slots before the projector. On
        the CPU. Its cost: "encoder_tokens", "layer_tokens", and "seconds", an equal share per token of the call's.

        Raises:
            ValueError: an empty context, a budget of fewer positions than the context has windows or of more than it
                has tokens, an add-on of another model.
        """
        check_budget(budget)
        self.check(engine)
        rows = [_ids(context, engine) for context in contexts]
        work = [index for index, row in enumerate(rows) if len(row) >= self.keep_below]
        start = time.perf_counter()
        found: dict[int, Slots] = {}
        model: Any = engine.model  # type: ignore[attr-defined]
        if work:
            add_on = self.add_on().to(model.device).eval()
            segment = min(self.segment, getattr(engine, "context_window", None) or self.segment)
            wanted = [self._fields(add_on, len(rows[index]), budget, segment) for index in work]
            made = transmit(
                model,
                add_on,
                [rows[index] for index in work],
                segment=segment,
                batch_size=self.batch_size,
                slots=wanted,
            )
            found = dict(zip(work, made, strict=True))
        seconds = time.perf_counter() - start
        read = sum(len(rows[index]) for index in work)
        layers = int(model.config.get_text_config().num_hidden_layers)
        embed = model.get_input_embeddings()
        prompts = []
        for index, row in enumerate(rows):
            slots = found.get(index)
            tokens = len(row) if slots is not None else 0
            vectors = embed(row.to(model.device)) if slots is None else slots.vectors.to(model.dtype)
            cost = {
                "encoder_tokens": float(tokens),
                "layer_tokens": float(tokens * layers),
                "seconds": seconds * tokens / max(read, 1),
            }
            trace = {} if slots is None else {"tokens": row} | _trace(slots)
            prompts.append(SoftPrompt(vectors, len(row), self.slug, engine.fingerprint, trace, cost))
        return prompts

    def _fields(self, add_on: ComprExITAddOn, length: int, budget: Budget, segment: int) -> int:
        """K_w for a context of so many tokens.

        Raises:
            ValueError: fewer positions than windows.
        """
        if budget is None:
            return add_on.slots_per_window()
        most = tokens_of_budget(budget, length)
        for count in range(add_on.window, 0, -1):
            if add_on.positions(length, count, segment) <= most:
                return count
        least = add_on.positions(length, 1, segment)
        raise ValueError(
            f"comprexit gives every window of {add_on.window} tokens a slot, so that this context of {length} tokens "
            f"takes {least} positions at least, not {budget}: give a larger budget, or shorten the text first."
        )


def _ids(context: Any, engine: Engine) -> torch.Tensor:
    """A context in the engine's tokens, int64 [N], without special ones.

    Paper: the context has a BOS at evaluation and none in training; here: none, as it was trained.
    """
    if isinstance(context, torch.Tensor):
        return torch.tensor(engine._ids(context, True), dtype=torch.long)
    if not isinstance(context, str):
        raise TypeError(f"a context is text, or token ids (int64 [length]), not {type(context).__name__}.")
    ids = engine.tokenizer.encode(context, add_special_tokens=False) if context.strip() else []
    if not ids:
        raise ValueError("a context is empty: give some text, or leave it out.")
    return torch.tensor(ids, dtype=torch.long)


def _trace(slots: Slots) -> dict[str, torch.Tensor]:
    names = ("gates", "plan", "capacity", "places", "valid", "pooled")
    return {name: getattr(slots, name).cpu() for name in names}
