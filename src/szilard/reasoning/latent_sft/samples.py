"""Problems with chains and answers as slots: what the encoder reads, what the decoder reads, and what stage 2 reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from szilard.reasoning.examples import IGNORED, Reasoning, chain_ids, delimiter_ids, prompt_ids
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.masks import ANSWER, LATENT, PADDING, PREFIX, TEXT, chunks
from szilard.training.loop import Batch


@dataclass(frozen=True)
class Sample:
    """One problem in token ids.

    Attributes:
        prefix: the question in its template, and what begins the chain.
        chain: C, without delimiters.
        close: what ends the chain, `</think>`.
        answer: the answer and the end of sequence.
    """

    prefix: tuple[int, ...]
    chain: tuple[int, ...]
    close: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def after(self) -> list[int]:
        """What the chain is followed by."""
        return [*self.close, *self.answer]


def as_samples(data: Sequence[Reasoning], tokenizer: Any, config: LatentSFTConfig) -> list[Sample]:
    """Every problem in the tokenizer's ids.

    Raises:
        ValueError: no end-of-sequence token, a delimiter that the tokenizer does not know, or one inside a chain.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, so no answer would ever end: set its eos_token.")
    opened = delimiter_ids(tokenizer, config.think_open, "think_open")
    closed = delimiter_ids(tokenizer, config.think_close, "think_close")
    found = []
    for one in data:
        chain = chain_ids(tokenizer, one.cot, think_open=config.think_open, think_close=config.think_close)
        answer = tokenizer.encode(one.answer, add_special_tokens=False)
        prefix = prompt_ids(tokenizer, one.problem, config.instruction)
        found.append(Sample((*prefix, *opened), tuple(chain), tuple(closed), (*answer, tokenizer.eos_token_id)))
    return found


def samples_digest(samples: Sequence[Sample]) -> str:
    """A hash of the problems in their ids."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(repr(sample).encode())
    return found.hexdigest()[:16]


def encoder_slots(sample: Sample, rate: int) -> dict[str, list[int]]:
    """ "ids" (0 at latent tokens) and "role" of Q <think> S_1 L_1 ... S_N L_N </think>."""
    ids, role = list(sample.prefix), [PREFIX] * len(sample.prefix)
    for chunk in chunks(sample.chain, rate):
        ids += [*chunk, 0]
        role += [TEXT] * len(chunk) + [LATENT]
    return {"ids": [*ids, *sample.close], "role": role + [ANSWER] * len(sample.close)}


def decoder_slots(sample: Sample, rate: int) -> dict[str, list[int]]:
    """ "ids", "role", "chunk" and "labels" of Q <think> z_1 S_2 z_2 ... S_N z_N </think> answer."""
    ids, role = list(sample.prefix), [PREFIX] * len(sample.prefix)
    chunk, labels = [0] * len(ids), [IGNORED] * len(ids)
    cut = chunks(sample.chain, rate)
    for number, text in enumerate([*cut[1:], []][: len(cut)], start=1):
        ids += [0, *text]
        role += [LATENT] + [TEXT] * len(text)
        chunk += [number] * (1 + len(text))
        labels += [IGNORED, *text]
    answer = sample.after
    return {
        "ids": ids + answer,
        "role": role + [ANSWER] * len(answer),
        "chunk": chunk + [len(cut)] * len(answer),
        "labels": labels + answer,
    }


_FILL = {"role": PADDING, "labels": IGNORED}


def padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Slots of several samples as int64 [batch, slots] each, padded on the right."""
    longest = max(len(row["ids"]) for row in rows)
    return {
        name: torch.tensor([row[name] + [_FILL.get(name, 0)] * (longest - len(row[name])) for row in rows])
        for name in rows[0]
    }


class Stage1Data(Dataset[Sample]):
    """Problems for the encoder and the decoder."""

    def __init__(self, samples: Sequence[Sample], rate: int) -> None:
        self.samples, self.rate = samples, rate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """ "encoder_ids", "encoder_role"; "ids", "role", "chunk", "labels" of the decoder."""
        read = padded([encoder_slots(one, self.rate) for one in samples])
        return {f"encoder_{name}": rows for name, rows in read.items()} | padded(
            [decoder_slots(one, self.rate) for one in samples]
        )


class Stage2Data(Dataset[dict[str, Any]]):
    """Problems with the latent tokens that the encoder made of their chains.

    Args:
        samples: the problems.
        labels: by problem: "probabilities" [N, k], and "tokens" [N, k] or "hidden" [N, d], where there are.
    """

    def __init__(self, samples: Sequence[Sample], labels: Sequence[dict[str, torch.Tensor]]) -> None:
        self.samples, self.labels = samples, labels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"sample": self.samples[index], "label": self.labels[index]}

    @staticmethod
    def collate(rows: Sequence[dict[str, Any]]) -> Batch:
        """ "ids", "role", "labels" of Q <think> z_1 .. z_N </think> answer, and every latent token's label in order."""
        slots = []
        for row in rows:
            sample, latents = row["sample"], len(row["label"]["probabilities"])
            before, answer = [*sample.prefix, *[0] * latents], sample.after
            role = [PREFIX] * len(sample.prefix) + [LATENT] * latents + [ANSWER] * len(answer)
            slots.append({"ids": before + answer, "role": role, "labels": [IGNORED] * len(before) + answer})
        labels = {name: torch.cat([row["label"][name] for row in rows]) for name in rows[0]["label"]}
        return padded(slots) | labels
