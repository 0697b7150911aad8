"""Training ComprExIT: the frozen model reads a context, and, behind its slots, what is said after it or about it.

    NTP: [BOS, Z(context), continuation]                   cross-entropy of the continuation, all of it
    SFT: [BOS, Z(context), question, answer, EOS]          cross-entropy of the answer and EOS

Gradients go through the decoder into the slots and end at the hidden states: gates, transport and projector learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from szilard.compression.comprexit.add_on import ComprExITAddOn
from szilard.compression.comprexit.config import SHAPE, ComprExITConfig
from szilard.compression.comprexit.encode import Slots, transmit
from szilard.compression.comprexit.questions import Questions, question_corpus
from szilard.compression.passages import Passages, check_fits
from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced
from szilard.engines.engine import Engine
from szilard.engines.prompt_parts import around_context
from szilard.training.course import Course
from szilard.training.hidden_states import Stretches
from szilard.training.target import Target

Ids = list[torch.Tensor]


class ComprExITObjective(nn.Module):
    """What the training loop minimises.

    Args:
        add_on: to be trained.
        target: the frozen model, in both roles.
        segment: tokens of a context that are read together.
    """

    def __init__(self, add_on: ComprExITAddOn, target: Target, segment: int) -> None:
        super().__init__()
        self.add_on, self.target, self.segment = add_on, target, segment
        self.begin = begin(target.engine)

    def forward(
        self, contexts: Ids, targets: Ids, heads: Ids | None = None, prompts: Ids | None = None
    ) -> dict[str, torch.Tensor]:
        """One batch of ids, int64 [n] each: "loss", nats per token; "right", the share of targets that are the
        likeliest token; "gate_entropy", nats: near 0 the gates are stuck on one layer; "slot_size": root mean square
        of the slots over that of the contexts' token embeddings, which nothing holds down."""
        made = transmit(self.target.model, self.add_on, contexts, segment=self.segment)
        forced = self.behind([row.vectors for row in made], targets, heads, prompts)
        gates = torch.cat([row.gates for row in made]).detach()
        entropy = torch.special.entr(gates).sum(-1).mean()
        tokens = self.target.embed(torch.cat(contexts).to(self.target.model.device))
        slots = torch.cat([row.vectors for row in made]).detach()
        size = slots.float().square().mean().sqrt() / tokens.float().square().mean().sqrt()
        return {"loss": forced.loss, "right": forced.right, "gate_entropy": entropy, "slot_size": size}

    def behind(
        self, vectors: Sequence[torch.Tensor], targets: Ids, heads: Ids | None = None, prompts: Ids | None = None
    ) -> Forced:
        """The loss of the targets behind vectors [n, d] per row in the context's place.

        Args:
            heads: ids in front of the context; None: what a text of this model begins with, see `begin`.
            prompts: ids between the context and the target.
        """
        model = self.target.model
        embed = model.get_input_embeddings()
        first = heads if heads is not None else [torch.tensor(self.begin)] * len(targets)
        then = prompts if prompts is not None else [torch.tensor([])] * len(targets)
        before = [
            torch.cat([embed(head.long().to(model.device)), row.to(model.dtype), embed(ask.long().to(model.device))])
            for head, row, ask in zip(first, vectors, then, strict=True)
        ]
        return teacher_forced(model, before, [ids.to(model.device) for ids in targets])

    @torch.no_grad()
    def measure(self, data: Any, collate: Any, batch_size: int) -> dict[str, float]:
        """On held-out contexts, mean nats per target token: "nats" behind the slots, "nats_without_context" and
        "nats_full_context" behind nothing (or, where nothing else is there, the context's last token) and behind the
        context's own embeddings; "right" behind the slots; and "positions", slots per token of the contexts."""
        self.eval()
        embed = self.target.model.get_input_embeddings()
        device = self.target.model.device
        names = ("nats", "nats_without_context", "nats_full_context")
        found, read, slots = Measured(), 0, 0
        for start in range(0, len(data), batch_size):
            rows = [data[index] for index in range(start, min(start + batch_size, len(data)))]
            batch = collate(rows)
            contexts, rest = batch.pop("contexts"), batch
            whole = [embed(ids.to(device)) for ids in contexts]
            made: list[Slots] = transmit(self.target.model, self.add_on, contexts, segment=self.segment)
            others = bool(self.begin) or "prompts" in rest  # something stands there beside the context
            nothing = [row[:0] if others else row[-1:] for row in whole]
            for name, vectors in zip(names, ([row.vectors for row in made], nothing, whole), strict=True):
                found.add(name, self.behind(vectors, **rest))
            read += sum(map(len, contexts))
            slots += sum(len(row.vectors) for row in made)
        shares = {"right": found.right("nats"), "positions": slots / max(read, 1)}
        return {name: found.nats(name) for name in names} | shares


