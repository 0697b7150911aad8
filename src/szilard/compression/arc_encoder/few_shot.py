"""What ARC-Encoder is fine-tuned on: few-shot prompts of which every document is compressed.

ARC-Encoder (Pilchen, Grave, Perez 2025, arXiv 2510.20535): five examples of the same subset, then the question; the
loss is that of the last answer.

    Document: <z>
    Question: q
    Answer: a

    Document: <z> ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from szilard.compression.arc_encoder.config import ArcConfig
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.objective import MARK, ArcObjective
from szilard.compression.passages import Question
from szilard.compression.teacher_forcing import Forced, Measured, teacher_forced
from szilard.engines.engine import Engine
from szilard.records import read_objects
from szilard.training.hidden_states import Stretches

_DOCUMENT, _QUESTION, _ANSWER, _BETWEEN = "Document: ", "\nQuestion: ", "\nAnswer:", "\n\n"
Part = str | int  # a text, or the number of a document


class Questions(Stretches):
    """Questions by number, each {"question" int64 []}.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self.texts = list(range(count))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"question": torch.tensor(index)}

    @staticmethod
    def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """{"question": int64 [batch]}."""
        return {"question": torch.stack([item["question"] for item in items])}


def read_subsets(file: Path, count: int) -> list[str]:
    """The "subset" of each record, from which its examples are taken; records without one share one."""
    return [
        str(record.get("subset", "")) if isinstance(record, dict) else ""
        for record, _ in zip(read_objects(file), range(count), strict=False)
    ]


class FewShotObjective(ArcObjective):
    """Cross-entropy of the last answer: {"loss" (nats per token), "right" (share of the tokens)}.

    Args:
        arc, engines, config: see `ArcObjective`.
        questions: all of them.
        subsets: of each.
        pool: numbers of those that may be examples.
    """

    def __init__(
        self,
        arc: ArcModel,
        engines: Mapping[str, Engine],
        config: ArcConfig,
        questions: Sequence[Question],
        subsets: Sequence[str],
        pool: Sequence[int],
    ) -> None:
        super().__init__(arc, engines, config)
        self.questions = questions
        # (inferred) several passages of a question are joined by line ends and compressed as one document.
        self.documents = [arc.tokens("\n".join(one.contexts))[: config.window] for one in questions]
        self.pools = {name: [i for i in pool if subsets[i] == name] for name in dict.fromkeys(subsets)}
        self.subsets = subsets
        self.wraps = {name: self.around(name, MARK) for name in self.engines} if config.instruct else {}

    def forward(self, question: Tensor) -> dict[str, Tensor]:
        """One batch, int64 [batch]."""
        generator = self.draws()
        name = self.decoder_of_step(generator)
        if self.training:
            self.done += 1
        found = self.forced([self.shots(int(one), generator) for one in question], name)
        return {"loss": found.loss, "right": found.right}

    def shots(self, question: int, generator: torch.Generator) -> list[int]:
        """Numbers of the examples of a question, drawn from its subset, and its own, last."""
        pool = [other for other in self.pools[self.subsets[question]] if other != question]
        order = torch.randperm(len(pool), generator=generator)[: self.settings.shots].tolist()
        return [*(pool[place] for place in order), question]

    def parts(self, shots: Sequence[int]) -> list[Part]:
        """A prompt up to its last answer: texts, and numbers of documents."""
        found: list[Part] = []
        between = ""
        for number in shots:
            one = self.questions[number]
            found += [between + _DOCUMENT, number, f"{_QUESTION}{one.prompt}{_ANSWER}"]
            between = f" {one.answer}{_BETWEEN}"
        return found

    def forced(self, rows: Sequence[Sequence[int]], name: str, documents: str = "vectors") -> Forced:
        """The loss of the last answers.

        Args:
            rows: per prompt its questions, the last one's answer counts.
            name: of the decoder.
            documents: "vectors", "tokens" (as they are), or "none" (left out).
        """
        engine: Any = self.engines[name]
        encode = engine.tokenizer.encode
        numbers = list(dict.fromkeys(number for row in rows for number in row))
        if documents == "vectors":
            made = dict(zip(numbers, self.vectors([self.documents[n] for n in numbers], name), strict=True))
        else:
            made = {number: self.embedded(name, self._tokens(number, name, documents)) for number in numbers}
        head, tail = self.wraps.get(name, (self.begins[name], []))
        device = engine.model.device
        before, targets = [], []
        end = engine.tokenizer.eos_token_id
        for row in rows:
            parts = [self.embedded(name, head)]
            for part in _merged(self.parts(row)):
                if isinstance(part, int):
                    parts.append(made[part].to(parts[0].dtype))
                else:
                    parts.append(self.embedded(name, encode(part, add_special_tokens=False)))
            before.append(torch.cat([*parts, self.embedded(name, tail)]))
            # (inferred) the answer is closed by the end token: it is what tells the model to stop.
            answer = encode(f" {self.questions[row[-1]].answer}", add_special_tokens=False)
            targets.append(torch.tensor([*answer, *([] if end is None else [end])], device=device))
        return teacher_forced(engine.model, before, targets, first=True)

    def _tokens(self, number: int, name: str, documents: str) -> list[int]:
        """A document in a decoder's tokens, as far as the encoder reads it; nothing where documents are left out."""
        if documents == "none":
            return []
        text = self.arc.tokenizer.decode(self.documents[number])
        return list(self.engines[name].tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def measure(self, data: Any, *, most: int = 512) -> dict[str, float]:
        """On held-out questions, per decoder, nats per token of the answer.

        Returns:
            "nll" (documents as vectors), "nll_without" (left out), "nll_full" (as they are), and "right": the share of
            the tokens that are the likeliest, documents as vectors. With several decoders the names end in theirs.
        """
        self.eval()
        generator = torch.Generator().manual_seed(0)
        rows = [self.shots(int(data[index]["question"]), generator) for index in range(min(len(data), most))]
        found: dict[str, float] = {}
        size = self.settings.batch_size
        for name in self.engines:
            ending = f"_{name}" if len(self.engines) > 1 else ""
            behind = Measured()
            for arm, documents in (("nll", "vectors"), ("nll_without", "none"), ("nll_full", "tokens")):
                for start in range(0, len(rows), size):
                    behind.add(arm, self.forced(rows[start : start + size], name, documents))
                found[arm + ending] = behind.nats(arm)
            found["right" + ending] = behind.right("nll")
        return found


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Texts that stand next to one another as one, since each is tokenised by itself."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found
