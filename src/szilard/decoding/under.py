"""A decoding method under a method that acts on the model: one object that goes wherever a method goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.decoding.greedy import Greedy
from szilard.decoding.method import Method, Shaping
from szilard.decoding.state import DecodingState
from szilard.options import Options

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


@dataclass(frozen=True)
class ModelMethod(Options, ABC):
    """One published technique that acts on what a model computes, beside the method that chooses the tokens.

    `AttentionMethod` opens on a decoder, `CanvasCache` on the run of a masked diffusion model.
    """

    slug: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    @property
    def rewinds(self) -> bool:
        """Whether tokens can be taken back from the cache meanwhile, as methods that draft need it."""
        return True

    @classmethod
    @abstractmethod
    def neutral(cls) -> ModelMethod:
        """The setting in which the model computes what it computes without the method."""

    def check(self, engine: Engine | None = None) -> None:
        """Refuse, before any work, an engine whose model does not fit.

        Raises:
            ValueError: in a sentence.
        """

    @abstractmethod
    def around(self, state: Any) -> AbstractContextManager[None]:
        """Act while this is open on the run of a state (`DecodingState`, `DenoisingState`)."""


@dataclass(frozen=True)
class Under(Method):
    """`method` decodes while `attention` is open on the model, from the prompt on.

    What the attention method read and kept stands among the cost's counters. Of a diffusion model, `method` fills the
    canvas and a canvas cache says what is computed.

    Attributes:
        method: chooses the tokens.
        attention: decides what the layers read, keep or run.
    """

    slug: ClassVar[str] = "under"
    family: ClassVar[str] = "attention"
    changes_model: ClassVar[bool] = True

    method: Method
    attention: ModelMethod

    def __post_init__(self) -> None:
        if self.method.changes_model:
            raise ValueError(
                f"'{self.method.slug}' enters the model's forward itself and cannot run under '{self.attention.slug}'."
            )
        if "rewind" in self.method.needs and not self.attention.rewinds:
            raise ValueError(
                f"'{self.method.slug}' takes drafts back, but a cache from which '{self.attention.slug}' evicts while "
                f"generating cannot be rewound: set phase='prefill' of '{self.attention.slug}', or take another method."
            )
        described = {
            "slug": f"{self.method.slug}+{self.attention.slug}",
            "paper": f"{self.method.paper}; {self.attention.paper}",
            "needs": self.method.needs | self.attention.needs,
            "honours_do_sample": self.method.honours_do_sample,
        }
        for name, value in described.items():  # of the pair, in the place of the class's
            object.__setattr__(self, name, value)

    @classmethod
    def neutral(cls) -> Method:
        return Greedy.neutral()

    def check(self, engine: Engine | None = None) -> None:
        """Refuse what either of them refuses."""
        self.method.check(engine)
        self.attention.check(engine)

    def decode(self, state: DecodingState) -> None:
        with self.attention.around(state):
            self.method.decode(state)

    def shaping(self, state: DecodingState) -> Shaping | None:
        return self.method.shaping(state)

    def options(self) -> dict[str, Any]:
        return self.method.options() | _prefixed(self.attention.slug, self.attention.options())

    def changed_options(self) -> dict[str, Any]:
        return self.method.changed_options() | _prefixed(self.attention.slug, self.attention.changed_options())

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        own = _prefixed(self.attention.slug, self.attention.recorded_options(engine))
        return self.method.recorded_options(engine) | own


def decoding_of(method: Method) -> Method:
    """What chooses the tokens, of a pair."""
    return method.method if isinstance(method, Under) else method


def _prefixed(slug: str, options: dict[str, Any]) -> dict[str, Any]:
    return {f"{slug}.{name}": value for name, value in options.items()}
