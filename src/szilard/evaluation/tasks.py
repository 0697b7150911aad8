"""Tasks: items with a prompt, and a rule that scores what a model made of it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.options import nearest
from szilard.records import read_records

if TYPE_CHECKING:
    from szilard.evaluation.likelihood import Likelihood

# slug: (module, class)
_TASKS = {
    "humaneval": ("szilard.evaluation.code_tasks", "HumanEval"),
    "mbpp": ("szilard.evaluation.code_tasks", "Mbpp"),
    "gsm8k": ("szilard.evaluation.gsm8k", "Gsm8k"),
    "spec-bench": ("szilard.evaluation.spec_bench", "SpecBench"),
    "truthfulqa-mc": ("szilard.evaluation.truthfulqa", "TruthfulQaChoices"),
    "truthfulqa-gen": ("szilard.evaluation.truthfulqa", "TruthfulQaGeneration"),
}
_GROUPS: dict[str, tuple[str, ...]] = {"truthfulqa": ("truthfulqa-mc", "truthfulqa-gen")}
_PARALLELBENCH = {  # group: the classes of its tasks
    "lists": "Copy Reverse Sort Shuffle InsertIndex InsertRandom RemoveIndex RemoveRandom ReplaceIndex ReplaceRandom",
    "puzzles": "LatinSquare Sudoku",
    "texts": "Summarization Paraphrasing W2sEasy W2sMedium W2sHard",
}


def _slug(name: str) -> str:
    """The slug of a class: "ReplaceRandom" -> "parallelbench-replace-random"."""
    return "parallelbench" + re.sub("(?=[A-Z])", "-", name).lower()


_MADE = {group: tuple(map(_slug, names.split())) for group, names in _PARALLELBENCH.items()}
_TASKS |= {
    _slug(name): ("szilard.evaluation.parallelbench.evaluation_tasks", name)
    for names in _PARALLELBENCH.values()
    for name in names.split()
}
_GROUPS |= {f"parallelbench-{group}": slugs for group, slugs in _MADE.items()}
_GROUPS["parallelbench"] = tuple(slug for slugs in _MADE.values() for slug in slugs)


@dataclass(frozen=True)
class Item:
    """One question of a task.

    Attributes:
        id: stable name, unique in the task.
        prompt: text, or a chat.
        reference: what scoring needs; plain JSON values.
        raw: continue the prompt as it is, without a chat template.
        stop: texts at which the answer ends.
    """

    id: str
    prompt: Any
    reference: Any
    raw: bool = False
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task(ABC):
    """A set of items. Subclasses are frozen dataclasses of the task's options, and a `TextTask` or a `ChoiceTask`."""

    slug: ClassVar[str]
    paper: ClassVar[str]
    metric: ClassVar[str]  # what "score" is
    max_new_tokens: ClassVar[int]
    executes_code: ClassVar[bool] = False
    harmless: ClassVar[frozenset[str]] = frozenset()  # options that change no result
    hub: ClassVar[tuple[str, str]]  # dataset id on the hub, and the file in it

    @abstractmethod
    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        """The item of one record of the file; None: not in the chosen split.

        Raises:
            KeyError: the record lacks a field; ValueError: it cannot be asked or scored.
        """

    def check(self) -> None:  # noqa: B027 - most tasks need nothing
        """Refuse, before any work, what cannot be scored here.

        Raises:
            ValueError: a package is missing.
        """

    def settings(self) -> dict[str, Any]:
        """The options that change an answer or its score; plain JSON values."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self.harmless}

    def items(self, data: str | Path | None = None) -> list[Item]:
        """All items, from a local file (.jsonl, .jsonl.gz, .json, .csv, .parquet) or, without one, from the hub.

        Raises:
            ValueError: no such file, or one that does not hold this task.
        """
        path = Path(data) if data is not None else self._from_hub()
        if not path.is_file():
            raise ValueError(f"there is no data file {str(path)!r} for the task '{self.slug}'.")
        found = []
        for number, record in enumerate(read_records(path)):
            try:
                item = self.item(record, number)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                where = f"{str(path)!r}, record {number + 1}, is no item of '{self.slug}'"
                raise ValueError(f"{where}: {_reason(record, error)}") from None
            if item is not None:
                found.append(item)
        if not found:
            raise ValueError(f"{str(path)!r} holds no item of '{self.slug}' in the chosen split.")
        return found

    def source(self) -> tuple[str, str]:
        """Where the items are on the hub: dataset id and file."""
        return self.hub

    def _from_hub(self) -> Path:
        from huggingface_hub import hf_hub_download

        dataset, name = self.source()
        try:
            return Path(hf_hub_download(dataset, name, repo_type="dataset"))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"the task '{self.slug}' cannot be fetched from the hub ({dataset}): {reason} Give a local file with "
                f"--data {self.slug}=FILE."
            ) from None


class TextTask(Task):
    """A task whose score is that of what a model writes."""

    @abstractmethod
    def score(self, item: Item, text: str) -> dict[str, float]:
        """Metrics of an answer; "score", 0..1, is the main one."""


class ChoiceTask(Task):
    """A task whose score is that of the likelihoods of given texts."""

    @abstractmethod
    def choices(self, item: Item) -> list[str]:
        """The texts whose likelihoods are asked for."""

    @abstractmethod
    def score_choices(self, item: Item, likelihoods: Sequence[Likelihood]) -> dict[str, float]:
        """Metrics from the likelihoods of the choices, in their order."""


def _reason(record: Any, error: Exception) -> str:
    """Why a record is no item, in words."""
    if not isinstance(record, dict):
        return "it is no object."
    if isinstance(error, KeyError):
        return f"the field {error} is missing."
    return str(error) if isinstance(error, ValueError) else "a field has another type."


def task_names() -> tuple[str, ...]:
    """Slugs of all tasks."""
    return tuple(_TASKS)


def tasks_of(name: str) -> tuple[str, ...]:
    """The slugs that a name stands for: its own, or those of a group ("truthfulqa")."""
    key = name.strip().lower().replace("_", "-")
    return _GROUPS.get(key, (key,))


def make_task(slug: str, options: Mapping[str, Any] | None = None) -> Task:
    """A task by its slug.

    Raises:
        ValueError: unknown task or option; the nearest is suggested.
    """
    key = slug.strip().lower().replace("_", "-")
    if key not in _TASKS:
        raise ValueError(f"there is no task {slug!r}{nearest(key, _TASKS)} Tasks: {', '.join(_TASKS)}.")
    module, name = _TASKS[key]
    cls = getattr(import_module(module), name)
    names = [field.name for field in fields(cls)]
    for option in options or {}:
        if option not in names:
            raise ValueError(f"the task '{key}' has no option {option!r}{nearest(option, names)}")
    return cls(**(options or {}))
