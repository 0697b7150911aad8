"""One prompt's answer, piece by piece, while a thread generates it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from szilard.decoding.stopping import StopWhen
from szilard.engines.prompts import Prompt, as_batch

if TYPE_CHECKING:
    from szilard.decoding.method import Method
    from szilard.engines.engine import Engine


def streamed(
    engine: Engine,
    prompt: Prompt,
    method: str | type[Method] | Method | None,
    options: dict[str, Any],
    streamer: Any,
    pieces: queue.Queue[Any],
) -> Iterator[Any]:
    """See `Engine.stream`; its errors come with the first piece.

    Args:
        engine, prompt, method, options: as `Engine.generate` takes them.
        streamer: told by the run what happens.
        pieces: into which the streamer puts what is to be yielded, and at an end of its own None.
    """
    if not as_batch(prompt)[1]:
        raise ValueError("stream takes one prompt; use generate for a batch.")
    if "streamer" in options:
        raise ValueError("stream has a streamer of its own; use generate to pass one.")
    given_up = threading.Event()
    criteria = [*(options.pop("stopping_criteria", None) or []), StopWhen(given_up)]
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = engine.generate(
                prompt, method, streamer=streamer, stopping_criteria=criteria, **options
            )
        except BaseException as error:  # handed to the consumer
            outcome["error"] = error
        finally:
            pieces.put(None)

    thread = threading.Thread(target=work, name="szilard-stream", daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            yield piece
    finally:
        given_up.set()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
