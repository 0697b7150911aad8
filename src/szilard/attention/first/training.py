"""Training FiRST: first the routers, on the model as it is; then, if wanted, the model under the routers' decisions.

    Routers.  H_{i+1,t} = H_{i,t} + rho_{i,t} Phi_i(H_i)_t        the layer's part in the stream, softly gated
              L = L_CE + alpha sum_i mean rho_i + lambda sum_i ||w_i||^2
    Bridges.  L_CE of the model with low-rank changes, each text through the layers that the routers keep for it

# Paper: its first version prints rho Phi + (1 - rho) Phi, from which rho cancels; here: the mix of running a layer and
# passing it by (inferred). In the last third of the routers' training gates are 0 or 1 and their gradient is that of
# rho (inferred), because decoding knows no half layers: per text by default, as in decoding.
# Paper: alpha is tuned by hand for each rate of skipping; here: it may also be adapted while training (`target_rate`,
# ours), alpha += alpha_step (target_rate - share of layers passed by).

Routers decide by the prompt of a text, or by all of it where it has none. In bridging they see, as in decoding, a pass
through all layers; the text, its prompt included, then goes through the kept ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from szilard.attention.first.choose import below, lowest, most_skippable
from szilard.attention.first.config import FirstConfig
from szilard.attention.first.method import First, FirstSession
from szilard.attention.first.routers import LayerRouters
from szilard.attention.layer_calls import Around, around_layers
from szilard.engines.engine import Engine
from szilard.training import low_rank
from szilard.training.course import Course, split
from szilard.training.hidden_states import Windows
from szilard.training.loop import planned_steps, uses_fsdp
from szilard.training.target import Target

Progress = Callable[[int, int], None]


class Routed(nn.Module):
    """What both trainings share: a model whose layers we stand around.

    Args:
        target: the model.
        routers: the routers.
        config: the settings.
    """

    def __init__(self, target: Target, routers: LayerRouters, config: FirstConfig) -> None:
        super().__init__()
        self.target, self.settings = target, config
        self.layers = FirstSession(First.neutral(), target.model).layers
        self.protected = config.protected(len(self.layers))
        self.routers = routers
        self.skipped = round((config.target_rate or 0) * len(self.layers))
        most = most_skippable(len(self.layers), self.protected, None)
        if self.skipped > most:
            raise ValueError(
                f"target_rate={config.target_rate} skips {self.skipped} of {len(self.layers)} layers, but protect "
                f"leaves {most}: lower it."
            )

    def logits(self, ids: torch.Tensor, around: Around | None = None) -> torch.Tensor:
        """Of every token, [batch, length, vocab]; rows are padded on the right, which causal attention never sees."""
        if around is None:
            return self.target.model(input_ids=ids, use_cache=False).logits
        with around_layers(self.layers, around):
            return self.target.model(input_ids=ids, use_cache=False).logits

    @torch.no_grad()
    def decide(self, ids: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Which layers each row keeps, from a pass through all of them, bool [layers, batch]."""
        scores = torch.ones(len(self.layers), len(ids))

        def look(index: int, hidden: torch.Tensor, run: Callable[[], torch.Tensor]) -> torch.Tensor:
            if index not in self.protected:
                scores[index] = _mean(self.routers.keep_probability(index, hidden), prompt).float().cpu()
            return run()

        self.logits(ids, look)
        keeps = []
        for row in scores.T.tolist():
            if self.settings.target_rate is not None:
                keeps.append(lowest(row, self.skipped, self.protected, None))
            else:
                keeps.append(below(row, self.settings.threshold, self.protected, None))
        return torch.tensor(keeps).T

    def routed(self, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Logits with each row through the layers that it keeps, bool [layers, batch]."""

        def skip(index: int, hidden: torch.Tensor, run: Callable[[], torch.Tensor]) -> torch.Tensor:
            own = keep[index]
            if bool(own.all()):
                return run()
            return torch.where(own.to(hidden.device)[:, None, None], run(), hidden) if bool(own.any()) else hidden

        return self.logits(ids, skip)

    @torch.no_grad()
    def measure(self, data: Any) -> dict[str, float]:
        """On held-out stretches, mean nats per answer token: "nll" with layers skipped by the routers, "nll_all_layers"
        with none skipped, and "skipped", the share of layers."""
        self.eval()
        sums = {"nll": 0.0, "nll_all_layers": 0.0, "skipped": 0.0}
        tokens = 0
        device = self.target.model.device
        for index in range(len(data)):
            batch = {name: value.to(device) for name, value in Windows.collate([data[index]]).items()}
            ids, counted = batch["ids"], batch["answer"] & batch["valid"]
            count = int(counted[:, 1:].sum())
            keep = self.decide(ids, _prompt(batch["answer"], batch["valid"]))
            sums["nll"] += float(cross_entropy(self.routed(ids, keep), ids, counted)) * count
            sums["nll_all_layers"] += float(cross_entropy(self.logits(ids), ids, counted)) * count
            sums["skipped"] += float((~keep).double().mean()) * count
            tokens += count
        return {name: total / max(tokens, 1) for name, total in sums.items()}


class RouterObjective(Routed):
    """The routers' loss: {"loss", "ce", "kept" (mean keep-probability), "skipped" (share of gates closed), "alpha"}.

    Args:
        target, routers, config: as `Routed`.
        steps: forwards of the training.
    """

    def __init__(self, target: Target, routers: LayerRouters, config: FirstConfig, steps: int) -> None:
        super().__init__(target, routers, config)
        self.hard_from = steps if config.binarise == "off" else round(steps * 2 / 3)
        self.alpha: torch.Tensor  # buffers, so that a checkpoint holds them
        self.done: torch.Tensor
        self.register_buffer("alpha", torch.tensor(float(config.alpha)))
        self.register_buffer("done", torch.tensor(0))

    def forward(self, ids: torch.Tensor, answer: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch, int64 and bool [batch, length]."""
        prompt, hard = _prompt(answer, valid), int(self.done) >= self.hard_from
        rhos, gates = [], []

        def gated(index: int, hidden: torch.Tensor, run: Callable[[], torch.Tensor]) -> torch.Tensor:
            if index in self.protected:
                return run()
            rho = self.routers.keep_probability(index, hidden)  # [batch, length]
            gate = self.gate(rho, prompt, hard)
            rhos.append(_mean(rho, valid).mean())
            gates.append(gate.detach().expand_as(rho)[valid].mean())
            return mixed(hidden, run(), gate)

        ce = cross_entropy(self.logits(ids, gated), ids, answer & valid)
        pressure = torch.stack(rhos).sum() if rhos else ce.new_zeros(())
        penalty = self.routers.weight.square().sum()
        loss = ce + self.alpha.clone() * pressure + self.settings.regulariser * penalty
        skipped = (len(gates) - sum(gates, ce.new_zeros(()))) / len(self.layers)
        if self.training:
            self.done += 1
            if self.settings.target_rate is not None:
                self.alpha += self.settings.alpha_step * (self.settings.target_rate - skipped).to(self.alpha)
                self.alpha.clamp_(min=0)
        kept = (pressure.detach() + len(self.layers) - len(rhos)) / len(self.layers)
        return {"loss": loss, "ce": ce.detach(), "kept": kept, "skipped": skipped, "alpha": self.alpha.clone()}

    def gate(self, rho: torch.Tensor, prompt: torch.Tensor, hard: bool) -> torch.Tensor:
        """How much of a layer tokens get, [batch, length or 1], from their keep-probabilities [batch, length]."""
        if not hard:
            return rho
        if self.settings.binarise == "sequence":
            rho = _mean(rho, prompt)[:, None]
        closed = (rho > self.settings.threshold).to(rho)
        return closed + rho - rho.detach()


class BridgeObjective(Routed):
    """Cross-entropy of a model with low-rank changes under the routers' decisions: {"loss", "skipped"}."""

    def __init__(self, target: Target, routers: LayerRouters, config: FirstConfig) -> None:
        super().__init__(target, routers.requires_grad_(False), config)
        self.changes = low_rank.inject(target.model, config.rank)
        self.tuned = nn.ParameterList(self.changes.values())

    def forward(self, ids: torch.Tensor, answer: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch, int64 and bool [batch, length]."""
        keep = self.decide(ids, _prompt(answer, valid))
        loss = cross_entropy(self.routed(ids, keep), ids, answer & valid)
        return {"loss": loss, "skipped": (~keep).to(loss).mean().detach()}

    def add_on(self, base: dict[str, Any]) -> LayerRouters:
        """The routers with the changes."""
        shapes, transposed = low_rank.described(self.target.model, self.changes)
        made = LayerRouters(base, self.routers.layers, self.routers.normalised, shapes, 2.0, transposed)
        assert made.tuned is not None
        with torch.no_grad():
            made.weight.copy_(self.routers.weight)
            made.bias.copy_(self.routers.bias)
        made.tuned.take(self.changes)
        return made


def mixed(hidden: torch.Tensor, out: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Running a layer and passing it by, gate : 1 - gate. hidden, out [batch, length, hidden], gate [batch, length]."""
    return hidden + gate[..., None].to(hidden.dtype) * (out - hidden)


def cross_entropy(logits: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean nats of the counted tokens, each given those before it. [batch, length, vocab], [batch, length] twice."""
    each = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = counted[:, 1:].flatten().to(each)
    return (each * weight).sum() / weight.sum().clamp(min=1)


def _prompt(answer: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """What the routers decide by: a text's tokens before its answer, or all of them where there are none."""
    before = (answer.cumsum(1) == 0) & valid
    return torch.where(before.any(1, keepdim=True), before, valid)


def _mean(rho: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Over the chosen tokens of each row, [batch, length] -> [batch]."""
    weight = chosen.to(rho)
    return (rho * weight).sum(1) / weight.sum(1).clamp(min=1)


def train_first(
    engine: Engine,
    data: Path,
    config: FirstConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train routers, and with `config.lora` the model's bridges, and write them to a folder; a stopped run goes on.

    Args:
        engine: the model, on transformers.
        data: texts, as `read_corpus` takes them.
        config: the settings.
        folder: gets the add-on, its card, `training.yaml`, `metrics.jsonl`, checkpoints; with `config.lora` the
            routers' own training lies in `routers` below it.
        cache, progress: not used; no hidden states are computed beforehand.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.

    Returns:
        On held-out text: "nll", "nll_all_layers" (nats per token), "skipped" (share of layers).

    Raises:
        ValueError: unusable data, another model than the folder's, or other settings than its unfinished run's.
    """
    if uses_fsdp():
        raise ValueError("FiRST stands around the model's layers, which FSDP would take apart: train it with DDP.")
    if not config.lora:
        return _train_routers(engine, data, config, folder, limit, restart)
    own = replace(config, lora=False)
    _train_routers(engine, data, own, folder / "routers", limit, restart)
    config = replace(config, learning_rate=config.lora_learning_rate)
    with Course(engine, data, config, folder, limit=limit, restart=restart) as course:
        routers = LayerRouters.from_pretrained(folder / "routers")
        base = course.target.base  # the fingerprint of the weights as they are now
        stretches = Windows(course.tokens(), config.window)
        try:
            objective = BridgeObjective(course.target, routers.to(course.target.model.device), config)
            held = course.train(objective, stretches, Windows.collate)
            if not course.leads:
                return {}
            metrics = objective.measure(held)
            made = objective.add_on(base)
        finally:
            low_rank.remove(course.target.model)
        course.finish(made, metrics)
        return metrics


def _train_routers(
    engine: Engine, data: Path, config: FirstConfig, folder: Path, limit: int | None, restart: bool
) -> dict[str, float]:
    with Course(engine, data, config, folder, limit=limit, restart=restart) as course:
        if any(example.images for example in course.examples):
            raise ValueError("first learns from texts: leave out the records with pictures.")
        stretches = Windows(course.tokens(), config.window)
        learned, _ = split(stretches.texts, config.held_out, config.seed)
        forwards = planned_steps(len(learned), config) * config.gradient_accumulation
        layers = len(FirstSession(First.neutral(), course.target.model).layers)
        routers = LayerRouters(course.target.base, layers, config.normalised).to(course.target.model.device)
        objective = RouterObjective(course.target, routers, config, forwards)
        held = course.train(objective, stretches, Windows.collate)
        if not course.leads:
            return {}
        metrics = objective.measure(held)
        course.finish(routers, metrics)
        return metrics
