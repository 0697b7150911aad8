"""Which model to load, and how, said in one process and done in others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from szilard.engines.engine import Engine
from szilard.engines.loading import find, load


@dataclass(frozen=True)
class EngineChoice:
    """The arguments of `szilard.load`; every process that gets it loads weights of its own.

    Attributes:
        model, engine, device, dtype, compile, quantize: as in `szilard.load`.
    """

    model: str | None = None
    engine: str = "auto"
    device: str | None = None
    dtype: str = "auto"
    compile: bool = False
    quantize: str | None = None

    def check(self) -> None:
        """Refuse a model that is not there.

        Raises:
            ValueError: it is neither a folder, a file nor a name that can be one.
        """
        find(self.model)

    def load(self) -> Engine:
        """The engine; one per process, however often it is asked for."""
        return _loaded(self)


@cache
def _loaded(choice: EngineChoice) -> Engine:
    from transformers.utils import logging

    logging.disable_progress_bar()
    return load(
        choice.model,
        engine=choice.engine,
        device=choice.device,
        dtype=choice.dtype,
        compile=choice.compile,
        quantize=choice.quantize,
    )
