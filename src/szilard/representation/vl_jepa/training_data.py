"""What VL-JEPA is trained and measured on: generated scenes, or pictures of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from szilard.representation.vl_jepa.config import VLJEPAConfig
from szilard.representation.vl_jepa.evaluation import classification_accuracy, retrieval_recall, vqa_accuracy
from szilard.representation.vl_jepa.objective import Collator
from szilard.representation.vl_jepa.pairs import Pairs, pairs_digest, read_pairs
from szilard.representation.vl_jepa.scenes import Example, SceneExamples, Scenes, SceneTexts, scene_words

GALLERY = 64


class Measured:
    """The data of a training: examples of each stage, what is measured on the way, all words, and a digest."""

    def __init__(
        self,
        captions: Dataset[Example] | None,
        questions: Dataset[Example] | None,
        measure: Any,
        words: list[str],
        digest: str = "scenes",
    ) -> None:
        self.captions, self.questions, self.measure = captions, questions, measure
        self.words, self.digest = words, digest


def scene_data(config: VLJEPAConfig) -> Measured:
    """Generated scenes, and their measures: "classification", "retrieval", "vqa" and its kinds."""
    held_scenes = Scenes(config.held_out, seed=config.seed + 1_000_003, size=config.size)
    single = Scenes(min(config.held_out, 200), seed=config.seed + 2_000_003, objects=(1, 1), size=config.size)
    held = (*held_scenes.scenes, *single.scenes)
    learned = Scenes(config.scenes, seed=config.seed, size=config.size, avoid=held)
    texts = SceneTexts(config.wordings)
    captions = SceneExamples(learned, texts, 4 * config.scenes, stage="captions", seed=config.seed)
    questions = SceneExamples(
        learned, texts, 4 * config.scenes, stage="questions", seed=config.seed, captions=config.caption_share
    )
    gallery = min(GALLERY, config.held_out)

    def measure(objective: nn.Module) -> dict[str, float]:
        model: Any = objective.model
        found = {"classification": classification_accuracy(model, single)}
        found["retrieval"] = retrieval_recall(model, held_scenes, gallery=gallery)
        return found | vqa_accuracy(model, held_scenes)

    return Measured(captions, questions, measure, scene_words())


def pair_data(file: Path, config: VLJEPAConfig) -> Measured:
    """Pictures of one's own; measured are "retrieval", of the right answer among the held-out ones, and "alignment".

    Raises:
        ValueError: unusable records, or too few.
    """
    records = read_pairs(file)
    if len(records) <= config.held_out + 1:
        raise ValueError(
            f"{str(file)!r} holds {len(records)} records, of which {config.held_out} are held out: give more, or lower "
            "held_out."
        )
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.seed)).tolist()
    kept, learned = order[: config.held_out], order[config.held_out :]

    captioned = [records[index] for index in learned if not records[index].query]
    asked = [records[index] for index in learned if records[index].query]
    share = config.caption_share
    mixed = asked + captioned[: int(len(asked) * share / (1 - share) + 1e-9)]  # so that captions are not forgotten

    measured_on = Pairs([records[index] for index in kept], config.size)

    def measure(objective: nn.Module) -> dict[str, float]:
        model: Any = objective.model
        batch = Collator(model)([measured_on[index] for index in range(len(measured_on))])
        predicted = model.predict(batch["pixels"], batch.get("query_ids"), batch.get("query_mask"))
        target = model.encode_text(batch["answer_ids"], batch["answer_mask"])
        best = batch["groups"][(predicted @ target.T).argmax(1).cpu()]
        found = {"retrieval": float((best == batch["groups"]).double().mean())}
        return found | {"alignment": float((predicted - target).square().sum(-1).mean())}

    words = sorted({word for record in records for word in f"{record.query} {record.answer}".lower().split()})
    captions, questions = (Pairs(own, config.size) if own else None for own in (captioned, mixed))
    return Measured(captions, questions, measure, words, pairs_digest(records))


class Both(Dataset[Example]):
    """Data sets in turn; a shorter one comes round again."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return max(map(len, self.parts)) * len(self.parts)

    def __getitem__(self, index: int) -> Example:
        row, part = divmod(index, len(self.parts))
        return self.parts[part][row % len(self.parts[part])]
