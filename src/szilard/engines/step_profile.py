"""What a forward over n tokens costs on this machine, measured once per model: `szilard doctor --profile`.

Reading n tokens at once is nearly free where a step waits for memory, and costs almost n steps where it waits for
arithmetic, as quantised models on few cores do. Whoever drafts tokens needs to know which.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from szilard.decoding.state import DecodingState
from szilard.engines.cache import cache_folder

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class StepProfile:
    """Seconds of a forward by the number of new tokens in it.

    Attributes:
        model: its name.
        tokens: new tokens over all rows, rising.
        seconds: of a forward over so many, medians.
    """

    model: str
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 or len(self.tokens) != len(self.seconds):
            raise ValueError("a profile needs at least two sizes, and seconds for each.")

    def __call__(self, tokens: float) -> float:
        """Seconds of a forward over `tokens`, between two measured sizes on the straight line through them."""
        last = len(self.tokens) - 2
        place = next((index for index in range(last) if tokens <= self.tokens[index + 1]), last)
        low, high = self.tokens[place], self.tokens[place + 1]
        share = (tokens - low) / (high - low)
        return self.seconds[place] + share * (self.seconds[place + 1] - self.seconds[place])

    def save(self, state: DecodingState) -> Path:
        """Keep it for runs of this model on this machine; the file."""
        file = _file(state)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".tmp")
        scratch.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")
        os.replace(scratch, file)
        return file


def measure(
    engine: Engine,
    *,
    sizes: Sequence[int] = SIZES,
    context: int = 256,
    repeats: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> StepProfile:
    """Time forwards of an engine behind a text of `context` tokens, and keep the result in the cache folder.

    Args:
        sizes: numbers of new tokens, rising, from 1.
        repeats: forwards per size, of which the median counts; sizes take turns.
        progress: called with (forwards done, forwards).
    """
    window = engine.context_window
    context = min(context, (window or 2**31) - max(sizes) - 1)
    if context < 1 or len(sizes) < 2:
        raise ValueError(f"{engine.name} has a context of {window}: profile at least two sizes that fit into it.")
    ids = torch.arange(context) % (engine.vocab_size - 1) + 1
    state = engine.state([ids], max_new_tokens=max(sizes), trace=False)
    state.prefill()
    length = state.cached.clone()
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(repeats + 1):  # the first warms up
        for place, size in enumerate(sizes):
            tokens = (torch.arange(size, device=state.device) % (engine.vocab_size - 1) + 1)[None]
            _wait(state)
            start = time.perf_counter()
            state.feed(tokens, rewindable=True)
            _wait(state)
            if turn:
                found[size].append(time.perf_counter() - start)
            state.rewind(length)
            if progress is not None:
                progress(turn * len(sizes) + place + 1, (repeats + 1) * len(sizes))
    seconds = [statistics.median(found[size]) for size in sizes]
    rising = [max(seconds[: place + 1]) for place in range(len(seconds))]  # noise must not make more work cheaper
    profile = StepProfile(engine.name, tuple(sizes), tuple(rising))
    profile.save(state)
    state.close()
    return profile


def find(state: DecodingState) -> StepProfile | None:
    """The profile of this state's model on this machine, if it was measured."""
    file = _file(state)
    return _read(file, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=16)
def _read(file: Path, written: int) -> StepProfile | None:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return StepProfile(values["model"], tuple(values["tokens"]), tuple(values["seconds"]))
    except (ValueError, KeyError, TypeError):
        return None  # a damaged cache file is no profile


def _file(state: DecodingState) -> Path:
    size = dataclasses.replace(state.size, name="")  # one model has several names: its own, "draft", ...
    kept = [*map(str, dataclasses.astuple(size)), type(state).__name__, str(state.device)]
    model = getattr(state, "model", None)
    kept += [str(getattr(model, name, "")) for name in ("dtype", "threads")]
    kept += [platform.machine(), platform.processor(), str(os.cpu_count()), str(torch.get_num_threads())]
    return cache_folder() / "profiles" / f"{hashlib.sha256(' '.join(kept).encode()).hexdigest()[:16]}.json"


def _wait(state: DecodingState) -> None:
    if state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
