"""Where compressions come from: a chat model that is asked, a text compressor of the library, or texts that exist."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from szilard.analysis.agentic_mi.prompts import CondensePrompt
from szilard.compression.method import Budget, Compressor, TextCompressor, check_budget
from szilard.decoding.sampling import Sampling
from szilard.engines.engine import Engine
from szilard.options import check_number
from szilard.registry import make_compressor


@dataclass(frozen=True)
class Compression:
    """One text z_ij.

    Attributes:
        context: i.
        sample: j, over samples and seeds.
        text: exactly as it was written.
        tokens: its length under the compressor's tokenizer, without the end of text; None: not known.
        ended: False where the length limit cut it off.
        prompt_tokens: read for it; 0 where no model was asked.
    """

    context: int
    sample: int
    text: str
    tokens: int | None
    ended: bool = True
    prompt_tokens: int = 0


class Source(ABC):
    """What gives the compressions of all contexts, batch by batch; every batch is repeatable by itself.

    Attributes:
        name: for tables.
        samples: texts per context, over all seeds.
        per_seed: texts per context and seed.
        engine: the model that writes, or None.
    """

    name: str
    samples: int
    per_seed: int
    engine: Engine | None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the texts depend on, for JSON."""

    @abstractmethod
    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """The (context, sample) pairs that are written together."""

    @abstractmethod
    def write(self, batch: Sequence[tuple[int, int]]) -> list[Compression]:
        """Their texts."""


