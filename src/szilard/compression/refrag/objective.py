"""The loss of what a decoder writes behind compressed contexts: reconstruction, continuation, answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from szilard.compression.refrag.add_on import RefragParts
from szilard.compression.refrag.arrangement import arrange, expanded_count
from szilard.compression.refrag.chunks import Chunks, cut_chunks
from szilard.compression.refrag.config import RefragConfig
from szilard.compression.refrag.curriculum import lengths, schedule
from szilard.compression.refrag.decoder_tuning import DecoderTuning
from szilard.compression.refrag.selection import pick
from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced
from szilard.engines.prompt_parts import SEPARATOR
from szilard.training.target import Target

Ids = list[torch.Tensor]
REFERENCES = 64  # held-out readings of which the bounds beside the loss are taken
MEASURED = 512  # held-out readings that are measured at the end, at most


class ReadingObjective(nn.Module):
    """{"loss" (nats per target token), "right" (share of them), "no_context", "full_context" (nats per token)}.

    The last two are bounds to hold the loss against: held-out text without its context, and with it in tokens, by the
    decoder as it is when the stage begins. They do not change.

    Args:
        parts: to be trained.
        tuning: what of the decoder is, too.
        target: the decoder.
        config: the settings.
        samples: readings of the whole training, for the curriculum.
    """

    def __init__(
        self, parts: RefragParts, tuning: DecoderTuning, target: Target, config: RefragConfig, samples: int
    ) -> None:
        super().__init__()
        self.parts, self.tuning, self.target, self.settings = parts, tuning, target, config
        self.skips_parameters = True  # the policy
        self.embedding = [target.model.get_input_embeddings()]  # in a list: no module of this one
        tokenizer = target.engine.tokenizer
        self.between = torch.tensor(tokenizer.encode(SEPARATOR, add_special_tokens=False), dtype=torch.int64)
        self.copies = config.stage == "reconstruction"
        self.of_text = config.stage != "sft"
        longest = max(1, config.context // parts.chunk)
        self.factors = lengths(longest) if self.of_text else (longest,)
        by_curriculum = config.curriculum and config.stage in ("reconstruction", "cpt")
        self.order = schedule(self.factors, samples, config.seed) if by_curriculum else []
        self.bounds: dict[str, float] = {}
        self.done: torch.Tensor  # a buffer, so that a checkpoint holds it
        self.register_buffer("done", torch.tensor(0))
        parts.requires_grad_(True)
        parts.policy.requires_grad_(False)

    # ---- readings --------------------------------------------------------------------------------------------

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings, [n] -> [n, hidden]."""
        return self.embedding[0](ids.to(self.embedding[0].weight.device))

    def cut(
        self, contexts: list[Ids], targets: Ids, factors: Sequence[int], *, anywhere: bool
    ) -> tuple[list[Ids], Ids]:
        """Contexts of so many chunks each: those next to the target, or where they are copied, some of the stretch.

        Args:
            factors: of each reading.
            anywhere: copied stretches begin at random, not at their first token.
        """
        contexts, targets = list(contexts), list(targets)
        for row, factor in enumerate(factors):
            (ids,), size = contexts[row], factor * self.parts.chunk
            if self.copies:
                first = int(torch.randint(max(1, len(ids) - size + 1), ())) if anywhere else 0
                targets[row] = ids[first : first + size]
                contexts[row] = [targets[row]]
            else:
                contexts[row] = [ids[-size:]]
        return contexts, targets

    def chunked(self, contexts: list[Ids]) -> list[list[Chunks]]:
        """The chunks of every context."""
        tokenizer, size = self.target.engine.tokenizer, self.parts.chunk
        return [[cut_chunks(tokenizer, ids.cpu(), size) for ids in row] for row in contexts]

    def encoded(self, chunked: list[list[Chunks]]) -> list[torch.Tensor]:
        """c of each reading's chunks, [L, d_e]; one run of the encoder."""
        counts = [sum(map(len, row)) for row in chunked]
        texts = [text for row in chunked for chunks in row for text in chunks.texts]
        return list(self.parts.embed(texts).split(counts))

    def before(
        self,
        chunked: list[Chunks],
        vectors: torch.Tensor,
        expanded: torch.Tensor,
        head: torch.Tensor,
        tail: torch.Tensor,
    ) -> torch.Tensor:
        """What the decoder reads before a target, [positions, hidden]: phi(c) [L, hidden], or tokens where expanded."""
        device = vectors.device
        counts = [len(chunks) for chunks in chunked]
        pieces = [self.embed(head)]
        for number, (chunks, own, mask) in enumerate(
            zip(chunked, vectors.split(counts), expanded.to(device).split(counts), strict=True)
        ):
            if number:
                pieces.append(self.embed(self.between))
            pieces.append(arrange(self.embedding[0], chunks.ids.to(device), chunks.lengths.to(device), own, mask))
        return torch.cat([*pieces, self.embed(tail)])

    def some(self, count: int, generator: torch.Generator | None) -> torch.Tensor:
        """T' of so many chunks at random, bool [count]."""
        generator = generator or torch.default_generator  # which checkpoints keep
        return pick("random", expanded_count(self.settings.share, count), torch.zeros(count), generator)

    # ---- the loss --------------------------------------------------------------------------------------------

    def forward(self, contexts: list[Ids], heads: Ids, tails: Ids, targets: Ids) -> dict[str, torch.Tensor]:
        """A batch of readings; see `Readings.collate`."""
        if self.order:
            first = int(self.done) * self.settings.batch_size
            factors = [self.order[min(first + row, len(self.order) - 1)] for row in range(len(contexts))]
            contexts, targets = self.cut(contexts, targets, factors, anywhere=True)
        if self.training:
            self.done += 1
        forced = self.read(contexts, heads, tails, targets)
        outputs = {"loss": forced.loss, "right": forced.right}
        return outputs | {name: forced.loss.new_tensor(value) for name, value in self.bounds.items()}

    def read(
        self,
        contexts: list[Ids],
        heads: Ids,
        tails: Ids,
        targets: Ids,
        *,
        first: bool = True,
        generator: torch.Generator | None = None,
    ) -> Forced:
        """Teacher forcing behind compressed contexts, some chunks of which stay tokens."""
        chunked = self.chunked(contexts)
        before = [
            self.before(row, self.parts.project(c), self.some(len(c), generator), head, tail)
            for row, c, head, tail in zip(chunked, self.encoded(chunked), heads, tails, strict=True)
        ]
        return teacher_forced(self.target.model, before, targets, first=first)

    def read_tokens(self, contexts: list[Ids], heads: Ids, tails: Ids, targets: Ids, *, first: bool) -> Forced:
        """Teacher forcing behind the contexts in tokens; without contexts (`[]` each), behind what else there is.

        Of contexts that the decoder cannot read at once the end is read.
        """
        longest = getattr(self.target.config, "max_position_embeddings", None) or 2**31
        before, wanted = [], []
        for row, head, tail, ids in zip(contexts, heads, tails, targets, strict=True):
            inside = list(itertools.chain.from_iterable((self.between.to(part.device), part) for part in row))[1:]
            read = 0 if first else 1  # the first target token, which does not count, may stand there alone
            given = torch.cat([head, *inside, tail, ids[:read]])
            before.append(self.embed(given[-max(1, longest - len(ids)) :]))
            wanted.append(ids[read:])
        return teacher_forced(self.target.model, before, wanted)

    # ---- held-out text ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def measure_bounds(self, data: Any) -> None:
        """Take the two bounds of held-out readings."""
        some = [data[index] for index in range(min(REFERENCES, len(data)))]
        self.bounds = self._means(some, self.factors[-1], compressed=False)

    @torch.no_grad()
    def measure(self, data: Any) -> dict[str, float]:
        """On held-out readings, nats per token behind compressed contexts ("nll"), without and with their tokens
        ("no_context", "full_context"), and the share of "right" tokens; with "_f" for contexts of f chunks.

        Of copied and continued text the first token does not count, which nothing predicts without a context.
        """
        self.eval()
        items = [data[index] for index in range(min(MEASURED, len(data)))]
        found: dict[str, float] = {}
        for factor in self.factors:
            own = self._means(items, factor, compressed=True)
            found |= {f"{name}_{factor}": value for name, value in own.items()} if self.of_text else {}
            found |= own if factor == self.factors[-1] else {}
        return found

    def _means(self, items: Sequence[dict[str, Any]], factor: int, *, compressed: bool) -> dict[str, float]:
        found = Measured()
        generator = torch.Generator().manual_seed(0)
        device = self.embedding[0].weight.device
        for start in range(0, len(items), self.settings.batch_size):
            some = items[start : start + self.settings.batch_size]
            contexts = [[ids.to(device) for ids in item["contexts"]] for item in some]
            heads, tails, targets = ([item[name].to(device) for item in some] for name in ("head", "tail", "target"))
            if self.of_text:
                contexts, targets = self.cut(contexts, targets, [factor] * len(some), anywhere=False)
            first = not self.of_text
            nothing: list[Ids] = [[] for _ in some]
            found.add("no_context", self.read_tokens(nothing, heads, tails, targets, first=first))
            found.add("full_context", self.read_tokens(contexts, heads, tails, targets, first=first))
            if compressed:
                found.add("nll", self.read(contexts, heads, tails, targets, first=first, generator=generator))
        bounds = {name: found.nats(name) for name in ("no_context", "full_context")}
        return bounds | ({"nll": found.nats("nll"), "right": found.right("nll")} if compressed else {})
