"""The seventeen tasks as `szilard evaluate` knows them: made on the spot, no file needed but for two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from szilard.evaluation.parallelbench.generate import make_task
from szilard.evaluation.parallelbench.grammar import check_grammar
from szilard.evaluation.parallelbench.sample import Sample
from szilard.evaluation.parallelbench.scoring import check_composite, score, text_metrics
from szilard.evaluation.parallelbench.texts import check_file, text_sample
from szilard.evaluation.tasks import Item, TextTask
from szilard.options import check_bool, check_choice, check_number


@dataclass(frozen=True)
class ParallelBenchTask(TextTask):
    """A task of the benchmark. `items` makes its samples; a file holds samples as `Sample.to_dict` gives them.

    Attributes:
        style: "chat", or "plain" text without a chat template.
    """

    paper: ClassVar[str] = "Kang et al. 2025, arXiv 2510.04767"
    max_new_tokens: ClassVar[int] = 64
    hub: ClassVar[tuple[str, str]] = ("", "")  # on no hub

    style: str = "chat"

    @property
    def name(self) -> str:
        """The task's name in `TASKS`."""
        return self.slug.removeprefix("parallelbench-").replace("-", "_")

    def __post_init__(self) -> None:
        check_choice("style", self.style, ("chat", "plain"))

    def items(self, data: str | Path | None = None) -> list[Item]:
        """The items: generated, or those of a file of samples."""
        if data is not None:
            return super().items(data)
        return [self._item(sample, number) for number, sample in enumerate(self.samples())]

    def samples(self) -> list[Sample]:
        """The generated samples."""
        raise NotImplementedError

    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        """The item of a sample that was kept in a file."""
        sample = Sample.from_dict(record)
        if sample.task != self.name:
            raise ValueError(f"it is a sample of '{sample.task}'.")
        return self._item(sample, number)

    def _item(self, sample: Sample, number: int) -> Item:
        reference = {"label": sample.label, "metadata": dict(sample.metadata)}
        raw = self.style == "plain" or bool(sample.metadata.get("compact"))
        prompt = sample.prompt if raw else [dict(turn) for turn in sample.messages]
        return Item(f"{self.slug}/{number}", prompt, reference, raw=raw)


@dataclass(frozen=True)
class FormTask(ParallelBenchTask):
    """A list or a puzzle.

    Attributes:
        num_samples: None: the benchmark's.
        n: length of the lists, 2 to 15; None: the benchmark's 3 to 6 (puzzles: 4).
        compact: a handful of words without an example, for small models with one token a word.
    """

    metric: ClassVar[str] = "right, loosely read"

    num_samples: int | None = None
    n: int | None = None
    compact: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("num_samples", self.num_samples, low=1, integer=True, optional=True)
        check_bool("compact", self.compact)
        self.samples()  # refuses a size that the task cannot have

    def samples(self) -> list[Sample]:
        return make_task(self.name, self.n, self.num_samples, compact=self.compact)

    def score(self, item: Item, text: str) -> dict[str, float]:
        """Loose reading as "score", and "strict" beside it."""
        return {
            "score": score(self.name, text, item.reference),
            "strict": score(self.name, text, item.reference, strict=True),
        }


class ListTask(FormTask):
    """A list."""

    max_new_tokens: ClassVar[int] = 32


@dataclass(frozen=True)
class WrittenTask(ParallelBenchTask):
    """A text.

    Attributes:
        grammar: "language-tool" (Java), as published; "offline": a few checks of ours, not comparable.
    """

    metric: ClassVar[str] = "without grammatical faults"

    grammar: str = "language-tool"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("grammar", self.grammar, ("language-tool", "offline"))

    def check(self) -> None:
        """Refuse before any work if LanguageTool is missing."""
        check_grammar(self.grammar)

    def score(self, item: Item, text: str) -> dict[str, float]:
        """Grammar, and what the task asks besides."""
        return text_metrics(self.name, text, item.reference, grammar=self.grammar)


@dataclass(frozen=True)
class SentenceTask(WrittenTask):
    """One sentence with given words.

    Attributes:
        num_samples: None: the benchmark's.
        n: words, 1 to 7.
    """

    metric: ClassVar[str] = "without grammatical faults, and with all words"

    num_samples: int | None = None
    n: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.samples()

    def samples(self) -> list[Sample]:
        return make_task(self.name, self.n, self.num_samples)


@dataclass(frozen=True)
class RewritingTask(WrittenTask):
    """Of a text in a file, which has to be given.

    Attributes:
        composite: the score is the product of grammar and likeness (ROUGE-L; BERTScore and 1 - BLEU), not grammar
            alone.
    """

    composite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bool("composite", self.composite)

    def items(self, data: str | Path | None = None) -> list[Item]:
        """The items of the file."""
        return super().items(check_file(self.name, data))

    def item(self, record: Mapping[str, Any], number: int) -> Item | None:
        """The item of one text."""
        return self._item(text_sample(self.name, record), number)

    def check(self) -> None:
        """Refuse before any work what is missing."""
        super().check()
        if self.composite:
            check_composite(self.name)

    def score(self, item: Item, text: str) -> dict[str, float]:
        """Grammar, and likeness where it is part of the score."""
        return text_metrics(self.name, text, item.reference, grammar=self.grammar, composite=self.composite)


class Copy(ListTask):
    """The list again."""

    slug: ClassVar[str] = "parallelbench-copy"


class Reverse(ListTask):
    """The list, last item first."""

    slug: ClassVar[str] = "parallelbench-reverse"


class Sort(ListTask):
    """The list, by last name (the stored answer: by the whole name)."""

    slug: ClassVar[str] = "parallelbench-sort"


class Shuffle(ListTask):
    """The list in any other order."""

    slug: ClassVar[str] = "parallelbench-shuffle"


class InsertIndex(ListTask):
    """A new item at a given place."""

    slug: ClassVar[str] = "parallelbench-insert-index"


class InsertRandom(ListTask):
    """A new item at any place."""

    slug: ClassVar[str] = "parallelbench-insert-random"


class RemoveIndex(ListTask):
    """Without the item at a given place."""

    slug: ClassVar[str] = "parallelbench-remove-index"


class RemoveRandom(ListTask):
    """Without any one item."""

    slug: ClassVar[str] = "parallelbench-remove-random"


class ReplaceIndex(ListTask):
    """A new item for that at a given place."""

    slug: ClassVar[str] = "parallelbench-replace-index"


class ReplaceRandom(ListTask):
    """A new item for any one."""

    slug: ClassVar[str] = "parallelbench-replace-random"


class LatinSquare(FormTask):
    """A Latin square of given symbols, any."""

    slug: ClassVar[str] = "parallelbench-latin-square"


class Sudoku(FormTask):
    """A 4 x 4 sudoku with four blanks."""

    slug: ClassVar[str] = "parallelbench-sudoku"


class Summarization(RewritingTask):
    """A conversation in one or two sentences (SAMSum)."""

    slug: ClassVar[str] = "parallelbench-summarization"


class Paraphrasing(RewritingTask):
    """A text in other words (chatgpt-paraphrases)."""

    slug: ClassVar[str] = "parallelbench-paraphrasing"


class W2sEasy(SentenceTask):
    """Words of one everyday subject."""

    slug: ClassVar[str] = "parallelbench-w2s-easy"


class W2sMedium(SentenceTask):
    """Words of two subjects."""

    slug: ClassVar[str] = "parallelbench-w2s-medium"


class W2sHard(SentenceTask):
    """Rare words of as many subjects."""

    slug: ClassVar[str] = "parallelbench-w2s-hard"