@dataclass
class AskedModel(Source):
    """A model that is asked to condense each context."""

    engine: Engine  # type: ignore[assignment]
    contexts: Sequence[str]
    queries: Sequence[str] | None
    prompt: CondensePrompt
    sentences: int
    draws: int
    seeds: Sequence[int]
    temperature: float
    max_new_tokens: int
    batch_size: int

    def __post_init__(self) -> None:
        self.name = Path(self.engine.name).stem if self.engine.name.endswith(".gguf") else Path(self.engine.name).name
        drawn = self.temperature > 0
        self.per_seed, self.samples = (self.draws, self.draws * len(self.seeds)) if drawn else (1, 1)
        self._asked = [
            self.prompt.fill(
                context,
                None if self.queries is None else self.queries[number],
                self.sentences,
                chat=self.engine.has_chat_template,
            )
            for number, context in enumerate(self.contexts)
        ]
        self.engine.check_length(self.engine.encode(self._asked), self.max_new_tokens)

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "model",
            "model": self.engine.fingerprint,
            "prompt": asdict(self.prompt),
            "sentences": self.sentences,
            "samples": self.draws,
            "seeds": list(self.seeds),
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
        }

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        for sample in range(self.samples):
            for start in range(0, len(self.contexts), self.batch_size):
                yield [(i, sample) for i in range(start, min(start + self.batch_size, len(self.contexts)))]

    def write(self, batch: Sequence[tuple[int, int]]) -> list[Compression]:
        seed, draw = self.seeds[batch[0][1] // self.draws], batch[0][1] % self.draws
        stream = hashlib.sha256(f"{seed}/{draw}/{batch[0][0]}".encode()).digest()
        options: dict[str, Any] = {}
        if self.temperature > 0:  # the model's own top-k and top-p are left out: z is drawn from p(z|x) itself
            options = {"method": Sampling(temperature=self.temperature), "seed": int.from_bytes(stream[:6], "big")}
        asked = [self._asked[context] for context, _ in batch]
        results = self.engine.generate(asked, max_new_tokens=self.max_new_tokens, trace=False, **options)
        found = []
        for (context, sample), result in zip(batch, results, strict=True):
            ended = result.finish_reason == "stop"
            length = len(result.tokens) - ended  # the end of text is no token of z
            found.append(Compression(context, sample, result.text, length, ended, result.prompt_tokens))
        return found


@dataclass
class TextMethod(Source):
    """A text compressor of the library at a budget; one with a `seed` gives another text for every sample."""

    method: TextCompressor
    contexts: Sequence[str]
    budget: Budget
    counter: Engine | None
    draws: int
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        check_budget(self.budget)
        self.engine = None
        self.method.check(self.counter)
        self.stochastic = any(field.name == "seed" for field in dataclasses.fields(self.method))
        self.per_seed, self.samples = (self.draws, self.draws * len(self.seeds)) if self.stochastic else (1, 1)
        self.name = self.method.slug if self.budget is None else f"{self.method.slug} {self.budget:g}"

    def facts(self) -> dict[str, Any]:
        options: dict[str, Any] = self.method.recorded_options(self.counter)  # type: ignore[arg-type]
        named = {name: _named(value) for name, value in sorted(options.items())}
        return {
            "kind": "text compressor",
            "method": [self.method.slug, named],
            "budget": self.budget,
            "counter": None if self.counter is None else self.counter.fingerprint,
            "samples": self.draws,
            "seeds": list(self.seeds),
        }

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        for sample in range(self.samples):
            yield [(context, sample) for context in range(len(self.contexts))]

    def write(self, batch: Sequence[tuple[int, int]]) -> list[Compression]:
        method = self.method
        if self.stochastic:
            seed, draw = self.seeds[batch[0][1] // self.draws], batch[0][1] % self.draws
            own: Any = {"seed": seed * self.draws + draw}
            method = dataclasses.replace(method, **own)
        texts = method.compress([self.contexts[context] for context, _ in batch], self.budget, engine=self.counter)
        return [
            Compression(context, sample, found.text, found.compressed_tokens)
            for (context, sample), found in zip(batch, texts, strict=True)
        ]


def _named(value: Any) -> str:
    """An option by what it is, and not by where it lies in memory: a stopped run goes on in another process."""
    if isinstance(value, Engine):
        return str(value.fingerprint)
    if callable(value) or type(value).__repr__ is object.__repr__:
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return repr(value)


@dataclass
class GivenTexts(Source):
    """Texts that somebody else has written, as many for each context."""

    texts: Sequence[Sequence[str]]
    name: str = "given texts"

    def __post_init__(self) -> None:
        self.engine = None
        self.samples = self.per_seed = len(self.texts[0])

    def facts(self) -> dict[str, Any]:
        return {"kind": "texts", "texts": digest(text for texts in self.texts for text in texts)}

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        yield [(context, sample) for context in range(len(self.texts)) for sample in range(self.samples)]

    def write(self, batch: Sequence[tuple[int, int]]) -> list[Compression]:
        return [Compression(context, sample, self.texts[context][sample], None) for context, sample in batch]


def source_of(compressor: Any, contexts: Sequence[str], settings: Mapping[str, Any]) -> Source:
    """What `agentic_mi` was given as its compressor, ready to write.

    Args:
        compressor: an engine; a text compressor's name, class or object; a text, or a list of texts, per context.
        contexts: what is compressed.
        settings: the arguments of `agentic_mi`.

    Raises:
        ValueError, TypeError: none of these, or one that does not fit; in a sentence.
    """
    draws, seeds = settings["samples"], settings["seeds"]
    if isinstance(compressor, Engine):
        if settings["budget"] is not None:
            raise ValueError("budget is for text compressors; a model's length is asked for with sentences=3, 6 or 9.")
        names = ("queries", "prompt", "sentences", "temperature", "max_new_tokens", "batch_size")
        return AskedModel(compressor, contexts, draws=draws, seeds=seeds, **{name: settings[name] for name in names})
    is_method = isinstance(compressor, (str, Compressor))
    if is_method or (isinstance(compressor, type) and issubclass(compressor, Compressor)):
        method = make_compressor(compressor)
        if not isinstance(method, TextCompressor):
            raise ValueError(f"{method.slug} gives vectors, which only its own model can read: take a text compressor.")
        return TextMethod(method, contexts, settings["budget"], settings["counter"], draws, seeds)
    if isinstance(compressor, Sequence):
        rows = [[text] if isinstance(text, str) else list(text) for text in compressor]
        if len(rows) != len(contexts) or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ValueError(
                f"precomputed texts are one, or equally many in a list, for each of {len(contexts)} contexts."
            )
        if not all(isinstance(text, str) for row in rows for text in row):
            raise TypeError("precomputed texts must be text.")
        return GivenTexts(rows)
    raise TypeError(
        "a compressor is an engine (szilard.load(...)), the name or object of a text compressor, or texts; not "
        f"{type(compressor).__name__}."
    )


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """Seeds as a tuple; a single one is fine.

    Raises:
        ValueError, TypeError: none, or not whole numbers from 0.
    """
    found = (seeds,) if isinstance(seeds, int) else tuple(seeds)
    for seed in found:
        check_number("seeds", seed, low=0, high=2**31 - 1, integer=True)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be different whole numbers, at least one, not {seeds!r}.")
    return found


def digest(texts: Any) -> str:
    """A short hash of texts in order."""
    found = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()[:16]
