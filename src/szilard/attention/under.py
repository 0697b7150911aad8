"""A decoding method under a cache or attention method: one object that goes wherever a method goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.attention.method import AttentionMethod
from szilard.decoding.method import Method, Shaping
from szilard.decoding.state import DecodingState
from szilard.diffusion.cache import CanvasCache

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


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
    attention: AttentionMethod | CanvasCache

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
        from szilard.decoding.greedy import Greedy

        return Greedy.neutral()

    def check(self, engine: Engine | None = None) -> None:
        """Refuse what either of them refuses."""
        self.method.check(engine)
        model = getattr(engine, "model", None)
        if (
            model is not None
            and isinstance(self.attention, AttentionMethod)
            and "attention" in getattr(engine, "provides", ())
        ):
            self.attention.session(model)

    def decode(self, state: DecodingState) -> None:
        if isinstance(self.attention, CanvasCache):
            state.use_cache(self.attention)  # type: ignore[attr-defined]
            self.method.decode(state)
            return
        with self.attention(state.model) as session:  # type: ignore[attr-defined]
            self.method.decode(state)
            state.cost.counters |= session.summary()

    def shaping(self, state: DecodingState) -> Shaping | None:
        return self.method.shaping(state)

    def options(self) -> dict[str, Any]:
        return self.method.options() | _prefixed(self.attention.slug, self.attention.options())

    def changed_options(self) -> dict[str, Any]:
        return self.method.changed_options() | _prefixed(self.attention.slug, self.attention.changed_options())

    def recorded_options(self, engine: Engine) -> dict[str, Any]:
        own = _prefixed(self.attention.slug, self.attention.recorded_options(engine))
        return self.method.recorded_options(engine) | own


def _prefixed(slug: str, options: dict[str, Any]) -> dict[str, Any]:
    return {f"{slug}.{name}": value for name, value in options.items()}
