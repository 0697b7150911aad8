"""One prompt's text, piece by piece, while a thread generates it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import TextIteratorStreamer

from szilard.decoding.stopping import StopWhen
from szilard.engines.prompts import Prompt, as_batch
from szilard.registry import make_method

if TYPE_CHECKING:
    from szilard.decoding.method import Method
    from szilard.engines.engine import Engine


def streamed(
    engine: Engine, prompt: Prompt, method: str | type[Method] | Method | None, options: dict[str, Any]
) -> Iterator[str]:
    """See `Engine.stream`; its errors come with the first piece."""
    if method is not None:
        method = make_method(method)
    if not as_batch(prompt)[1]:
        raise ValueError("stream takes one prompt; use generate for a batch.")
    if "streamer" in options:
        raise ValueError("stream has a streamer of its own; use generate to pass one.")
    streamer = TextIteratorStreamer(engine.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=0.1)
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
            outcome["over"] = True

    thread = threading.Thread(target=work, name="szilard-stream", daemon=True)
    thread.start()
    try:
        while True:
            try:
                yield next(streamer)
            except queue.Empty:
                if "over" in outcome and streamer.text_queue.empty():
                    break
            except StopIteration:
                break
    finally:
        given_up.set()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
