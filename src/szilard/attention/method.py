"""What every cache and attention method is: a frozen dataclass that, called with a model, acts while it is open."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from szilard.decoding.under import ModelMethod

if TYPE_CHECKING:
    from szilard.engines.engine import Engine
    from szilard.sessions.session import OpenMethod


@dataclass(frozen=True)
class AttentionMethod(ModelMethod):
    """One published technique that decides what a model's layers read, keep or run.

    `with Method(...)(model) as run: model.generate(...)` leaves the model as it was, after exceptions, too. It composes
    with every decoding method: `engine.generate(prompt, method=..., attention=Method(...))`,
    `szilard.Under(method, attention)`.
    """

    family: ClassVar[str] = "attention"
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    @classmethod
    @abstractmethod
    def neutral(cls) -> AttentionMethod:
        """The setting in which the model computes what it computes without the method."""

    @abstractmethod
    def session(self, model: Any) -> OpenMethod:
        """What acts on the model while the method is open.

        Raises:
            ValueError: the model has no attention of the kind that the method needs, or a setting does not fit it.
        """

    @contextlib.contextmanager
    def __call__(self, model: Any) -> Iterator[OpenMethod]:
        """Open the method on a transformers model.

        Args:
            model: a decoder-only or image-text model of transformers.

        Yields:
            The session: what was read, kept and run so far.

        Raises:
            ValueError: an encoder-decoder model, a model without the attention interface, a setting that does not fit.
        """
        with self.session(model).opened() as session:
            yield session

    def check(self, engine: Engine | None = None) -> None:
        model = getattr(engine, "model", None)
        if model is not None and "attention" in getattr(engine, "provides", ()):
            self.session(model)

    @contextlib.contextmanager
    def around(self, state: Any) -> Iterator[None]:
        """Open on the state's model; what was read and kept goes among the cost's counters."""
        with self(state.model) as session:
            yield
            state.cost.counters |= session.summary()