def begin(engine: Engine) -> list[int]:
    """What a text without a chat template begins with: BOS where the tokenizer puts one, as `engine.generate` does."""
    return around_context(engine, "a", raw=True)[0]


def train_comprexit(
    engine: Engine,
    data: Path,
    config: ComprExITConfig,
    folder: Path,
    *,
    limit: int | None = None,
    restart: bool = False,
) -> dict[str, float]:
    """Train an add-on for a model and write it; a stopped run goes on where it was.

    Args:
        engine: the model, on transformers; it stays as it is.
        data: texts as `read_corpus` takes them, or (stage "sft") questions as `read_questions` does.
        config: the settings.
        folder: gets the add-on, `metrics.jsonl`, `held-out.yaml` and checkpoints.
        limit: only the first so many texts or questions.
        restart: forget an earlier run in the folder.

    Returns:
        What it reaches on held-out contexts, see `ComprExITObjective.measure`; {} on all processes but the first.

    Raises:
        ValueError: unusable data, settings that do not fit the add-on in `start`, or a folder with another run.
    """
    check_fits(engine, config.context, config.target)
    stretches: Stretches
    collate: Any  # a batch is lists of ids
    if config.stage == "sft":
        asked = Questions(data, engine, config, begin(engine), limit=limit)
        with question_corpus(asked) as corpus:  # what the run is known by: all parts of the questions
            course = Course(engine, corpus, config, folder, restart=restart)
        stretches, collate = asked, Questions.collate
    else:
        course = Course(engine, data, config, folder, limit=limit, restart=restart)
        tokens = course.tokens()
        if config.packed:
            tokens.offsets = np.array([0, len(tokens.ids)])
        stretches, collate = Passages(tokens, config.context, config.target), Passages.collate
    with course:
        add_on = ComprExITAddOn.from_causal_lm(engine, seed=config.seed, **config.shape)
        if config.start is not None:
            _go_on_from(add_on, config.start)
        objective = ComprExITObjective(add_on.to(course.target.model.device), course.target, config.context)
        held = course.train(objective, stretches, collate)
        if not course.leads:
            return {}
        few = torch.utils.data.Subset(held, range(min(len(held), config.measured)))  # type: ignore[arg-type]
        metrics = objective.measure(few, collate, config.batch_size)
        course.finish(add_on, metrics)
        return metrics


def _go_on_from(add_on: ComprExITAddOn, start: str) -> None:
    """Take the weights of another add-on.

    Raises:
        ValueError: none is there, it is of another model, or has other parts.
    """
    old = ComprExITAddOn.from_pretrained(start)
    base = add_on.base
    old.check_base(**{name: base[name] for name in ("vocab_size", "hidden_size", "name", "fingerprint")})
    try:
        add_on.load_state_dict(old.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"the add-on in {start!r} has other parts than these settings give: take those that it was trained with "
            "(its config.json)."
        ) from error
    for name in SHAPE:
        trained: Any = old.settings[name]
        if name not in ("ratio", "gain") and trained != add_on.settings[name]:  # no weight depends on the ratio
            raise ValueError(
                f"the add-on in {start!r} was trained with {name}={trained!r}, not {add_on.settings[name]!r}: give the "
                "same to go on from it."
            )
