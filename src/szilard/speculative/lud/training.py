"""Tuning a model to predict lexical units at once.

1. Identification: the model's own probability of every token of the corpus; runs of at least alpha are units.
2. Packing: behind a stretch of text the placeholders of its windows are appended, at the positions of the tokens that
   they stand for. They see the text before their window and the earlier placeholders of the same window; the text sees
   only itself. So one forward trains all windows of a stretch, and no token ever follows a placeholder. (Reconstructed;
   replacing tokens in place, as is simpler, shows later tokens placeholders, which never happens in decoding.)

    L = mean CE(next token, answers) + w mean CE(placeholders)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from szilard.engines.engine import Engine
from szilard.speculative.draft_config import LudConfig
from szilard.speculative.lud.adapter import LudAdapter
from szilard.speculative.lud.units import lexical_units
from szilard.training import low_rank
from szilard.training.course import Course
from szilard.training.hidden_states import HiddenStates, Stretches, Windows
from szilard.training.loop import Batch, uses_fsdp
from szilard.training.target import Target

_IGNORED = -100  # a slot without a label


class LudObjective(nn.Module):
    """A packed batch: {"loss", "next", "parallel", "right_2", ...}; right_j: the j-th token of a window is right.

    Args:
        target: the model, whose weights are tuned.
        config: the settings.
    """

    def __init__(self, target: Target, config: LudConfig) -> None:
        super().__init__()
        self.target, self.settings = target, config
        rows = torch.arange(target.vocab_size, device=target.model.device)
        with torch.no_grad():
            mean = torch.stack([target.embed(part).float().mean(0) * len(part) for part in rows.split(8192)]).sum(0)
        self.placeholder = nn.Parameter(mean / len(rows))  # like any token, to begin with
        self.tuned = nn.ParameterList()
        self.names: list[str] = []
        self.before: dict[str, torch.Tensor] = {}
        if config.lora:
            changes = low_rank.inject(target.model, config.rank)
            self.names += changes
            self.tuned.extend(changes.values())
        elif target.model.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"tuning every weight in {target.model.dtype} loses small steps: load it with float32.")
        else:
            for name, parameter in target.model.named_parameters():
                self.before[name] = parameter.detach().clone()
                parameter.requires_grad_(True)
                self.names.append(name)
                self.tuned.append(parameter)

    def restore(self) -> None:
        """Give the model its own layers and weights back."""
        model = self.target.model
        for name, weight in self.before.items():
            model.get_parameter(name).data = weight
        low_rank.remove(model)

    def adapter(self) -> LudAdapter:
        """What was tuned, as an add-on."""
        transposed: list[str] = []
        if self.settings.lora:
            changes = dict(zip(self.names, self.tuned, strict=True))
            shapes, transposed = low_rank.described(self.target.model, changes)
        else:
            shapes = {name: list(parameter.shape) for name, parameter in zip(self.names, self.tuned, strict=True)}
        made = LudAdapter(
            base=self.target.base,
            shapes=shapes,
            scale=2.0 if self.settings.lora else 1.0,
            transposed=transposed,
            window=self.settings.window_tokens,
            low_rank=self.settings.lora,
        )
        with torch.no_grad():
            made.placeholder.copy_(self.placeholder)
            if self.settings.lora:
                for index, name in enumerate(made.shapes):
                    module = name.removesuffix(".weight")
                    made.down[index].copy_(changes[f"{module}.lora_A.default.weight"])
                    made.up[index].copy_(changes[f"{module}.lora_B.default.weight"])
            else:
                tuned = dict(zip(self.names, self.tuned, strict=True))
                for whole, name in zip(made.whole, made.shapes, strict=True):
                    whole.copy_(tuned[name])
        return made

    def forward(
        self,
        ids: torch.Tensor,
        labels: torch.Tensor,
        positions: torch.Tensor,
        branch: torch.Tensor,
        place: torch.Tensor,
        start: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """One packed batch; see `pack`."""
        logits = self.logits(ids, positions, branch, place, start)
        flat = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        each, counted = flat.view_as(labels), labels != _IGNORED
        text, ahead = counted & (branch < 0), counted & (branch >= 0)
        following = (each * text).sum() / text.sum().clamp(min=1)
        parallel = (each * ahead).sum() / ahead.sum().clamp(min=1)
        outputs = {"loss": following + self.settings.w_parallel * parallel}
        outputs |= {"next": following.detach(), "parallel": parallel.detach()}
        right = logits.detach().argmax(-1) == labels
        for step in range(1, self.settings.window_tokens):
            here = ahead & (place == step)
            outputs[f"right_{step + 1}"] = (right & here).sum() / here.sum().clamp(min=1)
        return outputs

    def logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        branch: torch.Tensor,
        place: torch.Tensor,
        start: torch.Tensor,
    ) -> torch.Tensor:
        """Of every slot, [batch, slots, vocab]."""
        embedded = self.target.embed(ids)
        slots = torch.where((branch >= 0)[..., None], self.placeholder.to(embedded.dtype), embedded)
        return self.target.model(
            inputs_embeds=slots,
            attention_mask=packed_mask(branch, place, start, positions, slots.dtype),
            position_ids=positions,
            use_cache=False,
        ).logits


def packed_mask(
    branch: torch.Tensor, place: torch.Tensor, start: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Additive [batch, 1, slots, slots]: text sees text before it; a placeholder the text before its window, and the
    placeholders of its window up to itself. Padding (branch -2) sees itself."""
    text = branch == -1
    key_text = text[:, None]
    causal = key_text & text[..., None] & (positions[:, None] <= positions[..., None])
    context = key_text & (branch >= 0)[..., None] & (positions[:, None] < start[..., None])
    own = (branch[:, None] == branch[..., None]) & (branch >= 0)[..., None] & (place[:, None] <= place[..., None])
    allowed = causal | context | own | torch.eye(branch.shape[1], dtype=torch.bool, device=branch.device)
    out = torch.zeros(allowed.shape, dtype=dtype, device=branch.device)
    return out.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def pack(ids: torch.Tensor, answer: torch.Tensor, windows: list[tuple[int, int]]) -> Batch:
    """A stretch of text with the placeholders of its windows behind it.

    Args:
        ids: int64 [n].
        answer: which tokens are trained on, bool [n].
        windows: [start, end) of tokens that are predicted at once; the first of each by the text's own last slot.

    Returns:
        "ids", "labels", "positions"; "branch": number of the window, -1 for text; "place": of a placeholder in its
        window, from 1; "start": of its window. int64 [slots] each.
    """
    count = len(ids)
    labels = torch.full((count,), _IGNORED)
    labels[:-1] = torch.where(answer[1:], ids[1:], _IGNORED)
    nothing = torch.zeros(count, dtype=torch.long)
    parts = [(ids, labels, torch.arange(count), nothing - 1, nothing, nothing)]
    for number, (start, end) in enumerate(windows):
        place = torch.arange(1, end - start)
        wanted = torch.where(answer[start + 1 : end], ids[start + 1 : end], _IGNORED)
        zero = torch.zeros_like(place)
        parts.append((zero, wanted, start + place - 1, zero + number, place, zero + start))
    names = ("ids", "labels", "positions", "branch", "place", "start")
    return {name: torch.cat(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def collate(packed: list[Batch]) -> Batch:
    """A batch of packed stretches, padded on the right."""
    longest = max(len(one["ids"]) for one in packed)
    fill = {"labels": _IGNORED, "branch": -2}
    return {
        name: torch.stack(
            [nn.functional.pad(one[name], (0, longest - len(one[name])), value=fill.get(name, 0)) for one in packed]
        )
        for name in packed[0]
    }


class PackedUnits(Stretches):
    """Stretches of a corpus with their windows. Which windows of a long stretch are taken depends on the stretch alone.

    Args:
        windows: stretches whose "hidden" is every token's probability.
        config: the settings.
    """

    def __init__(self, windows: Windows, config: LudConfig) -> None:
        self.windows, self.config = windows, config
        self.texts = windows.texts

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Batch:
        stretch, config = self.windows[index], self.config
        answer, size = stretch["answer"], len(stretch["ids"])
        k = config.window_tokens
        chances = torch.where(answer, stretch["hidden"][:, 0], -1.0).tolist()  # units lie within answers
        chances[0] = -1.0  # nothing before it predicts it
        units = lexical_units(chances, config.alpha, max_length=k)
        if config.supervise == "unit":
            found = [(start, end) for start, end in units if end - start >= 2]
        else:  # wherever a window may begin in decoding: at units, and at the tokens outside them
            inside = {place for start, end in units for place in range(start + 1, end)}
            starts = [place for place in range(1, size - 1) if bool(answer[place]) and place not in inside]
            found = [(start, min(start + k, size)) for start in starts]
        if len(found) > config.branches:
            order = torch.randperm(len(found), generator=torch.Generator().manual_seed(index))[: config.branches]
            found = [found[place] for place in order.sort().values.tolist()]
        return pack(stretch["ids"], answer, found)


def train_lud(
    engine: Engine,
    data: Path,
    config: LudConfig,
    folder: Path,
    *,
    cache: Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Tune an adapter and write it to a folder, with the units that were found; see `train_heads` for the rest.

    Returns:
        On held-out text: "next" and "parallel" in nats, "right_2", ....

    Raises:
        ValueError: unusable data, another model than the folder's, or other settings than its unfinished run's.
    """
    if uses_fsdp():
        raise ValueError("LUD tunes weights inside the model, which FSDP would take apart: train it with DDP.")
    with Course(engine, data, config, folder, cache=cache, limit=limit, restart=restart) as course:
        if any(example.images for example in course.examples):
            raise ValueError("lud tunes on texts: leave out the records with pictures.")
        base = course.target.base  # the fingerprint of the weights as they are now
        chances = course.features("probability", progress)
        if course.leads:
            write_units(chances, config, folder / "units.parquet")
        with tuning(LudObjective(course.target, config)) as objective:
            held = course.train(objective, PackedUnits(Windows(chances, config.window), config), collate)
            if not course.leads:
                return {}
            metrics = measure(objective, held)
            adapter = objective.adapter()
        adapter.base.update(base)
        course.finish(adapter, metrics)
        return metrics


@contextlib.contextmanager
def tuning(objective: LudObjective) -> Iterator[LudObjective]:
    """Behind the block the model has its own weights and layers again."""
    try:
        yield objective
    finally:
        objective.restore()


@torch.no_grad()
def measure(objective: LudObjective, data: Any) -> dict[str, float]:
    """The mean metrics over stretches; what a stretch has none of does not count."""
    objective.eval()
    sums: dict[str, list[float]] = {}
    for index in range(len(data)):
        batch = {name: value.to(objective.placeholder.device) for name, value in collate([data[index]]).items()}
        placed = set(batch["place"][batch["labels"] != _IGNORED].tolist())
        for name, value in objective(**batch).items():
            step = int(name[6:]) - 1 if name.startswith("right_") else None
            if (step in placed) if step is not None else (name == "next" or (name == "parallel" and placed - {0})):
                sums.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in sorted(sums.items())}


def write_units(chances: HiddenStates, config: LudConfig, file: Path) -> None:
    """The lexical units of a corpus: example, start, end, token ids, and their probabilities."""
    columns: dict[str, list[Any]] = {name: [] for name in ("example", "start", "end", "ids", "probabilities")}
    for example, (first, last) in enumerate(zip(chances.offsets[:-1], chances.offsets[1:], strict=True)):
        own = np.where(chances.answer[first:last].astype(bool), chances.hidden[first:last, 0].astype(float), -1.0)
        for start, end in lexical_units(own.tolist(), config.alpha, max_length=config.window_tokens):
            columns["example"].append(example)
            columns["start"].append(start)
            columns["end"].append(end)
            columns["ids"].append(chances.ids[first + start : first + end].tolist())
            columns["probabilities"].append(own[start:end].tolist())
    scratch = file.with_suffix(".tmp")
    pq.write_table(pa.table(columns), scratch)
    os.replace(scratch, file)
