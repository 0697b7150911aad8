"""One question of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A question, what is right, and how the answer looks.

    Attributes:
        task: the task's name, as in `TASKS`.
        messages: the chat: a worked example where the task has one, then the question.
        prompt: the same as plain text, which ends where the answer begins.
        label: a right answer: items (list tasks), rows of cells (puzzles), words or a reference text (text tasks).
        answer: the label as a model would write it.
        metadata: what scoring needs besides the label; plain JSON values.
        output_format: the answer with [MASK] for each item, for infilling; None: the task has no such form.
    """

    task: str
    messages: tuple[Mapping[str, str], ...]
    prompt: str
    label: Any
    answer: str
    metadata: Mapping[str, Any]
    output_format: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_dict` makes the same sample."""
        return asdict(self) | {"messages": [dict(turn) for turn in self.messages], "metadata": dict(self.metadata)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Sample:
        """A sample from the values of `to_dict`.

        Raises:
            KeyError: a field is missing.
        """
        names = ("task", "prompt", "label", "answer", "metadata")
        known: dict[str, Any] = {name: record[name] for name in names}
        return cls(messages=tuple(record["messages"]), output_format=record.get("output_format"), **known)


@dataclass(frozen=True)
class Draw:
    """What was drawn for a sample, before it is put in words.

    Attributes:
        question: the request, in words or compact.
        answer: a right answer, as a model would write it.
        label: the same as data.
        metadata: what scoring needs; plain JSON values.
        output_format: as in `Sample`.
    """

    question: str
    answer: str
    label: Any
    metadata: Mapping[str, Any]
    output_format: str | None = None


def as_sample(task: str, drawn: Draw, example: Draw | None, *, compact: bool = False) -> Sample:
    """Put a draw, and the example before it, into a chat and a plain text.

    A compact question is its own prompt, without any example.
    """
    turns = [] if example is None else [(example.question, example.answer)]
    messages = [message for asked, told in turns for message in (_turn("user", asked), _turn("assistant", told))]
    plain = "".join(f"{_cued(asked)}{told}\n\n" for asked, told in turns) + _cued(drawn.question)
    return Sample(
        task=task,
        messages=(*messages, _turn("user", drawn.question)),
        prompt=drawn.question if compact else plain,
        label=drawn.label,
        answer=drawn.answer,
        metadata=drawn.metadata,
        output_format=drawn.output_format,
    )


def _cued(question: str) -> str:
    """A question whose end asks for the answer."""
    return f"{question}\n" if question.endswith(":") else f"{question}\nAnswer:\n"


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
