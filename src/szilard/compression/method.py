"""What every way of shortening a context is: a frozen dataclass that gives a shorter text, or vectors for a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.compression.text import CompressedText
from szilard.options import Options

if TYPE_CHECKING:
    from szilard.engines.engine import Engine
    from szilard.engines.prepared_context import SoftPrompt

Budget = float | int | None


@dataclass(frozen=True)
class Compressor(Options, ABC):
    """One published technique. Subclasses are frozen dataclasses of hyperparameters; none holds mutable state."""

    slug: ClassVar[str]
    family: ClassVar[str] = "compression"
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[str]  # "text" or "soft prompt"

    @classmethod
    @abstractmethod
    def neutral(cls) -> Compressor:
        """The setting that leaves the context as it is."""

    def check(self, engine: Engine | None = None) -> None:
        """Refuse, before any work, a setting that lacks what it needs to run.

        Raises:
            ValueError: a checkpoint is missing, or does not fit the engine.
        """


@dataclass(frozen=True)
class TextCompressor(Compressor):
    """Gives a shorter text, which every model can read."""

    gives: ClassVar[str] = "text"

    @abstractmethod
    def compress(
        self, contexts: Sequence[str], budget: Budget = None, *, engine: Engine | None = None
    ) -> list[CompressedText]:
        """Shorten each context by itself.

        Args:
            contexts: texts.
            budget: a share of the tokens in (0, 1], a number of tokens (a whole number above 1), or None: the method's
                own default.
            engine: the model whose tokens count, and which scores where the method needs a language model; None: the
                method counts its own tokens.

        Raises:
            ValueError: an empty text, or a budget out of range.
        """


@dataclass(frozen=True)
class SoftCompressor(Compressor):
    """Gives vectors in the place of token embeddings, for one decoder."""

    gives: ClassVar[str] = "soft prompt"
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings_in"})

    @abstractmethod
    def compress(self, contexts: Sequence[Any], budget: Budget = None, *, engine: Engine) -> list[SoftPrompt]:
        """Compress each context for the model of an engine.

        Args:
            contexts: texts, or token ids (int64 [length]) of the engine's tokenizer.
            budget: a share of the context's positions in (0, 1], a number of positions (a whole number above 1), or
                None: what the checkpoint was trained for.
            engine: the decoder, on transformers.

        Raises:
            ValueError: an empty context, a budget that the method cannot meet, a checkpoint of another model.
        """


def check_budget(budget: Any) -> None:
    """Refuse what is neither a share in (0, 1] nor a whole number of tokens of at least 1.

    Raises:
        TypeError, ValueError: in a sentence.
    """
    allowed = "a share of the tokens in (0, 1], or a whole number of tokens above 1"
    if budget is None:
        return
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise TypeError(f"budget must be {allowed}, not {budget!r}.")
    if not budget > 0 or (isinstance(budget, float) and not budget <= 1):
        raise ValueError(f"budget must be {allowed}, not {budget!r}.")


def tokens_of_budget(budget: Budget, original: int) -> int:
    """A budget in tokens, for a context of so many: at least 1; a share is rounded down, 1 is all of it.

    Raises:
        ValueError: more tokens than the context has.
    """
    check_budget(budget)
    assert budget is not None
    if isinstance(budget, int) and budget > 1:
        if budget > original:
            raise ValueError(
                f"a budget of {budget} tokens is larger than the context, which has {original}: give a smaller one, or "
                "use the context as it is."
            )
        return budget
    return max(1, int(budget * original + 1e-9))
