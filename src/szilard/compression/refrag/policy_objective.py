"""Learning which chunks to expand: GRPO on the log-likelihood of what follows. Encoder and decoder are frozen.

Sequences are drawn, and the decoder asked, on one step in `inner_epochs`; the steps between go on with the same
sequences against the chances they were drawn with. (What the loader brings for those steps is not read.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from szilard.compression.refrag.add_on import RefragParts
from szilard.compression.refrag.arrangement import expanded_count
from szilard.compression.refrag.config import RefragConfig
from szilard.compression.refrag.decoder_tuning import DecoderTuning
from szilard.compression.refrag.grpo import advantages, clipped_objective
from szilard.compression.refrag.objective import MEASURED, Ids, ReadingObjective
from szilard.compression.refrag.policy import drawn_orders, order_log_probs
from szilard.compression.refrag.selection import POLICIES, chunk_nats, pick, policy_logits
from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced
from szilard.training.target import Target


@dataclass(frozen=True)
class Drawn:
    """Sequences of a batch, and what came of them.

    Attributes:
        embeddings: c, [batch, L, d_e], padded.
        real: which chunks there are, bool [batch, L].
        orders: int64 [batch, G, T], -1: no step.
        old: log pi_theta_old of every step, [batch, G, T].
        rewards: [batch, G], nats per token, negative.
    """

    embeddings: torch.Tensor
    real: torch.Tensor
    orders: torch.Tensor
    old: torch.Tensor
    rewards: torch.Tensor


class PolicyObjective(ReadingObjective):
    """{"loss" (-J), "reward" (mean log-likelihood per token), "spread" (its standard deviation within a group), ...}.

    Args: as `ReadingObjective`.
    """

    def __init__(
        self, parts: RefragParts, tuning: DecoderTuning, target: Target, config: RefragConfig, samples: int
    ) -> None:
        super().__init__(parts, tuning, target, config, samples)
        self.skips_parameters = False
        self.factors = self.factors[-1:]  # whole contexts
        parts.requires_grad_(False)
        parts.policy.requires_grad_(True)
        self._memory: dict[int, Drawn] = {}  # of each batch of a step; a checkpoint falls on a step that draws anew

    def train(self, mode: bool = True) -> PolicyObjective:
        """Only the policy is ever in training mode."""
        super().train(mode)
        self.parts.encoder.eval()
        return self

    def forward(self, contexts: list[Ids], heads: Ids, tails: Ids, targets: Ids) -> dict[str, torch.Tensor]:
        """A batch of readings; see `Readings.collate`."""
        step, place = divmod(int(self.done), self.settings.gradient_accumulation)
        if step % self.settings.inner_epochs == 0 or place not in self._memory:
            self._memory[place] = self.draw(contexts, heads, tails, targets)
        drawn = self._memory[place]
        if self.training:
            self.done += 1
            self.parts.policy_steps += 1
        logits = self.parts.policy(drawn.embeddings, drawn.real)
        steps = order_log_probs(logits, drawn.orders)
        objective = clipped_objective(
            steps, drawn.old, advantages(drawn.rewards), drawn.orders >= 0, self.settings.clip
        )
        outputs = {
            "loss": -objective,
            "reward": drawn.rewards.mean(),
            "spread": drawn.rewards.std(-1, correction=0).mean(),
        }
        return outputs | {name: objective.new_tensor(value) for name, value in self.bounds.items()}

    @torch.no_grad()
    def draw(self, contexts: list[Ids], heads: Ids, tails: Ids, targets: Ids) -> Drawn:
        """G sequences of every context, and their rewards: one forward of the decoder over batch x G rows."""
        chunked = self.chunked(contexts)
        encoded = self.encoded(chunked)
        embeddings = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)  # [batch, L, d_e]
        lengths = torch.tensor([len(c) for c in encoded], device=embeddings.device)
        real = torch.arange(embeddings.shape[1], device=embeddings.device) < lengths[:, None]
        counts = torch.tensor([expanded_count(self.settings.share, len(c)) for c in encoded], device=embeddings.device)
        logits = self.parts.policy(embeddings, real)
        orders = drawn_orders(logits, self.settings.group, counts)  # [batch, G, T]
        before, wanted = [], []
        for row, (chunks, c) in enumerate(zip(chunked, encoded, strict=True)):
            vectors = self.parts.project(c)
            for order in orders[row]:
                expanded = torch.zeros(len(c), dtype=torch.bool, device=c.device)
                expanded[order[order >= 0]] = True
                before.append(self.before(chunks, vectors, expanded, heads[row], tails[row]))
                wanted.append(targets[row])
        forced = teacher_forced(self.target.model, before, wanted)
        rewards = -(forced.nats / forced.tokens).view(len(contexts), self.settings.group)
        return Drawn(embeddings, real, orders, order_log_probs(logits, orders), rewards)

    @torch.no_grad()
    def measure(self, data: Any) -> dict[str, float]:
        """On held-out readings, nats per token when chunks are chosen by each policy ("nll_learned", "nll_random",
        ...), without context and with all of it in tokens."""
        self.eval()
        items = [data[index] for index in range(min(MEASURED, len(data)))]
        found = self._means(items, self.factors[-1], compressed=False)
        behind, generator = Measured(), torch.Generator().manual_seed(0)
        for item in items:
            for policy, forced in self._by_policy(item, generator):
                behind.add(policy, forced)
        return found | {f"nll_{policy.replace('-', '_')}": behind.nats(policy) for policy in POLICIES}

    def _by_policy(self, item: dict[str, Any], generator: torch.Generator) -> Iterator[tuple[str, Forced]]:
        """What the decoder says of one reading, chosen by each policy; its first token does not count."""
        chunked = self.chunked([item["contexts"]])
        (c,) = self.encoded(chunked)
        vectors, count = self.parts.project(c), expanded_count(self.settings.share, len(c))
        start = item["head"].tolist()
        nats = torch.cat([chunk_nats(self.target.model, one.ids, one.lengths, start) for one in chunked[0]])
        for policy in POLICIES:
            expanded = pick(policy, count, policy_logits(self.parts, c) if policy == "learned" else nats, generator)
            before = self.before(chunked[0], vectors, expanded, item["head"], item["tail"])
            targets = [item["target"].to(before.device)]
            yield policy, teacher_forced(self.target.model, [before], targets, first=False)
